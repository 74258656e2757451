"""Recipes: YAML files that define a training run, and the classes that hold their settings."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, dataclass_transform

from text2lora.arguments import fits
from text2lora.errors import TrainingError, shown
from text2lora.files import parse_yaml, read_text

T = TypeVar("T")


def read_recipe(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Read a recipe and apply overrides such as `sft.fit.steps=100`, whose values are YAML.

    Raises:
        TrainingError: the recipe cannot be read, or an override is not KEY=VALUE.
    """
    recipe = parse_yaml(read_text(path, TrainingError), f"the recipe {path} cannot be read", TrainingError)
    if not isinstance(recipe, dict):
        raise TrainingError(f"the recipe {path} is not a mapping of settings")
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise TrainingError(f"--set {override!r}: expected KEY=VALUE, such as sft.fit.steps=100")
        *parents, last = key.split(".")
        content = parse_yaml(value, f"--set {override!r}: the value is not YAML", TrainingError)
        place: Any = recipe
        for parent in parents:
            place = place[_index(place, parent, override)] if isinstance(place, list) else place.setdefault(parent, {})
            if not isinstance(place, dict | list):
                raise TrainingError(f"--set {override!r}: {parent} is {place!r}, which has no settings of its own")
        place[_index(place, last, override) if isinstance(place, list) else last] = content
    return recipe


def _index(place: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(place):
        raise TrainingError(
            f"--set {override!r}: there is no entry {key!r} in a list of {len(place)} (indices start at 0)"
        )
    return int(key)


def at_least(bound: float, default: float) -> Any:
    """A setting that is a number of at least `bound`; see `settings`."""
    return dataclasses.field(default=default, metadata={"range": (bound, math.inf), "text": f"{bound:g} or more"})


def share(default: float) -> Any:
    """A setting that is a share from 0 to 1; see `settings`."""
    return dataclasses.field(default=default, metadata={"range": (0, 1), "text": "a share from 0 to 1"})


@dataclass_transform(field_specifiers=(dataclasses.field, at_least, share))
def settings(cls: type[T]) -> type[T]:
    """Make a dataclass that checks each value when it is set, and refuses it with a `TrainingError`.

    Annotations give the expected types (`Literal` for a choice), `at_least` and `share` the bounds; `__post_init__`
    checks settings that depend on each other. Integers are accepted as floats.
    """
    made: Any = dataclasses.dataclass(cls)
    hints = typing.get_type_hints(cls)
    limits = {setting.name: setting.metadata for setting in dataclasses.fields(made) if setting.metadata}

    def __setattr__(self: object, name: str, value: Any) -> None:
        hint = hints.get(name, Any)
        if not fits(value, hint):
            huge = type(value) is int and hint is int
            expected = "a whole number of at most 64 bits" if huge else _expected(hint)
            reason = f"{_nearest(value, hint)}expected {expected}"
            if isinstance(value, bool) and ("str" in expected or "'" in expected):  # read from YAML
                reason += " (`yes`, `no`, `on` and `off` need quotes)"
            raise TrainingError(f"{name} is {shown(value)}: {reason}")
        if name in limits:
            least, most = limits[name]["range"]
            if not least <= value <= most:
                raise TrainingError(f"{name} is {shown(value)}: expected {limits[name]['text']}")
        object.__setattr__(self, name, value)

    made.__setattr__ = __setattr__
    return typing.cast("type[T]", made)


def _nearest(value: object, hint: Any) -> str:
    """A hint at the choice that is spelled like the value, or like the first wrong one of a list."""
    inner = typing.get_args(hint)
    if isinstance(value, list) and inner:
        return next((f"{each!r} is wrong, {told}" for each in value if (told := _nearest(each, inner[0]))), "")
    close = difflib.get_close_matches(str(value), [choice for choice in inner if isinstance(choice, str)], 1, 0.5)
    return f"did you mean {close[0]!r}? Otherwise " if close and value not in inner else ""


def _expected(hint: Any) -> str:
    """The values that an annotation allows, in words: `int`, `a number`, `list of str`, `'a' or 'b'`."""
    inner = typing.get_args(hint)
    if hint is float:
        return "a number"
    if typing.get_origin(hint) is Literal:
        return " or ".join(filter(None, [", ".join(map(repr, inner[:-1])), repr(inner[-1])]))
    if isinstance(hint, UnionType):
        return " or ".join(map(_expected, inner))
    if inner:
        return f"{typing.get_origin(hint).__name__} of {_expected(inner[-1])}"
    return str(getattr(hint, "__name__", hint))


def _paths(kind: type, before: str = "") -> Iterator[str]:
    """The dotted names of all settings."""
    for name, hint in typing.get_type_hints(kind).items():
        yield before + name
        if dataclasses.is_dataclass(hint):
            yield from _paths(typing.cast(type, hint), f"{before}{name}.")


def parse(kind: type[T], data: dict[str, Any], where: str = "recipe") -> T:
    """Build a (nested) `settings` class from a mapping.

    Raises:
        TrainingError: a key is unknown (the message suggests the nearest one), or a value is invalid.
    """
    if not isinstance(data, dict):
        raise TrainingError(f"{where} is {data!r}: expected a mapping")
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in hints:
            near = [path for path in _paths(kind) if path.rpartition(".")[2] == key]
            near = near or difflib.get_close_matches(str(key), list(hints), 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(hints)}"
            raise TrainingError(f"{where} has no setting {key!r}: {hint}")
        if dataclasses.is_dataclass(hints[key]):
            value = parse(typing.cast(type, hints[key]), value, f"{where}.{key}")
        elif hints[key] is float and isinstance(value, int | str) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):  # YAML 1.1 reads 1e-4 as text; only 1.0e-4 is a number
                value = float(value)
        values[key] = value
    try:
        return kind(**values)
    except TrainingError as error:
        raise TrainingError(f"{where}.{error}") from error
    except TypeError as error:
        raise TrainingError(f"{where} is incomplete ({error})") from error
