"""Base model and adapter as one plain transformers model."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from text2lora.arguments import checked
from text2lora.attach import fit_modules
from text2lora.base import base_source, load_base
from text2lora.cards import merged_card
from text2lora.errors import CheckpointError, OutputError
from text2lora.files import atomic_folder, check_output
from text2lora.hub import CARD_NAME, MERGED_FILES, Source
from text2lora.turns import keep_ends

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from text2lora.adapter import LoraAdapter

COPIED = ("tokenizer.model", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
"""Files of some bases that model and tokenizer do not save: the vocabulary that llama.cpp's converter reads, and what a
model that also sees needs for its pictures."""


@checked(CheckpointError)
def export_merged(
    adapter: LoraAdapter,
    path: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: str = "5GB",
    force: bool = False,
) -> Path:
    """Merge an adapter into its base model and write the model, its tokenizer and a card, for `AutoModelForCausalLM`.

    Sums are computed in float32 and then cast. This takes the memory of the base model in its own dtype, and of one of
    its matrices in float32.

    Args:
        adapter: the adapter to merge.
        path: a new or empty folder; it appears complete or not at all.
        base: the base model: a folder, a Hub id, `smol` or `nano`; None is the one that the adapter names.
        dtype: the dtype of the file; None keeps the base model's.
        max_shard_size: the largest size of a file of weights, such as `5GB`; in KB, MB, GB or TB.
        force: whether to replace a folder that contains the files of a model and nothing else.

    Raises:
        CheckpointError: the adapter is for another base model, the base model is quantised or cannot be loaded, or a
            weight is too large for float16.
        OutputError: the folder cannot be written or contains something, or `max_shard_size` is not a size.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype is not None and not dtype.is_floating_point:
        raise CheckpointError(f"dtype is {dtype}: expected a floating-point dtype, such as torch.bfloat16")
    target = Path(path)
    if not re.fullmatch(r"[1-9]\d*(\.\d+)?[KMGT]B", max_shard_size):
        raise OutputError(f"max_shard_size is {max_shard_size!r}: expected a size such as 5GB or 500MB")
    check_output(target, MERGED_FILES, "a merged model", force)
    name, revision = adapter.spec.base(base)
    tokenizer = load_base(AutoTokenizer, name, revision)
    model = load_base(AutoModelForCausalLM, name, revision, dtype="auto")
    if getattr(model, "hf_quantizer", None):
        raise CheckpointError(f"the base model {name!r} is quantised: merge into its unquantised original")
    adapter = fit_modules(adapter, model)
    _merge(adapter, model, dtype)
    keep_ends(model, tokenizer)
    with atomic_folder(target, replace=force) as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(folder)
        source = Source.of(base_source(str(name)), revision=revision)
        for file in COPIED:  # most bases have none of them
            if found := source.find(file):
                shutil.copyfile(found, folder / file)
        spec = dataclasses.replace(adapter.spec, base_model_name_or_path=name)
        (folder / CARD_NAME).write_text(merged_card(spec, adapter.metadata), encoding="utf-8")
    return target


@torch.no_grad()
def _merge(adapter: LoraAdapter, model: PreTrainedModel, dtype: torch.dtype | None) -> None:
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    for path, a, b in adapter.pairs():
        module = model.get_submodule(path)
        if module is output and model.config.tie_word_embeddings:
            raise CheckpointError(f"{path} is tied to the embeddings, which a merge would change: it cannot be merged")
        delta = adapter.spec.scaling * b.float().cpu() @ a.float().cpu()
        merged = module.weight.float() + (delta.T if isinstance(module, Conv1D) else delta)
        module.weight.data = merged.to(dtype or module.weight.dtype)
    if dtype:
        model.to(dtype)
    if model.dtype == torch.float16 and not all(weight.isfinite().all() for weight in model.parameters()):
        raise CheckpointError("a weight of this model is too large for float16: choose bfloat16")
