"""`t2l check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from text2lora.cli import app
from text2lora.errors import OutputError

ROWS = [
    {"name": name, "descriptions": [f"the {name}", f"{name} case"], "examples": [["x", answer], ["y", answer]]}
    for name, answer in (("city", "A"), ("upper", "b"), ("case", "12"))
]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


def test_own_tasks_give_a_verdict_a_report_and_pictures(checkpoint_dir: Path, tasks: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = CliRunner().invoke(app, ["check", str(checkpoint_dir), "--tasks", str(tasks), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "Verdict: the " in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "conditions.png", "report.json", "similarity.png",
    ]  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["conditions"]["matched"]["loss"]["samples"] == 6


def test_a_folder_with_something_else_stays_as_it_is(checkpoint_dir: Path, tasks: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    command = ["check", str(checkpoint_dir), "--tasks", str(tasks)]
    for target, told in (("mine", "contains thesis.txt"), ("mine/thesis.txt", "is a file"), ("tasks.jsonl/x", "")):
        result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / target)])
        assert isinstance(result.exception, OutputError)
        assert told in str(result.exception)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "tasks.jsonl"]


def test_json_is_all_that_goes_to_stdout(checkpoint_dir: Path, tasks: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(checkpoint_dir), "--tasks", str(tasks), "--examples", "1", "--json"])
    report = json.loads(result.stdout)
    assert report["conditions"]["none"]["exact_match"]["samples"] == 3
    assert [row["task"] for row in report["tasks"]] == ["city", "upper", "case"]


def test_other_checkpoints_need_tasks(checkpoint_dir: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(checkpoint_dir)])
    assert result.exit_code == 2
    assert "--tasks" in result.output


def test_nano_depends_on_the_description() -> None:
    result = CliRunner().invoke(app, ["check", "nano", "--examples", "1", "--json"])
    report = json.loads(result.stdout)
    assert report["explained"]["low"] > 0.5
    assert report["conditions"]["matched"]["exact_match"]["mean"] > 0.6
    assert report["conditions"]["shuffled"]["exact_match"]["mean"] < 0.2
    assert report["conditions"]["paraphrased"]["exact_match"]["tasks"] == 54
