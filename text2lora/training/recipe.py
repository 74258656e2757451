"""Recipes: YAML files that say everything about a training run."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from text2lora.errors import TrainingError
from text2lora.textfiles import read_text

T = TypeVar("T")


def read_recipe(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Read a recipe and apply overrides such as `sft.fit.steps=100`, whose values are YAML.

    Raises:
        TrainingError: it cannot be read, or an override is not KEY=VALUE.
    """
    try:
        recipe = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise TrainingError(f"the recipe {path} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(recipe, dict):
        raise TrainingError(f"the recipe {path} is not a mapping of settings")
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise TrainingError(f"--set {override!r}: expected KEY=VALUE, such as sft.fit.steps=100")
        *parents, last = key.split(".")
        try:
            content = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise TrainingError(f"--set {override!r}: the value is not YAML") from error
        place: Any = recipe
        for parent in parents:
            place = place[_index(place, parent, override)] if isinstance(place, list) else place.setdefault(parent, {})
            if not isinstance(place, dict | list):
                raise TrainingError(f"--set {override!r}: {parent} is {place!r}, which has no settings of its own")
        place[_index(place, last, override) if isinstance(place, list) else last] = content
    return recipe


def _index(place: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(place):
        raise TrainingError(f"--set {override!r}: {key!r} is no entry of a list of {len(place)}, counted from 0")
    return int(key)


def parse(kind: type[T], data: dict[str, Any], where: str = "recipe") -> T:
    """Build a (nested) dataclass from a mapping.

    Raises:
        TrainingError: a key that the dataclass has not (the nearest one is named), or a value of another type.
    """
    if not isinstance(data, dict):
        raise TrainingError(f"{where} is {data!r}: expected a mapping")
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), list(hints), 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(hints)}"
            raise TrainingError(f"{where} has no setting {key!r}: {hint}")
        wanted = hints[key]
        if dataclasses.is_dataclass(wanted):
            value = parse(typing.cast(type, wanted), value, f"{where}.{key}")
        elif wanted is float and isinstance(value, int | str) and not isinstance(value, bool):
            value = _number(value)
        if isinstance(wanted, type) and (
            not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool))
        ):
            quotes = " (`yes`, `no`, `on` and `off` need quotes)" if wanted is str and isinstance(value, bool) else ""
            raise TrainingError(f"{where}.{key} is {value!r}: expected {wanted.__name__}{quotes}")
        values[key] = value
    try:
        return kind(**values)
    except TypeError as error:
        raise TrainingError(f"{where} is incomplete ({error})") from error


def _number(value: int | str) -> float | int | str:
    """The float that is meant: 1e-4 is text to YAML 1.1, which wants 1.0e-4."""
    try:
        return float(value)
    except ValueError:
        return value


def check_least(config: object, **least: float) -> None:
    """Check numeric settings of a dataclass.

    Raises:
        TrainingError: one is less than the bound of that name, or not a number.
    """
    for name, bound in least.items():
        if not getattr(config, name) >= bound:
            raise TrainingError(f"{name} is {getattr(config, name)!r}: expected {bound:g} or more")


def check_shares(config: object, *names: str) -> None:
    """Check settings of a dataclass that are shares.

    Raises:
        TrainingError: one is not from 0 to 1.
    """
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise TrainingError(f"{name} is {getattr(config, name)!r}: expected a share from 0 to 1")
