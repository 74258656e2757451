"""Recipes: a YAML file says everything about a training run, and `run_recipe` runs it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from text2lora.errors import TrainingError
from text2lora.nano.pretrain import BaseConfig
from text2lora.nano.train import BaselinesRecipe, HypernetworkRecipe, run_base, run_baselines, run_hypernetwork
from text2lora.training.plot import plot_training
from text2lora.training.recipe import parse, read_recipe
from text2lora.training.runs import LoraRecipe, ReconRecipe, SftRecipe, run_lora, run_recon, run_sft

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
        TrainingError: the recipe is unknown, cannot be read or is of another kind.
    """
    path = find_recipe(name)
    data = read_recipe(path, overrides)
    kind = data.pop("kind", None)
    if kind not in kinds:
        raise TrainingError(f"the recipe {path} is of kind {kind!r}: expected one of {', '.join(kinds)}")
    settings, runner = KINDS[kind]
    recipe: Any = parse(settings, data)
    target = output_dir / path.stem
    target.mkdir(parents=True, exist_ok=True)
    resolved = json.dumps({"kind": kind, **dataclasses.asdict(recipe)}, indent=2)
    main = os.environ.get("RANK", "0") == "0"  # of the processes that a launcher started
    if main:
        (target / "recipe.json").write_text(resolved + "\n", encoding="utf-8")
    runner(recipe, target, report, resume, path.parent.resolve())
    if main:
        plot_training(target)
    return target
