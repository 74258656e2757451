"""Recipes: YAML in, dataclasses out."""

from __future__ import annotations

from pathlib import Path

import pytest

from text2lora import TrainingError
from text2lora.training.fit import FitConfig
from text2lora.training.recipe import parse, read_recipe
from text2lora.training.sft import SftConfig


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("kind: hypernetwork\nsft:\n  tasks: 8\n  fit:\n    steps: 10\n    lr: 1\n")
    return path


def test_recipe_becomes_a_dataclass(recipe: Path) -> None:
    config = parse(SftConfig, read_recipe(recipe)["sft"])
    assert config == SftConfig(tasks=8, fit=FitConfig(steps=10, lr=1.0))
    assert isinstance(config.fit.lr, float)


def test_numbers_may_be_written_as_programmers_write_them(recipe: Path) -> None:
    config = parse(SftConfig, read_recipe(recipe, ["sft.fit.lr=1e-4", "sft.noise=2E-1"])["sft"])
    assert (config.fit.lr, config.noise) == (1e-4, 0.2)


def test_overrides_win_and_may_be_new(recipe: Path) -> None:
    settings = ["sft.fit.steps=100", "sft.noise=0.5", "new.key=[a, b]"]
    data = read_recipe(recipe, settings)
    assert data["sft"] == {"tasks": 8, "noise": 0.5, "fit": {"steps": 100, "lr": 1}}
    assert data["new"] == {"key": ["a", "b"]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["sft.fit.stpes=1"], r"recipe.fit has no setting 'stpes': did you mean 'steps'\?"),
        (["sft.zzzzzz=1"], "recipe has no setting 'zzzzzz': expected some of tasks, examples"),
        (["sft.steps=5"], "recipe has no setting 'steps': did you mean 'fit.steps'"),
        (["sft.conditions=[matched, shufled]"], "'shufled' is wrong, did you mean 'shuffled'.* expected list of"),
        (["sft.weighting=tokens"], "weighting is 'tokens': did you mean 'token'.* expected 'token' or 'answer'"),
        (["sft.tasks=many"], "recipe.tasks is 'many': expected int"),
        (["sft.tasks=true"], "recipe.tasks is True: expected int"),
        (["sft.tasks=1.5"], "recipe.tasks is 1.5: expected int"),
        (["sft.fit=3"], "recipe.fit is 3: expected a mapping"),
        (["sft.tasks"], "'sft.tasks': expected KEY=VALUE"),
        (["sft.fit.lr=fast"], "recipe.fit.lr is 'fast': expected a number"),
        (["sft.engine.mixed_precision=no"], "mixed_precision is False: expected 'no' or 'bf16' .*`no`.* need quotes"),
        (["sft.tasks=0"], "tasks is 0: expected 1 or more"),
        (["sft.buckets=0"], "buckets is 0: expected 1 or more"),
        (["sft.max_length=-5"], "max_length is -5: expected 2 or more"),
        (["sft.noise=-1"], "noise is -1.0: expected 0 or more"),
        (["sft.token_dropout=5"], "token_dropout is 5.0: expected a share from 0 to 1"),
        (["sft.weighting=word"], "weighting is 'word': expected 'token' or 'answer'"),
        (["sft.fit.steps=0"], "steps is 0: expected 1 or more"),
        (["sft.fit.lr=.nan"], "lr is nan: expected a number"),
        (["sft.fit.log_every=0"], "log_every is 0: expected 1 or more"),
        (["sft.fit.keep=0"], "keep is 0: expected 1 or more"),
    ],
)
def test_mistakes_are_named(recipe: Path, settings: list[str], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        parse(SftConfig, read_recipe(recipe, settings)["sft"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b: 1\na: [", r"cannot be read \(line 2: expected the node content"),
        ("a: 2024-13-45", "cannot be read"),
        ("- a", "is not a mapping"),
        ("", "mapping"),
    ],
)
def test_files_that_are_no_recipe_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(TrainingError, match=message):
        read_recipe(tmp_path / "bad.yaml")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_recipe(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("setting", ["sft.tasks.more=1", "kind.x=1", "sft.tasks=[", "sft.tasks=2024-13-45"])
def test_overrides_that_cannot_be_applied_are_named(recipe: Path, setting: str) -> None:
    with pytest.raises(TrainingError):
        read_recipe(recipe, [setting])
