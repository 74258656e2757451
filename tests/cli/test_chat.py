"""`t2l chat`: base and adapter in one conversation, typed or from a pipe."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
import termios
from pathlib import Path

import forks
import pytest

from text2lora import LoraAdapter
from text2lora.cli.chat import Pair
from text2lora.errors import InvalidInputError
from text2lora.inference import complete, generate_answers

TEMPLATE = (
    "{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<answer>' }}{{ m['content'] }}{% endfor %}<answer>"
)


@pytest.fixture
def adapter(t2l) -> LoraAdapter:
    return t2l.generate_lora("upper case the city", scale=2)


@pytest.fixture
def chat_tokenizer(base_dir: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def pair(adapter: LoraAdapter, base, chat_tokenizer) -> Pair:
    return Pair(adapter, adapter.apply_to(base), chat_tokenizer, 1.0, 6)


@pytest.fixture
def say(t2l_command, adapter: LoraAdapter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Pipes lines into `t2l chat`."""
    adapter.save_pretrained(tmp_path / "mine")

    def call(lines: str | bytes, *options: object):
        data = lines if isinstance(lines, bytes) else lines.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        return t2l_command("chat", "mine", "--max-new-tokens", 6, *options)

    return call


def test_both_sides_answer_as_they_do_alone(pair: Pair, adapter: LoraAdapter, load_base, chat_tokenizer) -> None:
    alone = generate_answers(load_base(), chat_tokenizer, ["x"], 6)
    adapted = generate_answers(adapter.apply_to(load_base()), chat_tokenizer, ["x"], 6)
    assert pair.answer("x") == {"base": alone[0], "adapter": adapted[0]}
    assert alone != adapted


def test_pieces_make_up_the_answers(pair: Pair) -> None:
    pieces = {"base": "", "adapter": ""}

    def grow(side: str, piece: str) -> None:
        pieces[side] += piece

    answers = pair.answer("x", grow)
    assert {side: text.strip() for side, text in pieces.items()} == answers


def test_each_side_remembers_its_own_answers(pair: Pair, load_base, chat_tokenizer) -> None:
    pair.remembers = True
    first, second = pair.answer("x"), pair.answer("y")
    text = f"<user>x<answer>{first['base']}<user>y<answer>"
    assert second["base"] == complete(load_base(), chat_tokenizer, [text], 6)[0].strip()
    assert [turn["content"] for turn in pair.turns["adapter"]] == ["x", first["adapter"], "y", second["adapter"]]
    pair.reset()
    assert pair.answer("x") == first


def test_nothing_is_remembered_unless_asked_for(pair: Pair) -> None:
    first = pair.answer("x")
    pair.answer("y")
    assert pair.answer("x") == first


def test_the_oldest_turns_make_room(pair: Pair) -> None:
    pair.remembers = True
    for word in ("a" * 100, "b" * 100, "c" * 100):  # the context has 256 tokens, a byte each
        pair.answer(word)
    assert [turn["content"][0] for turn in pair.turns["base"] if turn["role"] == "user"] == ["b", "c"]
    with pytest.raises(
        InvalidInputError, match="reads at most 250, because the answer must fit into its context of 256"
    ):
        pair.answer("d" * 300)
    assert len(pair.turns["base"]) == 4


