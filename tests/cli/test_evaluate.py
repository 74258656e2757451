"""`t2l eval` in one process; what it measures is tested in tests/evaluation."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from text2lora.cli import app
from text2lora.errors import EvaluationError, MissingExtraError, OutputError
from text2lora.installation import install_command

PAGE = Path(__file__).parents[2] / "docs/how-to/evaluate.md"


def t2l(*args: object):
    return CliRunner().invoke(app, list(map(str, args)))


def plain(text: str) -> str:
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"prompt": f"say {i}", "answer": str(i)}) for i in range(6)]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("columns", [60, 80])
def test_a_terminal_gets_a_table_and_no_markdown(tasks: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    for name, value in {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "0", "COLUMNS": str(columns)}.items():
        monkeypatch.setenv(name, value)
    result = t2l("eval", "-m", "nano", "-t", "mine.jsonl", "--limit", 2, "--shots", 0, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "accuracy, 95 %" in " ".join(result.stdout.split())
    assert "|--" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= columns
    assert re.search(r"\(\d\.\d+ to \d\.\d+\)", result.stdout)


def test_a_pipe_gets_a_row_with_all_that_a_figure_is(tasks: Path) -> None:
    result = t2l("eval", "-m", "nano", "-t", "mine.jsonl", "--limit", 2, "--shots", 1, "--device", "cpu")
    head, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert head == ["task", "model", "n", "accuracy", "95 % interval", "against the base model", "95 % interval"]
    assert [row[:3] for row in rows] == [["mine", "base", "2"], ["mine", "base + 1-shot", "2"]]
    assert all(len(row) == len(head) for row in rows)


def test_figures_are_shown_though_they_cannot_be_written(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("text2lora.evaluation.report.write_report", full)
    result = t2l("eval", "-m", "nano", "-t", "mine.jsonl", "--limit", 2, "--shots", 0, "-o", "out", "--device", "cpu")
    assert "No space left" in str(result.exception)
    assert "mine\tbase\t2\t" in result.stdout
    assert "Written" not in result.output


def test_json_holds_the_figures(tasks: Path) -> None:
    result = t2l("eval", "-m", "nano", "-t", "mine.jsonl", "--limit", 2, "--json", "-o", "out", "--device", "cpu")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)["figures"]
    assert [(row["condition"], row["n"]) for row in figures] == [("base", 2), ("base + 3-shot", 2)]
    assert (tasks / "out" / "table.md").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "Missing option '--model'"),
        (["-m", "nano"], "Missing option '--tasks'"),
        (["-m", "nano", "-t", ","], "expected at least one task"),
        (["-m", "nano", "-t", "mine.jsonl", "--device", "abacus"], "cannot be used here"),
    ],
)
def test_wrong_calls_are_refused(args: list[str], told: str, tasks: Path) -> None:
    result = t2l("eval", *args)
    assert result.exit_code == 2
    assert told in plain(result.output)


def test_what_cannot_work_is_refused_before_the_model_is_loaded(tasks: Path) -> None:
    program = {"prompt": "def f():\n", "canonical_solution": "    pass\n", "entry_point": "f", "test": ""}
    (tasks / "code.jsonl").write_text("\n".join([json.dumps(program)] * 4))
    (tasks / "more").mkdir()
    (tasks / "more" / "mine.jsonl").write_text((tasks / "mine.jsonl").read_text())
    for args, error, told in [
        (["-t", "humaneval", "--data", "code.jsonl"], EvaluationError, "allow it with --allow-code-execution"),
        (["-t", "mine.jsonl,more/mine.jsonl"], EvaluationError, "two tasks have the same name"),
        (["-t", "lm_eval:sciq", "--server", "http://x"], EvaluationError, "leave out --server"),
        (["-t", "mine.jsonl", "-o", "more"], OutputError, "mine.jsonl, which is not part of an earlier report"),
        (["-t", "nothing"], EvaluationError, "'nothing' is not a task"),
    ]:
        result = t2l("eval", "-m", "./no-such-model", *args)
        assert isinstance(result.exception, error)
        assert told in str(result.exception)


def test_missing_extra_is_named(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.tasks", None)
    result = t2l("eval", "-m", "nano", "-t", "lm_eval:sciq")
    assert isinstance(result.exception, MissingExtraError)
    assert install_command("eval") in str(result.exception)


def fences(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return [code for name, code in found if name == language]


def test_what_the_page_does_with_nano_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(fences("python")[0], str(PAGE), "exec"), {})
    for line in "".join(fences("")).replace("\\\n", " ").splitlines():
        result = t2l(*shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
    table = Path("report/table.md").read_text()
    shown = PAGE.read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if "3-shot" not in line]  # whose figure is near the edge of rounding
    assert all(row.replace("|  |", "| |") in shown.replace("|  |", "| |") for row in rows)


def test_other_commands_of_the_page_have_these_options() -> None:
    evaluate = typer.main.get_command(app).commands["eval"]  # type: ignore[attr-defined]
    lines = [line for line in "".join(fences("sh")).replace("\\\n", " ").splitlines() if line.startswith("t2l eval ")]
    assert len(lines) == 5
    for line in lines:
        evaluate.make_context("eval", shlex.split(line)[2:])
