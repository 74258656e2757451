"""Adapters on demand, for a server: a description in, the folder of an adapter out, within limits."""

from __future__ import annotations

import difflib
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from text2lora.base import base_source
from text2lora.errors import InvalidDescriptionError, LimitError, ServingError
from text2lora.together import Together

if TYPE_CHECKING:
    import torch

    from text2lora.adapter import LoraAdapter
    from text2lora.integrations.cache import AdapterCache, Lease
    from text2lora.modeling import Text2LoraModel

MAX_CHARACTERS = 2000
"""The longest description."""
VARIABLES = "T2L_VLLM_"


@dataclass(frozen=True)
class OnDemandSettings:
    """The settings with which a server makes adapters.

    Attributes:
        checkpoint: the checkpoint that makes the adapters: `smol`, `nano`, a folder or a Hub id.
        subfolder: the checkpoint's folder inside the folder or repository.
        revision: a branch, tag or commit of the checkpoint.
        base: the name or path of the served model, if it differs from the name in the checkpoint.
        cache_dir: the folder where adapters are kept.
        cache_gb: the largest size of all kept adapters together, in GB.
        rate: the most new adapters in a minute.
        dtype: the dtype of the kept adapters; None is the checkpoint's.
        device: where the hypernetwork runs.
        strict: whether to refuse descriptions that are far from all training descriptions.
    """

    checkpoint: str
    subfolder: str | None = None
    revision: str | None = None
    base: str | None = None
    cache_dir: Path = Path("~/.cache/text2lora/adapters")
    cache_gb: float = 10.0
    rate: int = 60
    dtype: str | None = None
    device: str = "cpu"
    strict: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> OnDemandSettings | None:
        """Settings from `T2L_VLLM_CHECKPOINT`, `T2L_VLLM_CACHE_GB` and so on; None if the first is not set.

        Raises:
            ServingError: a variable is unknown, or its value cannot be used.
        """
        start = len(VARIABLES)
        given = {key[start:]: value for key, value in environ.items() if key.startswith(VARIABLES) and value}
        if "CHECKPOINT" not in given:
            return None
        known = [name.upper() for name in cls.__dataclass_fields__]
        for name in given:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1, 0)[0]
                raise ServingError(f"{VARIABLES}{name} is not a setting: did you mean {VARIABLES}{close}?")

        def number(name: str, default: float) -> float:
            text = given.get(name, str(default))
            try:
                value = float(text)
            except ValueError:
                value = -1
            if not 0 <= value < float("inf"):
                raise ServingError(f"{VARIABLES}{name} is {text!r}: expected a number from 0 upwards")
            return value

        def whole(name: str, default: int) -> int:
            if not (value := number(name, default)).is_integer() or not value:
                raise ServingError(f"{VARIABLES}{name} is {given[name]!r}: expected a whole number from 1 upwards")
            return int(value)

        def choice(name: str, choices: tuple[str, ...]) -> str | None:
            if name in given and given[name] not in choices:
                raise ServingError(f"{VARIABLES}{name} is {given[name]!r}: expected one of {', '.join(choices)}")
            return given.get(name)

        return cls(
            checkpoint=given["CHECKPOINT"],
            subfolder=given.get("SUBFOLDER"),
            revision=given.get("REVISION"),
            base=given.get("BASE"),
            cache_dir=Path(given.get("CACHE_DIR", cls.cache_dir)),
            cache_gb=number("CACHE_GB", cls.cache_gb),
            rate=whole("RATE", cls.rate),
            dtype=choice("DTYPE", ("float32", "bfloat16", "float16")),
            device=given.get("DEVICE", cls.device),
            strict=choice("STRICT", ("0", "1")) == "1",
        )


class RateLimit:
    """Limits how much happens in any minute."""

    def __init__(self, per_minute: int):
        self.per_minute = per_minute
        self._taken: deque[float] = deque()
        self._lock = threading.Lock()

    def take(self) -> None:
        """Count one.

        Raises:
            LimitError: the limit is reached.
        """
        with self._lock:
            now = time.monotonic()
            while self._taken and now - self._taken[0] >= 60:
                self._taken.popleft()
            if len(self._taken) >= self.per_minute:
                wait = f"in {60 - now + self._taken[0]:.0f} s" if self._taken else "later"
                raise LimitError(f"more than {self.per_minute} new adapters in a minute: try again {wait}")
            self._taken.append(now)


class AdaptersOnDemand:
    """Makes the adapter of a description when it is first asked for, and keeps it on disk.

    Checkpoint, encoder and cache are opened when first needed. Threads may share the object.
    """

    def __init__(self, settings: OnDemandSettings):
        self.settings = settings
        self._limit = RateLimit(settings.rate)
        self._loading = threading.Lock()
        self._generate: Together[str, LoraAdapter] = Together(lambda texts: self._model.generate_lora(list(texts)))

    def lend(self, description: str, served_base: str) -> Lease:
        """Lend the adapter of a description, which stays on disk until the lease is released.

        Raises:
            InvalidDescriptionError: the description cannot be used (see `check_description`), is too long, or is unlike
                all training descriptions and the settings are strict.
            LimitError: there are too many new adapters in this minute, or there is no room.
            ServingError: the checkpoint is for another base model.
            CheckpointError: the checkpoint cannot be loaded.
            OutputError: the cache cannot be written.
        """
        from text2lora.batch import AdapterSettings, folder_name
        from text2lora.encoder import check_description

        text = check_description(description)
        if len(text) > MAX_CHARACTERS:
            raise InvalidDescriptionError(
                f"the description has {len(text):,} characters: expected at most {MAX_CHARACTERS:,}"
            )
        with self._loading:
            model, cache, decided = self._model, self._cache, self._digest
        self._check_base(served_base, model.config.base_model_name_or_path)
        name = folder_name(text, decided, AdapterSettings(dtype=self._dtype))
        return cache.lend(name, lambda: self._make(text))

    def _make(self, text: str) -> LoraAdapter:
        self._limit.take()
        novelty = self._model.novelty(text) if self.settings.strict else None
        if novelty and novelty.warning:
            raise InvalidDescriptionError(novelty.warning)
        return self._generate(text).to(self._dtype)

    def _check_base(self, served: str, wanted: str | None) -> None:
        expected = self.settings.base or base_source(wanted or "")
        if os.path.realpath(served) != os.path.realpath(expected):  # of Hub ids the same as comparing them
            raise ServingError(
                f"the checkpoint {self.settings.checkpoint!r} makes adapters for {wanted!r}, but the model that is "
                f"served is {served!r}: serve that one, or set {VARIABLES}BASE={served} if it is the same"
            )

    @cached_property
    def _model(self) -> Text2LoraModel:
        from text2lora.modeling import Text2LoraModel

        return Text2LoraModel.from_pretrained(
            self.settings.checkpoint,
            subfolder=self.settings.subfolder,
            revision=self.settings.revision,
            device_map=self.settings.device,
        )

    @cached_property
    def _cache(self) -> AdapterCache:
        from text2lora.integrations.cache import AdapterCache

        return AdapterCache(Path(self.settings.cache_dir).expanduser().absolute(), int(self.settings.cache_gb * 1e9))

    @cached_property
    def _digest(self) -> str:
        return self._model.digest

    @property
    def _dtype(self) -> torch.dtype | None:
        import torch

        return getattr(torch, self.settings.dtype) if self.settings.dtype else None
