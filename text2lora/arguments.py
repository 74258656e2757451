"""Arguments of public functions, checked by their annotations."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from text2lora.errors import InvalidArgumentError, InvalidInputError, Text2LoraError, shown
from text2lora.files import check_path, first_line

PATHS = (Path, os.PathLike, os.PathLike[str])
LOAD_OPTIONS = (
    "attn_implementation", "base_model_kwargs", "cache_dir", "device_map", "dtype", "encoder", "local_files_only",
    "output_loading_info", "revision", "subfolder", "token", "torch_dtype"
)  # fmt: skip
"""The usual options of `from_pretrained`; transformers has more."""
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def checked(error: type[Text2LoraError]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function refuse arguments whose types differ from its annotations, in one line, before it does anything.

    A string is accepted for a `Path` and converted. Floats must be finite; integers must fit into 64 bits, and a bool
    does not count as one.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.cache
        def hints() -> dict[str, Any]:
            found = {name: each.annotation for name, each in signature.parameters.items()}
            known = getattr(function, "__globals__")  # noqa: B009 - a callable need not have them
            return {name: _resolve(text, known) for name, text in found.items() if isinstance(text, str)}

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                if name not in hints():
                    continue
                hint = hints()[name]
                kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
                if isinstance(value, str | os.PathLike) and any(kind in kinds for kind in PATHS):
                    path = check_path(value, error)
                    bound.arguments[name] = Path(path) if Path in kinds else value
                elif not fits(value, hint):
                    raise error(f"{name} is {shown(value)}: expected {signature.parameters[name].annotation}")
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def checked_class(error: type[Text2LoraError]) -> Callable[[type[T]], type[T]]:
    """`checked` for what makes an object of a class, such as the fields of a dataclass."""

    def decorate(cls: type[T]) -> type[T]:
        setattr(cls, "__init__", checked(error)(getattr(cls, "__init__")))  # noqa: B009, B010 - for mypy
        return cls

    return decorate


def _resolve(annotation: str, known: Mapping[str, Any]) -> Any:
    """What an annotation means in a module. A name that the module imports for type checking alone is looked up."""
    names = dict(known)
    while True:
        try:
            return eval(annotation, names)
        except NameError as error:
            name, modules = str(error.name), map(importlib.import_module, ("text2lora", "transformers", "peft"))
            names[name] = next((getattr(module, name) for module in modules if hasattr(module, name)), Any)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type of an annotation, as are the things that it contains."""
    origin: Any = get_origin(hint) or hint
    inner = get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin in (None, NoneType):
        return value is None
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if origin is Callable:
        return callable(value)
    if origin is Any or not isinstance(origin, type):
        return True
    if getattr(origin, "_is_protocol", False):
        return all(hasattr(value, name) for name in {*dir(origin), *origin.__annotations__} if name[0] != "_")
    if not isinstance(value, origin) or (isinstance(value, str | bytes) and origin in (Sequence, Iterable)):
        return False
    content: Any = value  # of which mypy knows no more than that it is an object
    if not inner:
        return True
    if origin is Iterable:
        try:
            iter(content)  # a scalar of torch has the method, but cannot be iterated over
        except TypeError:
            return False
    if origin is tuple and inner[-1] is not ...:
        return len(content) == len(inner) and all(map(fits, content, inner))
    if issubclass(origin, Mapping):
        return all(fits(key, inner[0]) and fits(each, inner[1]) for key, each in content.items())
    return origin not in (Sequence, list, tuple) or all(fits(each, inner[0]) for each in content)


def check_count(value: int, name: str) -> int:
    """The value of an argument that is a number of things.

    Raises:
        InvalidInputError: it is not a whole number from 1 upwards.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInputError(f"{name} is {shown(value)}: expected a whole number from 1 upwards")
    return value


def resolve_device(value: Any, name: str) -> str:
    """The name that tensors give their device, such as `cuda:0` for `cuda`; `auto` is the GPU if there is one.

    Raises:
        InvalidArgumentError: PyTorch does not have this device here; the message calls it `name`.
    """
    import torch

    device = ("cuda" if torch.cuda.is_available() else "cpu") if isinstance(value, str) and value == "auto" else value
    try:
        return str(torch.empty(0, device=device).device)
    except Exception as error:  # which depends on the kind of device
        reason = first_line(error).partition(". ")[0]
        raise InvalidArgumentError(
            f"{name} is {shown(device)}, which cannot be used here ({reason}): pass a device that this PyTorch sees, "
            "such as 'cpu'"
        ) from error


@contextlib.contextmanager
def load_options(options: Mapping[str, Any]) -> Iterator[None]:
    """Refuse options of `from_pretrained` that nothing can be loaded with, so that no model is blamed for them.

    The block is the call; it tells which options transformers does not know.

    Raises:
        InvalidArgumentError: there is no such option, dtype or device.
    """
    import torch

    for name in ("dtype", "torch_dtype"):
        value = options.get(name)
        dtype = getattr(torch, value, None) if isinstance(value, str) else value
        whole = isinstance(value, Mapping | None) or (isinstance(value, str) and value == "auto")
        if not whole and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InvalidArgumentError(f"{name} is {shown(value)}: expected 'auto' or a dtype such as 'bfloat16'")
    given = options.get("device_map")
    for device in given.values() if isinstance(given, Mapping) else [given]:
        ways = ("auto", "balanced", "balanced_low_0", "sequential", "disk")
        if isinstance(device, str | int | torch.device) and device not in ways:
            resolve_device(device, "device_map")
    try:
        yield
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if not unknown or unknown[1] not in options:
            raise
        close = difflib.get_close_matches(unknown[1], LOAD_OPTIONS, 1)
        hint = f"did you mean {close[0]!r}?" if close else "see from_pretrained of transformers"
        raise InvalidArgumentError(f"there is no option {unknown[1]!r}: {hint}") from error
