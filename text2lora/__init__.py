"""text2lora: a sentence in, a LoRA adapter out, in one forward pass of a hypernetwork."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from text2lora.errors import (
    CheckpointError,
    DescriptionWarning,
    EvaluationError,
    HubError,
    InvalidArgumentError,
    InvalidDescriptionError,
    MissingExtraError,
    OutputError,
    ServerError,
    TaskError,
    Text2LoraError,
    TrainingError,
)

if TYPE_CHECKING:
    from text2lora.adapter import LoraAdapter
    from text2lora.arithmetic import combine
    from text2lora.base import base_model_path
    from text2lora.configuration import Text2LoraConfig
    from text2lora.encoder import TextEncoder
    from text2lora.functions import Function
    from text2lora.lora import LoraSpec
    from text2lora.modeling import Text2LoraModel
    from text2lora.names import library_version
    from text2lora.shortcut import function

_HOME = {
    "LoraAdapter": "adapter",
    "LoraSpec": "lora",
    "combine": "arithmetic",
    "Text2LoraConfig": "configuration",
    "TextEncoder": "encoder",
    "base_model_path": "base",
    "library_version": "names",
    "Text2LoraModel": "modeling",
    "Function": "functions",
    "function": "shortcut",
}
"""Where the other public names are defined; imported when first used, so that `t2l --help` needs no torch."""

__all__ = [  # noqa: RUF022 - by subject
    "LoraAdapter",
    "LoraSpec",
    "combine",
    "Text2LoraConfig",
    "TextEncoder",
    "CheckpointError",
    "DescriptionWarning",
    "EvaluationError",
    "HubError",
    "InvalidArgumentError",
    "InvalidDescriptionError",
    "MissingExtraError",
    "OutputError",
    "ServerError",
    "TaskError",
    "Text2LoraError",
    "TrainingError",
    "base_model_path",
    "library_version",
    "Text2LoraModel",
    "Function",
    "function",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from text2lora.names import library_version

        return library_version()
    if name in _HOME:
        return getattr(importlib.import_module(f"text2lora.{_HOME[name]}"), name)
    raise AttributeError(f"module 'text2lora' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
