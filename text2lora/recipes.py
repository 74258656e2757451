"""Recipes: a YAML file says everything about a training run, and `run_recipe` runs it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from text2lora.errors import TrainingError
from text2lora.hub import write_atomically
from text2lora.nano.pretrain import BaseConfig
from text2lora.nano.train import BaselinesRecipe, HypernetworkRecipe, run_base, run_baselines, run_hypernetwork
from text2lora.training.plot import plot_training
from text2lora.training.recipe import parse, read_recipe
from text2lora.training.runs import LoraRecipe, ReconRecipe, SftRecipe, run_lora, run_recon, run_sft
from text2lora.training.state import find_states

FOLDERS = (Path(__file__).parent / "nano" / "recipes", Path(__file__).parent / "training" / "recipes")

KINDS: dict[str, tuple[type, Callable[..., None]]] = {
    "sft": (SftRecipe, run_sft),
    "recon": (ReconRecipe, run_recon),
    "lora": (LoraRecipe, run_lora),
    "base": (BaseConfig, run_base),
    "hypernetwork": (HypernetworkRecipe, run_hypernetwork),
    "baselines": (BaselinesRecipe, run_baselines),
}
"""By `kind`, the settings and what runs them; the last three are those of the bundled model."""


FREE = ("log_every", "save_every", "keep", "buckets", "engine")
"""Settings that may change when a run is resumed: its steps stay the same."""


def find_recipe(name: str) -> Path:
    """The file of a recipe that ships with the package, or a file of your own.

    Raises:
        TrainingError: there is neither.
    """
    for path in [*(folder / f"{name}.yaml" for folder in FOLDERS), Path(name)]:
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for folder in FOLDERS for path in folder.glob("*.yaml")))
    raise TrainingError(f"no recipe {name!r}: expected a YAML file or one of {known}")


def run_recipe(
    name: str,
    output_dir: Path,
    overrides: list[str],
    report: Callable[[str], None] = print,
    resume: bool = False,
    kinds: tuple[str, ...] = tuple(KINDS),
) -> Path:
    """Run a recipe: the name of one that ships with the package, or a path.

    Args:
        name: of a bundled recipe, or a YAML file. Its `kind` says what is trained; paths in it are beside the file.
        output_dir: a folder named after the recipe is made in it. A base or checkpoint that a recipe of the bundled
            model names is the one that the recipe of that name trained into the same `output_dir`, or else the bundled
            one.
        overrides: `KEY=VALUE` settings.
        report: receives progress, line by line.
        resume: go on from where this recipe was broken off in `output_dir`.
        kinds: that are expected.

    Returns:
        The folder with the result, the resolved settings in `recipe.json`, and the picture `training.png`.

    Raises:
        TrainingError: the recipe is unknown, cannot be read or is of another kind; or an unfinished run is in the way,
            or is resumed with settings that would make it another run.
    """
    path = find_recipe(name)
    data = read_recipe(path, overrides)
    kind = data.pop("kind", None)
    if kind not in kinds:
        raise TrainingError(f"the recipe {path} is of kind {kind!r}: expected one of {', '.join(kinds)}")
    settings, runner = KINDS[kind]
    recipe: Any = parse(settings, data)
    target = output_dir / path.stem
    resolved = {"kind": kind, **dataclasses.asdict(recipe)}
    main = os.environ.get("RANK", "0") == "0"  # of the processes that a launcher started
    if main:
        _check_unfinished(target, resolved, resume)
        write_atomically(target / "recipe.json", json.dumps(resolved, indent=2) + "\n")
    runner(recipe, target, report, resume, path.parent.resolve())
    if main:
        plot_training(target)
    return target


def _check_unfinished(target: Path, settings: dict[str, Any], resume: bool) -> None:
    """Refuse, before anything is loaded or overwritten, to lose an unfinished run or to turn it into another one."""
    if not (states := find_states(target)):
        return
    if not resume:
        raise TrainingError(
            f"{target} holds an unfinished run ({states[-1].name}): resume it, choose another folder, or delete "
            f"{states[-1].parent}"
        )
    try:
        begun = _flat(json.loads((target / "recipe.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return
    now = _flat(settings)
    changed = [key for key in begun if begun[key] != now.get(key) and not set(key.split(".")) & set(FREE)]
    if changed:
        was = ", ".join(f"{key} {begun.get(key)!r} (now {now.get(key)!r})" for key in changed[:4])
        raise TrainingError(f"{target} was begun with other settings: {was}: resume it with those, or begin anew")


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
