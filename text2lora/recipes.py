"""Recipes: a YAML file says everything about a training run, and `run_recipe` runs it."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from text2lora.arguments import checked
from text2lora.errors import TrainingError
from text2lora.files import write_atomically
from text2lora.training import fit
from text2lora.training.average import AverageRecipe, run_average
from text2lora.training.engine import is_main_process, plain_settings
from text2lora.training.plot import plot_training
from text2lora.training.recipe import parse, read_recipe
from text2lora.training.runs import LoraRecipe, ReconRecipe, SftRecipe, run_lora, run_recon, run_sft
from text2lora.training.state import find_states, remove_states

FOLDER = Path(__file__).parent / "training" / "recipes"

Kind = tuple[type, Callable[..., None]]
"""The settings of a recipe, a dataclass, and what runs it."""

KINDS: dict[str, Kind] = {
    "sft": (SftRecipe, run_sft),
    "recon": (ReconRecipe, run_recon),
    "lora": (LoraRecipe, run_lora),
    "average": (AverageRecipe, run_average),
}


RECIPE_NAME = "recipe.json"
FINISHED_NAME = "finished"
"""An empty file that a run leaves in its folder when it has ended."""
FREE = {*fit.FREE, "buckets", "engine"}
"""Settings of a recipe that may change when a run is resumed."""


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe that ships with the package, or a file of your own.

    Raises:
        TrainingError: there is neither.
    """
    for path in (FOLDER / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    bundled, here = sorted(path.stem for path in FOLDER.glob("*.yaml")), Path(name)
    if here.is_dir():
        inside = sorted(here.glob("*.yaml"), key=lambda path: (path.stem != "recipe", path))
        raise TrainingError(f"{name} is a folder: expected a YAML file{f', such as {inside[0]}' if inside else ''}")
    with_ending = [path for path in (f"{name}.yaml", f"{name}.yml") if Path(path).is_file()]
    known = [*bundled, *map(str, sorted(here.parent.glob("*.y*ml")))]
    near = with_ending or difflib.get_close_matches(str(name), known, 1, 0.75)
    hint = f"did you mean {near[0]!r}? Otherwise " if near else ""
    raise TrainingError(
        f"the recipe {str(name)!r} does not exist: {hint}expected a YAML file or one of {', '.join(bundled)}"
    )


@checked(TrainingError)
def run_recipe(
    name: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    overrides: list[str],
    report: Callable[[str], None] = print,
    resume: bool = False,
    kinds: Mapping[str, Kind] = KINDS,
    force: bool = False,
) -> Path:
    """Run a recipe: the name of one that ships with the package, or a path.

    Args:
        name: the name of a bundled recipe, or a YAML file. Its `kind` says what is trained; paths in it are relative to
            the file.
        output_dir: the folder in which a folder named after the recipe is made.
        overrides: settings to change, as `KEY=VALUE`.
        report: receives progress, line by line.
        resume: whether to continue an interrupted run of this recipe in `output_dir`; a finished one stays as it is.
        kinds: the kinds of recipes, by name; `examples/nano` has some of its own.
        force: whether to start again where there is a run already.

    Returns:
        The folder with the result, the resolved settings in `recipe.json`, and the picture `training.png`.

    Raises:
        TrainingError: the recipe is unknown, cannot be read or is of another kind; or another run is in the way, or a
            run is resumed with settings that would make it another one.
        CheckpointError: a model or an adapter that it names cannot be loaded.
    """
    if resume and force:
        raise TrainingError("a run can be resumed or replaced, not both: choose --resume or --force")
    path = find_recipe(name)
    kind, recipe = _parse_kind(path, overrides, kinds)
    target = Path(output_dir) / path.stem
    resolved = {"kind": kind, **dataclasses.asdict(recipe)}
    main, finished = is_main_process(), target / FINISHED_NAME
    if main and force:
        for state in find_states(target):
            remove_states(state.parent.parent)
    elif finished.is_file() and not (force or resume):
        raise TrainingError(
            f"{target} holds a finished run: choose another folder, or replace it with --force (force=True)"
        )
    if main:
        _check_resumption(target, type(recipe), resolved, resume)
    if finished.is_file() and resume:
        report(f"{target} is finished already, so it stays as it is")
        return target
    if main:
        finished.unlink(missing_ok=True)
        write_atomically(target / RECIPE_NAME, json.dumps(resolved, indent=2) + "\n")
    kinds[kind][1](recipe, target, report, resume, path.parent.resolve())
    if main:
        plot_training(target)
        finished.touch()
    return target


def _parse_kind(path: Path, overrides: list[str], kinds: Mapping[str, Kind]) -> tuple[str, Any]:
    """The kind of a recipe, and its settings."""
    data = read_recipe(path, overrides)
    kind = data.pop("kind", None)
    if kind not in kinds:
        raise TrainingError(f"the recipe {path} is of kind {kind!r}: expected one of {', '.join(kinds)}")
    return kind, parse(kinds[kind][0], data)


def _check_resumption(target: Path, recipe: type, settings: dict[str, Any], resume: bool) -> None:
    """Refuse, before anything is loaded or overwritten, to lose an unfinished run or to turn a run into another one."""
    states, path = find_states(target), target / RECIPE_NAME
    if states and not resume:
        raise TrainingError(
            f"{target} holds an unfinished run ({states[-1].name}): continue it with --resume (resume=True), choose "
            "another folder, or replace it with --force (force=True)"
        )
    if not resume or not (states or path.exists()):
        return
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(begun, dict):
            raise ValueError("it holds no settings")
        if (kind := begun.pop("kind", None)) == settings["kind"]:
            begun = dataclasses.asdict(parse(recipe, begun))  # settings that an earlier version did not have: defaults
        begun = plain_settings({"kind": kind, **begun})
    except (OSError, ValueError, AttributeError, TrainingError) as error:
        raise TrainingError(
            f"{path} cannot be read ({error}), so the settings of the run are unknown: start again in another folder"
        ) from error
    now = plain_settings(json.loads(json.dumps(settings)))
    changed = [key for key in begun | now if (key in begun, begun.get(key)) != (key in now, now.get(key))]
    if changed := [key for key in changed if not FREE & set(key.split("."))]:
        was = ", ".join(f"{k} {begun.get(k, 'unset')} (now {now.get(k, 'unset')})" for k in changed[:4])
        raise TrainingError(
            f"{target} was started with other settings: {was}: resume it with those, or start again in another folder"
        )
