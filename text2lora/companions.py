"""What goes with a hypernetwork but stays outside its module tree: text encoder, base model, statistics."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from transformers.utils import logging
from transformers.utils.hub import resolve_revision

from text2lora.base import base_source, load_base
from text2lora.encoder import TextEncoder
from text2lora.errors import CheckpointError
from text2lora.files import check_model_name, folder_state
from text2lora.hub import Source
from text2lora.processor import widen
from text2lora.turns import keep_ends

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from text2lora.configuration import Text2LoraConfig
    from text2lora.functions import Runner

logger = logging.get_logger(__name__)
T = TypeVar("T")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
_LOADING = threading.RLock()  # a lock inside of the companions could not be copied


class Companions:
    """What a checkpoint names but does not contain. Each part is loaded when it is first needed, and then kept.

    Args:
        source: Where the checkpoint is read from.
        encoder: A text encoder, or the folder or Hub id of one, in place of the one that the config names.
        base_options: Options for the base model's `from_pretrained`.
    """

    def __init__(
        self,
        source: Source | None = None,
        encoder: str | os.PathLike[str] | TextEncoder | None = None,
        base_options: Mapping[str, Any] | None = None,
    ):
        self.source, self.base_options = source or Source(), dict(base_options or {})
        self._named_encoder = None if isinstance(encoder, TextEncoder) else encoder
        self._encoder = encoder if isinstance(encoder, TextEncoder) else None
        self._is_given = self._encoder is not None
        self._beside: dict[str, Any] = {}
        self._base: PreTrainedModel | None = None
        self._fingerprint: Any = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._base_hub: dict[str, Any] | None = None
        self._runner: Runner | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copies of a model share the encoder and the base model, as long as neither is set anew."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self) | {"_beside": dict(self._beside), "_runner": None})
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """What another process starts with: all but what it can load itself when it is first needed."""
        encoder = self._encoder if self._is_given else None
        loaded = dict.fromkeys(("_base", "_fingerprint", "_tokenizer", "_runner"))
        return vars(self) | loaded | {"_encoder": encoder}

    def encoder(self, config: Text2LoraConfig, device: torch.device) -> TextEncoder:
        """The text encoder."""
        with _LOADING:
            if self._encoder is None:
                options = {"device_map": str(device), **self.source.hub}
                found = TextEncoder.from_config(config, self._named_encoder, **options)
                if found.size != config.task_emb_size:
                    raise CheckpointError(
                        f"the text encoder {found.name!r} gives {found.size} features, but task_emb_size is "
                        f"{config.task_emb_size}: use the encoder that the checkpoint was trained with; a recipe for a "
                        f"new model needs model.task_emb_size={found.size}"
                    )
                self._encoder = found
            return self._encoder

    def set_encoder(self, encoder: TextEncoder) -> None:
        """Use another text encoder."""
        self._encoder, self._is_given = encoder, True

    def encoder_name(self, config: Text2LoraConfig) -> str:
        """The name of the text encoder, which need not be loaded."""
        return self._encoder.name if self._encoder else str(self._named_encoder or config.encoder_name_or_path or "")

    def beside(self, name: str, load: Callable[[Path], T]) -> T | None:
        """What a file beside the weights holds; None if the checkpoint has no such file."""
        with _LOADING:
            if name not in self._beside:
                path = self.source.find(name)
                self.set_beside(name, load(path) if path else None)
            found: T | None = self._beside[name]
            return found

    def set_beside(self, name: str, value: Any) -> None:
        """Use another value than the one in the file, or none."""
        self._beside[name] = value

    def load_base(
        self, config: Text2LoraConfig, device: torch.device, name: str | os.PathLike[str] | None = None, **kwargs: Any
    ) -> PreTrainedModel:
        """Load the base model, or another one, anew; see `Text2LoraModel.load_base_model`."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        hub = self._hub_of_base(config) if name is None else self.source.hub
        path = config.base_model_name_or_path if name is None else check_model_name(name)
        options = {"device_map": str(device), **hub} | self.base_options | kwargs
        base = load_base(AutoModelForCausalLM, path, **options)
        try:
            keep_ends(base, self.tokenizer(config) if name is None else load_base(AutoTokenizer, path, **hub))
        except CheckpointError:
            source = Source.of(base_source(path or ""), **hub)
            if any(source.find(file) for file in TOKENIZER_FILES):
                raise  # a base may come without a tokenizer, but not with a damaged one
        return base if {"dtype", "torch_dtype"} & options.keys() else widen(base)

    def base(self, config: Text2LoraConfig, device: torch.device) -> PreTrainedModel:
        """The base model that is kept; it is loaded again where its weights were changed in place."""
        from text2lora.sharing import fingerprint, is_changed

        with _LOADING:
            if self._base is not None and is_changed(self._base, self._fingerprint):
                logger.warning(
                    "Loading the base model again: a model of generate_adapter changed the shared weights in place. "
                    "Make the other earlier models again, and train a base from load_base_model() instead"
                )
                self._base = None
            if self._base is None:
                self._base = self.load_base(config, device)
                self._fingerprint = fingerprint(self._base)
            return self._base

    def tokenizer(self, config: Text2LoraConfig) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = load_base(AutoTokenizer, config.base_model_name_or_path, **self._hub_of_base(config))
        return self._tokenizer

    def runner(self, config: Text2LoraConfig, device: torch.device) -> Runner:
        """The base model that all functions answer with; checkpoints of the same base share it."""
        from text2lora.functions import Runner  # with PEFT, which takes a second to import and no adapter needs
        from text2lora.sharing import share

        with _LOADING:
            if self._runner is None or self._runner.is_changed:
                own = [str(self.base_options)] if self.base_options else []
                source = base_source(config.base_model_name_or_path or "")
                key = (folder_state(source), config.base_model_revision or "", str(device), *own)
                self._runner = Runner.shared(
                    key, lambda: Runner(share(self.base(config, device)), self.tokenizer(config))
                )
            return self._runner

    def _hub_of_base(self, config: Text2LoraConfig) -> dict[str, Any]:
        """Where base model and tokenizer come from: both from the one commit that the config's revision is now."""
        if self._base_hub is None:
            path, hub = base_source(config.base_model_name_or_path or ""), dict(self.source.hub)
            commit = resolve_revision(path, config.base_model_revision, **hub)
            self._base_hub = hub | ({"revision": commit} if commit else {})
        return self._base_hub
