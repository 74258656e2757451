"""Several processes take the same steps as one; each way of saving memory does, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import forks
import psutil
import pytest
import torch
from typer.testing import CliRunner

from text2lora import Text2LoraModel
from text2lora.cli import app

SCRIPT = Path(__file__).with_name("sft_process.py")
FIT = {"steps": 6, "lr": 0.0, "adamw_lr": 0.0001, "log_every": 1, "eval_every": 3, "clip": 0.5}
# Muon orthogonalises in bfloat16, so that float noise would show: all to AdamW
SETTINGS = {"tasks": 5, "examples": 2, "conditions": ["matched", "shuffled", "junk", "none"], "l2": 0.01, "fit": FIT}


@pytest.fixture(scope="module")
def train(checkpoint_dir: Path, base_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    def run(
        processes: int,
        *flags: str,
        folder: Path | None = None,
        code: int = 0,
        launcher: tuple[str, ...] = (),
        **settings: object,
    ) -> Path:
        folder = folder or tmp_path_factory.mktemp("run")
        arguments = [*launcher, SCRIPT, processes, checkpoint_dir, base_dir, folder, json.dumps(SETTINGS | settings)]
        arguments += flags
        with forks.Popen(
            [sys.executable, *map(str, arguments)],
            env=os.environ | {"ACCELERATE_USE_CPU": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            _, said = process.communicate(timeout=1200)
        assert (process.returncode == 0) == (code == 0), said[-3000:]
        return folder

    return run


@pytest.fixture(scope="module")
def alone(train) -> Path:
    return train(1)


def rows(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    """Float noise grows with the steps, whence the small learning rate: AdamW's first steps have its size whatever the
    gradient's. So the gradient is compared before; one that is not summed over the processes would be off by half."""
    for row, expected in zip(rows(other), rows(one), strict=True):
        if row["step"] > 2:
            row.pop("grad_norm", None), expected.pop("grad_norm", None)
        assert row == pytest.approx(expected, rel=2e-3, abs=2e-3)


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(train, alone: Path) -> None:
    two = train(2)
    assert_same_run(alone, two)
    figures = json.loads((two / "figures.json").read_text())
    assert set(figures) == {
        f"seen{condition}/{metric}"
        for condition in ("", " (shuffled)", " (junk)", " (none)")
        for metric in ("exact_match", "loss")
    }
    assert "seen (shuffled)" in (two / "README.md").read_text()


@pytest.mark.slow
def test_accelerate_launch_takes_the_same_steps(train, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU its option for several processes is called so, too; each process is one by itself for the script."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    two = train(1, launcher=("-m", "accelerate.commands.launch", *options))
    assert [(folder / "processes").read_text() for folder in (alone, two)] == ["1", "2"]
    assert_same_run(alone, two)


@pytest.mark.slow
def test_a_process_may_have_nothing_to_validate(train) -> None:
    assert_same_run(*(train(n, probes=1, fit=FIT | {"steps": 1, "eval_every": 1}) for n in (1, 2)))


@pytest.mark.slow
def test_a_base_split_over_two_processes_changes_nothing(train) -> None:
    assert_same_run(train(1, tasks=4), train(2, tasks=4, engine={"shard_base": True}))


@pytest.mark.slow
def test_an_interruption_of_one_process_stops_both_and_they_resume(train, alone: Path) -> None:
    stopped = train(2, code=1, stop_at=2)
    assert len([row for row in rows(stopped) if "loss" in row]) < 6
    assert_same_run(alone, train(2, "resume", folder=stopped))


@pytest.mark.parametrize(
    "settings", [{"buckets": 5}, {"engine": {"gradient_checkpointing": True}}], ids=["micro-batches", "checkpointing"]
)
def test_ways_to_save_memory_take_the_same_steps(train, alone: Path, settings: dict) -> None:
    assert_same_run(alone, train(1, **settings))


@pytest.mark.slow
def test_the_command_resumes_after_either_of_its_processes_was_killed(
    checkpoint_dir: Path, base_dir: Path, tmp_path: Path
) -> None:
    tasks = Path(__file__).parents[2] / "examples/ten-tasks/tasks"
    recipe, start_from = tmp_path / "recipe.yaml", tmp_path / "start"
    model = Text2LoraModel.from_pretrained(checkpoint_dir, dtype=torch.float32, dropout=0.0)  # masks differ by process
    model.save_pretrained(start_from)
    settings = {
        "kind": "sft",
        "base": {"name": str(base_dir)},
        "tasks": [{"path": str(tasks)}],
        "start_from": str(start_from),
        "split": {"unseen_tasks": 0, "examples": 2, "wordings": 1},
        "sft": SETTINGS
        | {"max_length": 64, "fit": FIT | {"steps": 40, "adamw_lr": 1e-5, "eval_every": 0, "save_every": 1}},
    }
    recipe.write_text(json.dumps(settings))
    command = ["-m", "text2lora", "train", recipe, "--output", tmp_path / "runs"]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    run = tmp_path / "runs" / "recipe"

    def start(*arguments: object) -> subprocess.Popen:
        environment = os.environ | {"ACCELERATE_USE_CPU": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return forks.Popen(
            [sys.executable, *map(str, arguments)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    for victim, options in ((1, []), (0, ["--resume"])):
        before = {path.name for path in run.glob("state/*")}
        with start(*launch, *command, *options) as process:
            while not {path.name for path in run.glob("state/*")} - before:
                assert process.poll() is None, process.stderr.read()[-3000:]
                time.sleep(0.01)
            (rank,) = [
                child
                for child in psutil.Process(process.pid).children(recursive=True)
                if child.environ().get("RANK") == str(victim)
            ]
            rank.kill()
            process.stderr.read()
        assert process.returncode != 0
        assert not (run / "model.safetensors").exists()
    with start(*launch, *command, "--resume") as process:
        said = process.stderr.read()
    assert process.returncode == 0, said[-3000:]
    assert CliRunner().invoke(app, ["train", str(recipe), "--output", str(tmp_path / "alone")]).exit_code == 0
    assert_same_run(tmp_path / "alone" / "recipe", run)
