"""An adapter as a GGUF file for llama.cpp, and a Modelfile for Ollama."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from text2lora.arguments import checked
from text2lora.attach import fit_modules
from text2lora.base import load_base
from text2lora.errors import CheckpointError, InvalidArgumentError, MissingExtraError, OutputError
from text2lora.files import atomic_file, write_atomically
from text2lora.installation import install_command
from text2lora.lora import LoraKey
from text2lora.names import is_public, public_name
from text2lora.targets import empty_model

if TYPE_CHECKING:
    import gguf
    from transformers import PreTrainedConfig

    from text2lora.adapter import LoraAdapter

ARCHITECTURES = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "granite": "granite",
    "llama": "llama",
    "mistral": "llama",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
}
"""llama.cpp's name of the models that adapters are exported for, by `model_type`; the tests run each in llama.cpp."""

PERMUTED = ("granite", "llama", "smollm3")
"""Those whose rotary embedding llama.cpp applies to neighbouring features, not to the halves of a head."""

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
"""llama.cpp's names of the types that adapters are written in."""

OF_DTYPE = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

MODELFILE_NOTE = "# Ollama up to 0.34.0 loads adapters; later versions need the GGUF file of a merged model."


@checked(CheckpointError)
def export_gguf(
    adapter: LoraAdapter,
    path: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | PreTrainedConfig | None = None,
    dtype: torch.dtype | str | None = None,
) -> Path:
    """Write an adapter for llama.cpp: `llama-server -m BASE.gguf --lora FILE.gguf`.

    rsLoRA is folded into alpha, and the rows of B for queries and keys are put into llama.cpp's order. The same adapter
    gives the same bytes. Needs the extra `export`.

    Args:
        adapter: the adapter, for a model of one of `ARCHITECTURES`.
        path: the file to write; an existing file is replaced.
        base: the base model: a folder, a Hub id, `smol`, `nano` or a config; None is the one that the adapter names.
            Its weights are not read.
        dtype: float32, float16, bfloat16, or one of `TYPES`; None keeps the adapter's, or is float32 for any other.
            A quantised row is made of blocks of 32 numbers. A factor whose rows are not, as B of rank 8, stays in f16,
            as in llama.cpp's own converter.

    Raises:
        InvalidArgumentError: llama.cpp does not read the dtype.
        CheckpointError: llama.cpp cannot load this adapter, or the base model does not fit or cannot be loaded.
        MissingExtraError: the package `gguf` is not installed.
        OutputError: the file cannot be written.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError(f"GGUF files need the package gguf: {install_command('export')}") from error
    from transformers import AutoConfig

    if base is None or isinstance(base, str | os.PathLike):
        return export_gguf(adapter, path, base=load_base(AutoConfig, *adapter.spec.base(base)), dtype=dtype)
    kind = _type_of(dtype)
    config = base.get_text_config()
    if config.model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"adapters of {config.model_type} models cannot be written for llama.cpp: expected one of "
            f"{', '.join(ARCHITECTURES)}; or merge the adapter with `t2l export merged`"
        )
    adapter = fit_modules(adapter, empty_model(base))
    folded = adapter.folded().to(None, "cpu")
    if kind not in (None, "f32", "bf16"):
        folded.to(torch.float16)  # refuses what is too large for it: quantised blocks have a scale in float16, too
    writer = gguf.GGUFWriter(None, ARCHITECTURES[config.model_type])
    _describe(writer, adapter)
    alpha = torch.tensor(folded.spec.lora_alpha, dtype=torch.float32).item()
    # llama.cpp reads an alpha of 0 as none at all, and then applies B A at full strength
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha or 1.0)
    for name, weight in _tensors(folded, config):
        _add(writer, name, weight if alpha or name.endswith(".lora_a") else torch.zeros_like(weight), kind)
    return _write(writer, Path(path))


def _write(writer: gguf.GGUFWriter, target: Path) -> Path:
    with atomic_file(target) as temporary:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return target


def _type_of(dtype: torch.dtype | str | None) -> str | None:
    """The name that llama.cpp has for a dtype; None for that of each tensor."""
    given = str(dtype).removeprefix("torch.")
    kind = None if dtype is None else OF_DTYPE.get(given, given)
    if kind not in (None, *TYPES):
        raise InvalidArgumentError(
            f"dtype is {dtype}: llama.cpp reads float32, float16 and bfloat16, and the quantised q8_0 and q4_0"
        )
    return kind


@checked(OutputError)
def write_modelfile(path: str | os.PathLike[str], base: str) -> Path:
    """Write `FILE.Modelfile` beside an exported `FILE.gguf`: `ollama create NAME -f FILE.Modelfile`.

    Ollama loads adapters up to version 0.34.0; later versions need a merged model.

    Args:
        path: the GGUF file.
        base: the model that the adapter was made for: an Ollama model, such as `llama3.1:8b-instruct-fp16`, or a GGUF
            file.

    Raises:
        OutputError: the file cannot be written, or a name has characters that a Modelfile cannot contain.
    """
    adapter = Path(path)
    target = adapter.with_suffix(".Modelfile")
    if os.path.isfile(base):  # Ollama looks from the Modelfile
        base = os.path.relpath(base, target.parent)
        base = base if os.path.isabs(base) or base.startswith(".") else f"./{base}"
    for name in (base, adapter.name):
        if not name.strip() or not name.isprintable():
            raise OutputError(f"{name!r} cannot be written into a Modelfile: expected printable characters")
    write_atomically(target, f"{MODELFILE_NOTE}\nFROM {base}\nADAPTER ./{adapter.name}\n")
    return target


def permute_heads(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows [out, ...] of a query or key matrix in llama.cpp's order.

    transformers pairs feature i of a head with feature i + half of it for the rotation; llama.cpp pairs neighbours.
    """
    halves = weight.unflatten(0, (num_heads, 2, -1))  # [heads, 2, half, ...]
    return halves.transpose(1, 2).flatten(0, 2)


