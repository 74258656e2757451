"""`t2l run`: side by side in a terminal, the answer alone in a pipe; and `t2l list`."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from pathlib import Path

import pytest

import text2lora
from text2lora import LoraAdapter, Text2LoraModel
from text2lora.cli.adapters import answer_table
from text2lora.cli.chat import input_lines
from text2lora.cli.run import _windows
from text2lora.inference import without_loop

OPTIONS = ("--max-new-tokens", 6)


@pytest.fixture
def mine(t2l_command, t2l: Text2LoraModel) -> LoraAdapter:
    adapter = t2l.generate_lora("the city", scale=2)
    adapter.save_pretrained("mine")
    return adapter


@pytest.fixture
def answer(mine: LoraAdapter):
    return text2lora.function(mine, max_new_tokens=6)


@pytest.fixture
def pipe(t2l_command, mine, monkeypatch: pytest.MonkeyPatch):
    """Pipes text into `t2l run`."""

    def call(text: str, *words: object):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
        return t2l_command("run", *words, *OPTIONS)

    return call


def one_line(text: str) -> str:
    return " ".join(text.splitlines())


def test_a_terminal_shows_base_and_adapter_side_by_side(t2l_command, terminal, answer, mine) -> None:
    result = t2l_command("run", "mine", "[bold]y", *OPTIONS)
    assert (result.code, "[bold]y" in result.out) == (0, True)
    cells = [cell.strip() for line in result.out.splitlines() if "│" in line for cell in line.split("│")]
    bare = text2lora.function(mine.scaled(0), max_new_tokens=6)("[bold]y")
    assert answer("[bold]y") != bare
    assert "base" in result.out
    assert one_line(bare).split()[0] in " ".join(cells)
    assert one_line(answer("[bold]y")).split()[0] in " ".join(cells)


def test_a_script_gets_the_answers_alone(t2l_command, answer, checkpoint_dir: Path) -> None:
    result = t2l_command("run", "mine", "x", "y", *OPTIONS)
    assert result.out.splitlines() == [one_line(answer("x")), one_line(answer("y"))]
    made = t2l_command("run", "--do", "the city", "--model", checkpoint_dir, "x", *OPTIONS)
    expected = text2lora.function(do="the city", model=checkpoint_dir, max_new_tokens=6)("x")
    assert made.out == one_line(expected) + "\n"
    shown = json.loads(t2l_command("run", "mine", "x", "--json", *OPTIONS).out)
    assert shown.keys() == {"input", "answer", "confidence"}
    assert (shown["input"], shown["answer"], 0 < shown["confidence"] < 1) == ("x", answer("x"), True)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_each_line_of_a_pipe_gets_a_line(pipe, answer, batch_size: int) -> None:
    texts = ["x", "a longer line", "y"] * 4
    result = pipe("\n".join(texts) + "\n", "mine", "--batch-size", batch_size)
    assert result.out.split("\n")[:-1] == [one_line(answer(text)) for text in texts]
    assert pipe("", "mine").out == ""


def test_a_sentence_works_in_a_pipe(pipe, checkpoint_dir: Path) -> None:
    result = pipe("x\ny", "--do", "the city", "--model", checkpoint_dir, "--json")
    assert [json.loads(line)["input"] for line in result.out.splitlines()] == ["x", "y"]


@pytest.mark.parametrize("given", [["yes, no"], ["yes", "no"]])
def test_labels_are_the_only_answers(pipe, mine, given: list[str]) -> None:
    function = text2lora.function(mine, labels=["yes", "no"])
    labels = [word for label in given for word in ("--labels", label)]
    rows = [json.loads(line) for line in pipe("x\nsome longer line\n", "mine", *labels, "--json").out.splitlines()]
    assert [row["answer"] for row in rows] == [function("x"), function("some longer line")]
    assert all(0 < row["confidence"] < 1 for row in rows)
    assert rows[0]["probabilities"] == pytest.approx(function.scores("x"), rel=1e-3)
    assert pipe("x\n", "mine", *labels).out == function("x") + "\n"


def test_lines_that_cannot_be_answered_keep_their_place(pipe, answer) -> None:
    text = "x\n\n" + "z" * 300 + "\ny\n"
    result = pipe(text, "mine")
    assert result.out.split("\n") == [one_line(answer("x")), "", "", one_line(answer("y")), ""]
    assert result.code == 1
    assert "Line 2: the input is empty" in result.err
    assert "Line 3: the input has 302 tokens" in result.err
    assert "2 of 4 lines have no answer" in result.err
    rows = [json.loads(line) for line in pipe(text, "mine", "--json").out.splitlines()]
    assert "the input is empty" in rows[1]["error"]
    assert [row["answer"] is None for row in rows] == [False, True, True, False]


def test_a_pipe_beside_inputs_is_not_ignored_in_silence(t2l_command, answer, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("y\n")
    with open(tmp_path / "lines.txt") as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        result = t2l_command("run", "mine", "x", *OPTIONS)
    assert result.err.startswith("Standard input is not read: the command names inputs")
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert t2l_command("run", "mine", "x", *OPTIONS) == (0, result.out, "")
    assert result.out == one_line(answer("x")) + "\n"


def test_an_adapter_that_is_read_as_an_input_is_told(t2l_command, mine, checkpoint_dir: Path) -> None:
    result = t2l_command("run", "--do", "the city", "mine", "x", "-m", checkpoint_dir, *OPTIONS)
    assert result.err == "mine is read as an input: to use this adapter, leave out --do"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("Oo, no, no, no, no, no, no", "Oo, no, no, no…"),
        ("1\n\n2\n\n2\n\n2\n\n2", "1\n\n2\n\n2\n\n2…"),
        ("It ships to Oslo.", "It ships to Oslo."),
        ("100000000", "100000000"),
    ],
)
def test_a_base_that_repeats_itself_is_cut_beside_an_adapter(answer: str, told: str) -> None:
    assert without_loop(answer) == told
    _, base, adapter = answer_table([{"input": "x", "base": answer, "adapter": answer}]).columns
    assert [*base.cells, *adapter.cells] == [f"[dim]{told}[/]", f"[bold green]{answer}[/]"]


def test_bytes_that_are_no_text_are_told(pipe, answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text2lora.cli.run.input_lines", lambda live: ["x", "\ufffd"])
    result = pipe("", "mine")
    assert result.out.splitlines() == [one_line(answer("x")), one_line(answer("\ufffd"))]
    assert result.err == "Line 2: bytes that are not UTF-8 are read as \ufffd: save it as UTF-8"


def test_lines_that_are_there_do_not_wait_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    end, start = os.pipe()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(os.fdopen(end, "rb"), encoding="utf-8"))
    with os.fdopen(start, "w") as writer:
        windows = _windows(8)
        writer.write("one\ntwo\n")
        writer.flush()
        first = next(windows)  # the pipe is still open
        writer.write("three")
    assert [*first, *(line for window in windows for line in window)] == ["one", "two", "three"]


def test_no_more_lines_are_read_than_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def endless(live: bool):
        nonlocal read
        while True:
            read += 1
            yield "x"

    monkeypatch.setattr("text2lora.cli.run.input_lines", endless)
    before = threading.active_count()
    windows = _windows(4)
    assert [len(next(windows)) for _ in range(3)] == [4, 4, 4]
    assert threading.active_count() == before + 1
    assert read <= 12 + 4 + 2  # those in the queue, and those on their way into and out of it


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name an adapter, or say what to do with --do"),
        (["--do", "the city", "--base", "nano", "x"], "works only with an adapter"),
        (["mine", "--model", "nano", "x"], "works only with --do"),
        (["mine", "--example", "a => b", "x"], "--example / --examples: works only with --do"),
        (["mine", "x", "--labels", "yes"], "expected two or more"),
        (["--do", " ", "x"], "the description is empty"),
    ],
)
def test_wrong_calls_are_told(t2l_command, mine, words, message: str) -> None:
    result = t2l_command("run", *words)
    assert result.code in (1, 2)
    assert message in " ".join(result.err.replace("│", " ").split()), result.err


def test_a_terminal_without_an_input_is_asked_for_one(t2l_command, mine, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.StringIO()
    stdin.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", stdin)
    result = t2l_command("run", "mine")
    assert (result.code, "pipe lines in" in result.err) == (2, True)


def test_list_shows_the_adapters_that_were_made_here(t2l_command, mine, t2l, terminal, base_dir: Path) -> None:
    t2l.generate_lora("[bold]two").save_pretrained("adapters/two")
    Path("broken").mkdir()
    Path("broken/adapter_config.json").write_text("{")
    Path("upstream").mkdir()
    for name in ("adapter_config.json", "hypermod.pt"):
        Path("upstream", name).write_text("{}")
    rows = json.loads(t2l_command("list", "--json").out)
    assert {row["path"]: row["description"] for row in rows} == {
        "broken": None,
        "mine": "the city",
        "adapters/two": "[bold]two",
    }
    assert rows[1]["bytes"] == mine.num_bytes
    assert rows[1]["base_model"] == str(base_dir)
    shown = t2l_command("list")
    assert "[bold]two" in shown.out
    assert "cannot be read: t2l info broken says" in " ".join(shown.out.split())
    assert "Next: t2l run mine" in shown.out
    assert [row["path"] for row in json.loads(t2l_command("list", "adapters", "--json").out)] == ["adapters/two"]
    t2l.generate_lora("many words about a city and a price").save_pretrained("a-name-that-is-longer-than-others")
    assert "a-name-that-is-longer-than-others " in t2l_command("list").out
    told = json.loads(t2l_command("info", "mine", "--json").out)
    assert (told["description"], told["bytes"]) == ("the city", mine.num_bytes)
    Path("empty").mkdir()
    assert "No adapters in" in t2l_command("list", "empty").out
    assert "empty is neither an adapter nor a checkpoint: expected a folder with" in t2l_command("info", "empty").err
    assert "is not a folder" in t2l_command("list", "nothing").err


def test_lines_of_windows_are_those_of_unix(monkeypatch) -> None:
    for ending in ("\n", "\r\n"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"one{ending}two{ending}".encode()), newline=""))
        assert list(input_lines(live=False)) == ["one", "two"]