def test_no_more_is_written_than_fits(adapter: LoraAdapter, chat_tokenizer) -> None:
    """On a base whose positions are a table, so that one too many is an IndexError."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=261, n_positions=32, n_embd=8, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None
    )
    model = get_peft_model(GPT2LMHeadModel(config), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    pair = Pair(adapter, model.eval(), chat_tokenizer, 1.0, 500)
    assert pair.answer("x" * 20).keys() == {"base", "adapter"}  # of 22 tokens, and 10 are written
    with pytest.raises(InvalidInputError, match="reads at most 24, because the answer must fit into its context of 32"):
        pair.answer("x" * 23)


def test_strength_changes_in_place(pair: Pair) -> None:
    before = pair.answer("x")
    pair.rescale(0)
    silent = pair.answer("x")
    assert silent["adapter"] == silent["base"] == before["base"]
    pair.rescale(1)
    assert pair.answer("x") == before


def test_lines_of_a_pipe_are_answered(say) -> None:
    result = say("x\n\n  y\n")
    assert result.code == 1
    assert "Line 2: the input is empty" in result.err
    assert result.err.splitlines()[-1] == "Error: 1 of 3 lines have no answer: see the warnings above"
    assert [line.split("\t")[0] for line in result.out.splitlines()] == ["x", "", "y"]


def test_lines_of_a_pipe_are_no_commands(say) -> None:
    result = say("x\n/scale 0\n/quit\nx\n", "--json", "--fresh")
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert [row["input"] for row in rows] == ["x", "/scale 0", "/quit", "x"]
    assert rows[0] == rows[-1]


def test_commands_work_at_a_terminal(say, terminal) -> None:
    result = say("/scale 0\n/scale -1\n/scale\n/reset\n/help\n/dance\n /x\n/quit\nnever\n", "--fresh")
    assert result.code == 0
    for told in ("cannot be -1", "scale 0", "on its own already", "/help shows this", "Unknown command /dance"):
        assert told in result.err
    assert "/x" in result.out
    assert "never" not in result.out


def test_a_line_that_does_not_fit_has_no_answer(say) -> None:
    result = say(f"{'x' * 999}\ny\n", "--json")
    assert result.code == 1
    first, second = map(json.loads, result.out.splitlines())
    assert (first["adapter"], second["input"]) == (None, "y")
    assert "the input has 1,001 tokens, but this base model reads at most 250" in first["error"]


def test_bytes_that_are_no_text_are_replaced(say) -> None:
    result = say("\ufeffx\n".encode() + b"\xffx\x00\ny\n", "--json")
    assert result.code == 0, result.err
    assert [json.loads(line)["input"] for line in result.out.splitlines()] == ["x", "\ufffdx\x00", "y"]


def test_the_words_of_other_chats_leave_a_terminal_and_are_input_in_a_pipe(say, terminal) -> None:
    assert "never" not in say("exit\nnever\n").out
    assert say("exit\n", "--json").out.startswith('{"input": "exit"')


def test_terminal_shows_sides_and_what_comes_next(say, terminal) -> None:
    result = say("[bold]x\n")
    assert "upper case the city" in result.out
    assert "[bold]x" in result.out
    assert result.out.split().index("base") < result.out.split().index("adapter")
    assert result.out.splitlines()[-1] == "Next: t2l export zip mine"


def test_nothing_is_said_of_a_base_that_another_one_replaces(
    t2l_command, say, adapter: LoraAdapter, base_dir: Path, tmp_path: Path, terminal
) -> None:
    spec = dataclasses.replace(adapter.spec, base_model_name_or_path="nano")
    dataclasses.replace(adapter, spec=spec).save_pretrained(tmp_path / "mine")
    result = say("x\n", "--base", base_dir)
    assert result.code == 0, result.err
    assert "For example" not in result.out  # an order that only nano reads


def test_what_is_no_adapter_is_one_line(t2l_command) -> None:
    result = t2l_command("chat", "/nothing/here")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: /nothing/here does not exist: pass a folder or a Hub id"


@pytest.mark.slow
@pytest.mark.parametrize("key", ["\x04", "\x03"], ids=["ctrl-d", "ctrl-c"])
def test_typed_at_a_real_terminal(forked, tmp_path: Path, key: str) -> None:
    pexpect = pytest.importorskip("pexpect")
    from pexpect.fdpexpect import fdspawn

    from text2lora import Text2LoraModel

    Text2LoraModel.from_pretrained("nano").generate_lora("Return the city in capital letters.").save_pretrained(
        tmp_path / "city"
    )
    screen, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (30, 90))
    command = [sys.executable, "-m", "text2lora", "chat", str(tmp_path / "city")]
    process = forks.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
    os.close(terminal)
    child = fdspawn(screen, encoding="utf-8", timeout=600)
    child.expect("each line is answered on its own")
    child.expect("\n> ")
    child.sendline("order A12: 2 x tent for Ada Berg, ship to Oslo, total $80.00, 2024-05-01")
    child.expect("OSLO")
    child.expect("h> ")  # after the cursor was shown again
    child.send(key)
    while child.expect(["Next: t2l export", pexpect.TIMEOUT], timeout=60):
        child.send(key)  # Python's input() may miss a Ctrl-C between showing the prompt and waiting for a key
    child.expect(pexpect.EOF)
    child.close()
    assert process.wait() == 0
