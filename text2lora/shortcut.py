"""A function from a sentence or from an adapter, in one call."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from text2lora.adapter import LoraAdapter
from text2lora.arguments import resolve_device
from text2lora.base import base_source, load_base_with_tokenizer
from text2lora.bundled import DEFAULT
from text2lora.errors import InvalidArgumentError, shown
from text2lora.files import check_model_name, check_subfolder, folder_state
from text2lora.functions import Function, Runner, check_settings
from text2lora.modeling import Text2LoraModel

if TYPE_CHECKING:
    from text2lora.tuning import Examples, OnStep

_MODELS: WeakValueDictionary[tuple[str, ...], Text2LoraModel] = WeakValueDictionary()
_MAKERS: WeakKeyDictionary[Function, Text2LoraModel] = WeakKeyDictionary()
_LOADING = threading.Lock()


def function(
    adapter: str | os.PathLike[str] | LoraAdapter | None = None,
    *,
    do: str | None = None,
    examples: Examples | None = None,
    on_step: OnStep | None = None,
    model: str | os.PathLike[str] | None = None,
    subfolder: str | None = None,
    base: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    max_new_tokens: int = 64,
    stop: str | Sequence[str] = (),
    device: str = "auto",
    revision: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Function:
    """Make a function from text to text, from an adapter or from a sentence.

    Functions share what they load as long as one of them is in use: all functions of a base model use one copy of its
    weights in memory, and all functions made by a checkpoint use one hypernetwork.

    ```python
    import text2lora

    city = text2lora.function(do="Which city is mentioned? Just the name.")
    city("Will it rain in Lisbon on Sunday morning?")  # 'Lisbon'
    price = text2lora.function("my-price-adapter")  # a folder, a Hub id or a LoraAdapter
    ```

    Args:
        adapter: a folder or Hub id with an adapter, or a `LoraAdapter`.
        do: what the function should do, in plain words, instead of an adapter.
        examples: pairs of an input and its right answer, beside `do` or instead of it; see `generate_lora`.
        on_step: see `generate_lora`.
        model: the checkpoint that makes the adapter for `do`: `smol` (None), `nano`, a folder or a Hub id.
        subfolder: the folder of the adapter or checkpoint inside the given folder or repository.
        base: the base model of an adapter: a folder or Hub id; None uses the one that the adapter names.
        labels, max_new_tokens, stop: see `Text2LoraModel.function`.
        device: where to run: `cpu`, `cuda`, ...; `auto` is the GPU if there is one.
        revision: a branch, tag or commit of the adapter or checkpoint.
        token, cache_dir, local_files_only: as in transformers; they are also used for the base model.

    Raises:
        InvalidArgumentError: both or neither of `adapter` and `do` are given, an argument belongs to the other one of
            them, or there is no such device here.
        CheckpointError: the adapter, the checkpoint or the base model cannot be loaded.
        InvalidDescriptionError: see `generate_lora`.
        InvalidInputError: see `Text2LoraModel.function`.
    """
    made = do is not None or examples is not None
    if (adapter is None) != made:
        raise InvalidArgumentError(
            'expected an adapter (a folder, a Hub id or a LoraAdapter), or a description as do="..." or examples, got '
            f"{'both' if made else 'neither'} of them: pass one"
        )
    if base is not None if made else model is not None:
        raise InvalidArgumentError(
            "model is the checkpoint that makes an adapter for do or examples, and base is the base model of a given "
            f"adapter: got {'base with do or examples' if made else 'model with an adapter'}, pass "
            f"{'model' if made else 'base'} instead"
        )
    if isinstance(model, Text2LoraModel):
        raise InvalidArgumentError("model is a loaded Text2LoraModel: call its own function(...) instead")
    if not isinstance(adapter, str | os.PathLike | LoraAdapter | None):
        hint = "call its own function(...), or " if isinstance(adapter, Text2LoraModel) else ""
        raise InvalidArgumentError(f"adapter is {shown(adapter)}: {hint}pass a folder, a Hub id or a LoraAdapter")
    if isinstance(adapter, LoraAdapter) and (subfolder or revision):
        given = shown("subfolder" if subfolder else "revision")
        raise InvalidArgumentError(f"{given} is of no use with a LoraAdapter, which is loaded already: leave it out")
    check_settings(labels, max_new_tokens, stop)  # before anything is loaded
    device = resolve_device(device, "device")
    options: dict[str, Any] = {"labels": labels, "max_new_tokens": max_new_tokens, "stop": stop}
    hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    if made:
        options |= {"examples": examples, "on_step": on_step}
        name = check_model_name(DEFAULT if model is None else model)
        maker = _checkpoint(name, check_subfolder(subfolder), device, {"revision": revision, **hub})
        made_function = maker.function(do, **options)
        _MAKERS[made_function] = maker
        return made_function
    if not isinstance(adapter, LoraAdapter):
        adapter = LoraAdapter.from_pretrained(adapter or "", subfolder, revision, **hub)
    return Function(_runner(adapter, base, device, hub), adapter, **options)


def _runner(lora: LoraAdapter, base: str | os.PathLike[str] | None, device: str, hub: dict[str, Any]) -> Runner:
    """The base model of an adapter, or another one, which all of its functions share."""
    name, revision = lora.spec.base(base)
    key = (folder_state(base_source(name or "")), revision or "", device)
    return Runner.shared(key, lambda: Runner(*load_base_with_tokenizer(name, revision, device, **hub)))


def _checkpoint(name: str, subfolder: str, device: str, hub: dict[str, Any]) -> Text2LoraModel:
    """A checkpoint, which stays in memory as long as a function that it made."""
    key = (name, folder_state(os.path.join(name, subfolder)), device, str(sorted(hub.items())))
    with _LOADING:
        model = _MODELS.get(key)
        if model is None:
            model = Text2LoraModel.from_pretrained(name, subfolder=subfolder, device_map=device, **hub)
            _MODELS[key] = model
        return model