def _tensors(adapter: LoraAdapter, config: PreTrainedConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """Every A and B with llama.cpp's name for it."""
    import gguf

    architecture = ARCHITECTURES[config.model_type]
    by_name = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(by_name[architecture], config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key in sorted(adapter.weights):
        path, factor = LoraKey.parse(key)
        # a model that also sees has its text model one floor deeper
        name = names.get_name(path.replace("model.language_model.", "model."))
        if name is None or (path == "lm_head" and config.tie_word_embeddings):
            raise CheckpointError(
                f"llama.cpp has no weight for {path} of a {config.model_type} model: leave this module out of the "
                "adapter, or merge it with `t2l export merged`"
            )
        weight, module = adapter.weights[key], path.rpartition(".")[2]
        if factor == "B" and architecture in PERMUTED and module in heads:
            weight = permute_heads(weight, heads[module])
        yield f"{name}.weight.lora_{factor.lower()}", weight


def _describe(writer: gguf.GGUFWriter, adapter: LoraAdapter) -> None:
    import gguf

    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    description = " ".join(adapter.metadata.get("description", "").split())
    writer.add_name(description[:80] or "LoRA adapter")
    if description:
        writer.add_description(description)
    if base := adapter.spec.base_model_name_or_path:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, public_name(base))
        if "/" in base and is_public(base):
            writer.add_base_model_repo_url(0, f"https://huggingface.co/{base}")


def _add(writer: gguf.GGUFWriter, name: str, weight: torch.Tensor, kind: str | None) -> None:
    import gguf

    own = OF_DTYPE.get(str(weight.dtype).removeprefix("torch."), "f32")
    as_type = gguf.GGMLQuantizationType[(kind or own).upper()]
    block, _ = gguf.GGML_QUANT_SIZES[as_type]
    if weight.shape[-1] % block:
        as_type = gguf.GGMLQuantizationType.F16
    data = gguf.quantize(weight.float().contiguous().numpy(), as_type)
    writer.add_tensor(name, data, raw_dtype=as_type)
