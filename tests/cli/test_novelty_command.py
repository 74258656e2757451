"""What `t2l make` says of a description, and the commands behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from text2lora import CheckpointError, DescriptionWarning, InvalidDescriptionError, TaskError
from text2lora.cli import app

JUNK = "asdfjkl; qwpoeiru zxmcv"
GOOD = "Return the city in upper case."


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_make_says_where_a_description_stands(tmp_path: Path) -> None:
    result = run("make", GOOD, "-o", tmp_path / "a")
    assert result.exit_code == 0, result.output
    assert "Nearest training tasks: " in result.output
    assert "Warning" not in result.output


def test_make_warns_of_junk_and_makes_it_all_the_same(tmp_path: Path) -> None:
    result = run("make", JUNK, "-o", tmp_path / "a")
    assert result.exit_code == 0, result.output
    assert "Warning" in result.stderr
    assert "is unlike what this checkpoint was trained on" in result.stderr
    assert (tmp_path / "a" / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["make", JUNK, GOOD],
        ["make", "--file", "two.txt", "--json"],
        ["make", JUNK, GOOD, "--mix", "1,1", "-o", "mixed"],
        ["compare", JUNK, GOOD, "-m", "nano", "--prompt", "x"],
        ["run", "--do", JUNK, "-m", "nano", "x"],
    ],
)
def test_every_command_warns_of_junk_once_in_a_line_of_its_own(
    words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.txt").write_text(f"{JUNK}\n{GOOD}\n", encoding="utf-8")
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert result.stderr.count(f"Warning: {JUNK!r} is unlike what this checkpoint was trained on") == 1
    assert "UserWarning" not in result.stderr
    assert not [warning for warning in recwarn if warning.category is DescriptionWarning]


def test_several_descriptions_of_junk_share_a_warning(tmp_path: Path) -> None:
    assert "(the same holds for 1 more description)" in run("make", JUNK, "zzz qqq", "-o", tmp_path).stderr


def test_json_holds_the_novelty_of_every_part(tmp_path: Path) -> None:
    report = json.loads(run("make", GOOD, JUNK, "--mix", "70,30", "-o", tmp_path / "a", "--json").stdout)
    assert [row["warning"] is None for row in report["novelty"]] == [True, False]
    assert report["novelty"][0]["nearest"][0]["similarity"] > 0.5


def test_strict_makes_nothing_of_junk(tmp_path: Path) -> None:
    for texts in ([JUNK], [GOOD, JUNK]):
        result = run("make", *texts, "--strict", "-o", tmp_path / "a")
        assert isinstance(result.exception, InvalidDescriptionError)
        assert not (tmp_path / "a").exists()
    assert run("make", GOOD, "--strict", "-o", tmp_path / "a").exit_code == 0


def test_checkpoints_without_statistics_say_so(checkpoint_dir: Path, tmp_path: Path) -> None:
    result = run("make", "the city", "-m", checkpoint_dir, "-o", tmp_path / "a")
    assert "unknown, because this checkpoint has no statistics" in result.output
    report = run("make", "the city", "-m", checkpoint_dir, "-o", tmp_path / "b", "--json")
    assert json.loads(report.stdout)["novelty"] is None
    result = run("make", "the city", "-m", checkpoint_dir, "-o", tmp_path / "c", "--strict")
    assert isinstance(result.exception, CheckpointError)
    assert not (tmp_path / "c").exists()


def test_statistics_can_be_written_later(checkpoint_dir: Path, tmp_path: Path) -> None:
    rows = [
        {"task": "city", "descriptions": ["the city", "city"]},
        {"task": "upper", "descriptions": ["upper case"]},
        {"task": "unseen", "descriptions": ["case"], "used_for_training": False},
    ]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = run("convert", checkpoint_dir, tmp_path / "checkpoint", "--tasks", tmp_path / "tasks.jsonl")
    assert result.exit_code == 0, result.output
    made = run("make", "the city", "-m", tmp_path / "checkpoint", "-o", tmp_path / "a")
    assert "Nearest training tasks: city" in made.output


def test_statistics_need_two_tasks(checkpoint_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"task": "city", "descriptions": ["the city", "city"]}')
    result = run("convert", checkpoint_dir, tmp_path / "checkpoint", "--tasks", tmp_path / "tasks.jsonl")
    assert isinstance(result.exception, TaskError)
    assert "fewer than two tasks" in str(result.exception)
    assert not (tmp_path / "checkpoint").exists()


def test_compare_names_the_wordings_in_a_pipe_and_gives_a_scale_for_their_cosines() -> None:
    words = ("compare", GOOD, "the [bold] price", "-m", "nano", "--prompt", "x")
    result = run(*words)
    head, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert head == ["", "base", GOOD, "the [bold] price"]
    assert rows[-1][0] == "cosine of ΔW with the [bold] price"
    least, most = json.loads(run(*words, "--json").stdout)["unrelated"]
    assert 0 < least < most < 1
    assert f"have cosines from {least:.2f} to {most:.2f}" in " ".join(result.stderr.split())
