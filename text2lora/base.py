"""The base model: where it comes from, and loading its config, tokenizer and weights.

A base is a folder, a Hub id, or a name that ships with text2lora. Some Hub ids also come as packages, for machines that
reach a package registry but not the Hub; those packages are found by their path and never imported.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2lora.arguments import load_options
from text2lora.bundled import BASE_OF, BASES, DEFAULT, PACKAGED
from text2lora.errors import CheckpointError, InvalidArgumentError, OutputError, shown
from text2lora.files import atomic_folder
from text2lora.hub import HUB_OPTIONS, MARKERS, find_commit, is_checkpoint, load_fault
from text2lora.names import is_local, resolve_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def find_packaged(name: str) -> Path | None:
    """The folder or GGUF file of a model that an installed package carries."""
    if name not in PACKAGED:
        return None
    spec = importlib.util.find_spec(PACKAGED[name].package)
    path = Path(spec.origin).parent / PACKAGED[name].path if spec and spec.origin else None
    return path if path and path.exists() else None


def packaged_model(name: str) -> Path | None:
    """The folder that transformers loads instead of a Hub id, or None if the model on the Hub should be loaded.

    A GGUF file is unpacked once into the cache, with float32 weights; this takes about as long as loading the model
    from GGUF, and later calls find the folder.

    Raises:
        OutputError: the cache cannot be written.
    """
    found = find_packaged(name)
    if found is None or found.is_dir():
        return found
    return _unpacked(found, name) if _in_need(name) else None


def _in_need(name: str) -> bool:
    """Whether the Hub's own model is neither in the cache nor within reach."""
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return False
    return constants.is_offline_mode() or not _hub_answers(constants.ENDPOINT)


@functools.cache
def _hub_answers(endpoint: str) -> bool:
    """Whether anything answers at the Hub's address, asked once a process and without the client's retries."""
    import httpx2
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    try:
        get_session().head(endpoint, timeout=3.0)
    except (httpx2.HTTPError, OSError, ValueError, ImportError):  # the last of a SOCKS proxy without its package
        return False
    return True


def unpacking_folder() -> Path:
    """Where the models of packages are unpacked."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "text2lora"


def _unpacked(file: Path, name: str) -> Path:
    """The folder with the dequantised weights and the tokenizer of a GGUF file, made where it does not exist yet."""
    with file.open("rb") as stream:
        key = hashlib.sha256(stream.read(1 << 20) + str(file.stat().st_size).encode()).hexdigest()[:12]
    target = unpacking_folder() / f"{file.stem}-{key}"
    if target.is_dir():
        return target
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.get_logger(__name__).warning(
        "Unpacking %s from the package %s, once, because the Hub cannot be reached", name, PACKAGED[name].package
    )
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    # without dequantize=True the weights stay packed, and can be neither saved nor trained through
    unpacked = {"quantization_config": GgufConfig(dequantize=True), "dtype": "float32"}
    try:
        with atomic_folder(target, replace=False) as folder:
            AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
            AutoModelForCausalLM.from_pretrained(**source, **unpacked).save_pretrained(folder)
    except OutputError:
        if not target.is_dir():  # else another process was quicker, and may be loading from it
            raise
    return target


def base_source(name: str) -> str:
    """What transformers loads a base from: the folder of a built-in or packaged model, or the name as it is."""
    name = BASE_OF.get(name, name)
    return str(packaged_model(name) or resolve_name(name, BASES))


def context_length(model: PreTrainedModel) -> int | None:
    """Tokens that a model reads and writes at most; None where its config names no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _check_is_base(folder: Path, name: str) -> None:
    """Refuse a checkpoint or an adapter, and name its base model."""
    checkpoint, adapter = (folder / MARKERS[kind] for kind in ("checkpoint", "adapter"))
    if is_checkpoint(folder):
        what = "a checkpoint"
    elif adapter.is_file() and not checkpoint.is_file():
        what = "an adapter"
    else:
        return
    base = None
    for file in (checkpoint, adapter):  # the reference's checkpoints say so in the latter
        with contextlib.suppress(OSError, ValueError, AttributeError):
            base = base or json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    of = base or f"which `t2l info {name}` shows"
    raise CheckpointError(f"{name} is {what}, not a base model: pass the one that it is for, {of}")


def load_base(auto_class: Any, name: str | None, revision: str | None = None, **kwargs: Any) -> Any:
    """Load the config, the tokenizer or the weights of a base model with an Auto class of transformers.

    Args:
        auto_class: `AutoConfig`, `AutoTokenizer` or `AutoModelForCausalLM`.
        name: the base model: a folder, a Hub id or a built-in name.
        revision: a branch, tag or commit.
        **kwargs: options for the class's `from_pretrained`.

    Raises:
        CheckpointError: the base model is not named or cannot be loaded.
        InvalidArgumentError: there is no such option, dtype or device.
    """
    from transformers import AutoTokenizer

    if not name:
        raise CheckpointError(
            "no base model is named: pass a base model, a folder or a Hub id (on the command line with --base)"
        )
    source = base_source(name)
    if os.path.isdir(source):
        _check_is_base(Path(source), name)
    else:  # once, where transformers asks an unreachable Hub for one file after another
        hub = {option: kwargs[option] for option in HUB_OPTIONS if option in kwargs}
        try:
            revision = find_commit(source, revision, **hub)
        except CheckpointError as error:
            here = "" if is_local(source) else "there is no such folder, and "
            raise CheckpointError(f"the base model {name!r} cannot be loaded: {here}{error}") from error
    options = {"revision": revision or "main", "trust_remote_code": False} | kwargs
    try:
        with load_options(options):
            loaded = auto_class.from_pretrained(source, **options)
    except InvalidArgumentError:
        raise
    except Exception as error:  # which depends on what is wrong with a file, an option or a package
        reason = load_fault(error, name, revision)
        hint = "install what it needs, or pass" if isinstance(error, ImportError) else "pass"
        raise CheckpointError(f"the base model {name!r} cannot be loaded ({reason}): {hint} another one") from error
    if auto_class is AutoTokenizer and len(loaded) <= len(loaded.all_special_ids):  # as transformers makes of no files
        raise CheckpointError(
            f"the base model {name!r} has no tokenizer: save one into its folder, or pass another one"
        )
    return loaded


def load_base_with_tokenizer(
    name: str | None, revision: str | None = None, device: str = "cpu", *, dtype: Any = None, **hub: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a base model in eval mode, and its tokenizer.

    The model's `generate` also stops where the chat template ends an answer. Without a dtype, its weights have their
    own or, if that is slow here, float32.

    Raises:
        CheckpointError: see `load_base`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from text2lora.processor import widen
    from text2lora.turns import keep_ends

    tokenizer = load_base(AutoTokenizer, name, revision, **hub)
    model = load_base(AutoModelForCausalLM, name, revision, device_map=device, dtype=dtype or "auto", **hub)
    keep_ends(model, tokenizer)
    return (model if dtype else widen(model)).eval(), tokenizer


def base_model_path(name: str = DEFAULT) -> str:
    """What `AutoModelForCausalLM.from_pretrained` loads the base model of `smol` or `nano` from.

    Returns:
        A folder; for `smol`, the Hub id of its base if that is to be loaded from the Hub.

    Raises:
        CheckpointError: no checkpoint of that name ships with the package.
    """
    if not isinstance(name, str) or name not in BASE_OF:
        raise CheckpointError(f"no built-in base model {shown(name)}: expected one of {', '.join(BASE_OF)}")
    return base_source(name)
