"""The recipes that made nano, shortened to a step or two."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import bundle
import pytest
import torch
from safetensors.torch import load_file
from train import BASE_PARTS, ORDER, PARTS, train

from text2lora import Text2LoraModel
from text2lora.bundled import BASES, CHECKPOINTS
from text2lora.errors import CheckpointError, TrainingError
from text2lora.training.recipe import read_recipe

BASE = [
    "hidden_size=64",
    "intermediate_size=64",
    "num_layers=1",
    "documents={queries: 1, headed: 1, shots: 1}",
    "fit.steps=2",
]
MORE = ["documents={queries: 1}", "fit.steps=1", "fit.lr=0.01"]
HYPERNETWORK = [
    "tasks.0.arguments.per_group={field: 1}",
    "tasks.0.arguments.validate={dev_freeform: 1}",
    "sft.tasks=2",
    "sft.fit.steps=1",
]
SETTINGS = dict.fromkeys(BASE_PARTS, MORE) | {
    "nano-base-1": BASE,
    "nano-1": [*HYPERNETWORK, "model.encoder_max_length=8"],
    "nano": [],
    "nano-baselines": ["oracles=2", "fit.steps=1"],
}


pytestmark = pytest.mark.usefixtures("no_picture")


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All recipes of `make nano` in their order, validated on a few descriptions."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pretrain.GROUP_WEIGHTS", {"field": 1})
        patch.setattr("text2lora.recipes.plot_training", lambda folder: None)
        patch.chdir(folder)
        for name in ORDER:
            train(name, Path("runs"), SETTINGS.get(name, HYPERNETWORK), silent)
    return folder / "runs"


def test_a_recipe_goes_on_from_the_run_that_it_starts_from(runs: Path) -> None:
    for first, second in [*itertools.pairwise(BASE_PARTS), *itertools.pairwise(PARTS)]:
        before, after = (load_file(runs / name / "model.safetensors") for name in (first, second))
        assert before.keys() == after.keys()
        changes = [(before[key] - after[key]).abs().max().item() for key in before]
        assert 0 < max(changes) < 0.1  # a step away, not made anew


def test_the_checkpoint_is_the_mean_of_the_last_parts(runs: Path) -> None:
    four, five, six, mean = (load_file(runs / name / "model.safetensors") for name in (*PARTS[-3:], "nano"))
    for key, value in mean.items():
        torch.testing.assert_close(value, (four[key] + five[key] + 2 * six[key]) / 4)


def test_the_checkpoint_names_the_bundled_base(runs: Path) -> None:
    assert Text2LoraModel.from_pretrained(runs / "nano").config.base_model_name_or_path == "nano"


def test_a_missing_first_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="runs/nano-base-3"):
        train("nano-base", tmp_path, [], silent)


def test_what_was_trained_is_put_into_the_package(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "BASES", {"nano": tmp_path / "base"})
    monkeypatch.setattr(bundle, "CHECKPOINTS", {"nano": tmp_path / "checkpoint"})
    monkeypatch.setattr(bundle, "TASKS", {"nano": tmp_path / "tasks.jsonl"})
    monkeypatch.setattr(bundle, "BASELINES", tmp_path / "baselines")
    bundle.bundle(runs)
    for folder, bundled in (("base", BASES), ("checkpoint", CHECKPOINTS)):
        names = {path.name for path in bundled["nano"].iterdir()} - {"confidence.json"}  # which is fitted afterwards
        assert {path.name for path in (tmp_path / folder).iterdir()} == names
        assert (
            load_file(tmp_path / folder / "model.safetensors").keys()
            == load_file(bundled["nano"] / "model.safetensors").keys()
            or folder == "base"
        )  # which has one layer here
    rows = [json.loads(line) for line in (tmp_path / "checkpoint/metrics.jsonl").read_text().splitlines()]
    assert [row["recipe"] for row in rows if "recipe" in row] == [*PARTS, "nano"]
    assert (tmp_path / "baselines" / "oracles.safetensors").is_file()


def test_the_last_three_parts_of_the_hypernetwork_read_new_descriptions() -> None:
    folder = Path(bundle.__file__).parent / "recipes"
    parts = [read_recipe(folder / f"{name}.yaml") for name in PARTS]
    arguments = [part["tasks"][0]["arguments"] for part in parts]
    assert all(part["per_group"] == arguments[0]["per_group"] for part in arguments[:-1])
    assert [part.get("seed", 0) for part in arguments] == [0, 0, 0, 1, 2, 3]


def test_training_is_the_same_twice(tmp_path: Path) -> None:
    weights = []
    for name in ("a", "b"):
        train("nano-base-1", tmp_path / name, BASE, silent)
        weights.append(load_file(tmp_path / name / "nano-base-1" / "model.safetensors"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_bundled_curves_name_every_part_in_order() -> None:
    for folder, parts in (
        (BASES["nano"], BASE_PARTS),
        (CHECKPOINTS["nano"], [*PARTS, "nano"]),
    ):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["recipe"] for row in rows if "recipe" in row] == parts
        assert sum("loss" in row for row in rows) > 100


def test_a_recipe_that_was_broken_off_is_resumed(tmp_path: Path) -> None:
    settings = [*BASE, "fit.steps=3", "fit.log_every=1", "fit.save_every=1"]

    def break_off(line: str) -> None:
        if line.startswith("step 2/"):
            raise OSError("the terminal is gone")

    train("nano-base-1", tmp_path / "whole", settings, silent)
    with pytest.raises(OSError, match="the terminal is gone"):
        train("nano-base-1", tmp_path / "broken", settings, break_off)
    begun = (tmp_path / "broken" / "nano-base-1" / "recipe.json").read_text()
    other = [*settings, "weighting=answer", "documents.shots=2"]
    with pytest.raises(TrainingError, match="holds an unfinished run"):
        train("nano-base-1", tmp_path / "broken", other, silent)
    with pytest.raises(TrainingError, match=r"started with other settings: documents.shots 1 \(now 2\), weighting"):
        train("nano-base-1", tmp_path / "broken", other, silent, resume=True)
    assert (tmp_path / "broken" / "nano-base-1" / "recipe.json").read_text() == begun
    train("nano-base-1", tmp_path / "broken", [*settings, "fit.keep=3"], silent, resume=True)
    one, two = (load_file(tmp_path / run / "nano-base-1" / "model.safetensors") for run in ("whole", "broken"))
    assert all(torch.equal(one[key], two[key]) for key in one)
