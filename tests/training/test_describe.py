"""Descriptions written by a chat model, here a server that the tests control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_server import serve_chat
from typer.testing import CliRunner

from text2lora.cli import app
from text2lora.errors import InvalidArgumentError, OutputError, ServerError, TaskError
from text2lora.server import ChatClient
from text2lora.training.describe import hold_out, local_chat, read_list, write_descriptions
from text2lora.training.task_files import read_tasks

EXAMPLES = [("hello", "HELLO"), ("bye", "BYE")]
ANSWERS = [
    'Sure! Here are some:\n1. Write the text in capitals.\n2) "Turn all letters into upper case."\n- Shout',
    "<think>hm\nWhat is it about?</think>\n* Write the text in CAPITALS!\n* What does it look like in block letters?",
    "Make every letter a large one.\nGive back the word the way a headline is set.",
]


def chat(request: str, seed: int) -> str:
    return ANSWERS[seed % len(ANSWERS)]


def test_lists_are_read_in_any_style() -> None:
    assert read_list(ANSWERS[0]) == ["Write the text in capitals.", "Turn all letters into upper case."]
    assert read_list(ANSWERS[1]) == ["Write the text in CAPITALS!", "What does it look like in block letters?"]
    assert read_list("<think>never ends\nbecause of this") == []
    unspaced = "描述：\n1. 用大写字母回答问题\n2. 都市名を返してください。\n好的"
    assert read_list(unspaced) == ["用大写字母回答问题", "都市名を返してください。"]


def test_descriptions_differ_from_each_other_and_from_known_ones() -> None:
    written = write_descriptions(
        EXAMPLES, 4, chat, known=["turn ALL letters into upper-case"], report=lambda line: None
    )
    assert written == [
        "Write the text in capitals.",
        "What does it look like in block letters?",
        "Make every letter a large one.",
        "Give back the word the way a headline is set.",
    ]


def test_it_stops_when_the_model_has_no_more_ideas() -> None:
    requests: list[str] = []

    def same(request: str, seed: int) -> str:
        requests.append(request)
        return ANSWERS[0]

    assert len(write_descriptions(EXAMPLES, 9, same, patience=3, report=lambda line: None)) == 2
    assert len(requests) == 4
    assert all("Input: hello\nOutput: HELLO" in request for request in requests)
    assert len(set(requests)) == 4  # in other styles
    with pytest.raises(TaskError, match=r"no usable description in 2 requests.*'no'"):
        write_descriptions(EXAMPLES, 9, lambda request, seed: "no", patience=2, report=lambda line: None)
    with pytest.raises(TaskError, match="no examples"):
        write_descriptions([], 9, same)


def test_a_share_is_held_out() -> None:
    texts = [str(number) for number in range(10)]
    train, held = hold_out(texts, 0.2)
    assert len(held) == 2
    assert sorted(train + held) == texts
    assert hold_out(texts, 0) == (texts, [])
    with pytest.raises(InvalidArgumentError, match="the held-out share is 1"):
        hold_out(texts, 1)


def test_the_command_completes_a_task_file(tmp_path: Path) -> None:
    path = tmp_path / "loud.yaml"
    path.write_text("definition: In capitals.\nexamples: [[hello, HELLO], [bye, BYE]]\n")
    bodies: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> str:
        bodies.append(body)
        return ANSWERS[len(bodies) % 3]

    with serve_chat(answer, ("one", "two")) as url:
        command = ["describe", str(path), "-o", str(path), "-n", "5", "--held-out", "0.4", "--server", url]
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert {body["model"] for body in bodies} == {"one"}
    (task,) = read_tasks(path)
    assert (len(task.descriptions), len(task.held_out_descriptions)) == (3, 2)
    assert task.examples[0].with_definition() == ("In capitals.\n\nhello", "HELLO")
    printed = CliRunner().invoke(app, ["describe", str(path), "-n", "5"])
    assert printed.exit_code == 2
    assert "--model" in printed.output


def test_examples_alone_make_a_task(tmp_path: Path) -> None:
    path = tmp_path / "loud.jsonl"
    path.write_text(
        '{"prompt": "a", "response": "A"}\n{"messages": [{"role": "user", "content": "b"}], "response": "B"}\n'
    )
    with serve_chat(lambda body: ANSWERS[0]) as url:
        done = CliRunner().invoke(app, ["describe", str(path), "-n", "2", "--server", url])
    assert done.exit_code == 0, done.output
    (tmp_path / "out.yaml").write_text(done.stdout)
    (task,) = read_tasks(tmp_path / "out.yaml")
    assert (task.name, len(task.examples), len(task.descriptions)) == ("loud", 2, 2)


def test_descriptions_without_spaces_differ_by_their_letters() -> None:
    """Thai sentences consist of the same letters; two that say the same differ in a few."""
    reply = "อ่านข้อความของลูกค้าแล้วตอบกลับอย่างสุภาพและเห็นอกเห็นใจ โดยอธิบายนโยบายการคืนสินค้าให้ชัดเจน"
    films = "จำแนกรีวิวภาพยนตร์ว่าเป็นบวกหรือลบ แล้วตอบเพียงคำเดียวโดยไม่ต้องอธิบายเหตุผลเพิ่มเติมให้ผู้อ่านทราบ"
    cities = "请仔细阅读下面这段文字并且用大写字母写出其中提到的那个城市的名称", "用小写字母写出城市"
    answer = "\n".join([reply, films, cities[0], cities[0] + "吧", cities[1]])
    examples = [("a", "A"), ("b", "B")]
    written = write_descriptions(examples, 9, lambda request, seed: answer, report=lambda line: None)
    assert written == [reply, films, *cities]


def test_the_command_runs_a_model_on_the_device_that_it_is_given(tmp_path: Path, base_dir: Path) -> None:
    path = tmp_path / "loud.yaml"
    path.write_text("examples: [[hello, HELLO], [bye, BYE]]\n")
    command = ["describe", str(path), "--model", str(base_dir), "--device"]
    refused = CliRunner().invoke(app, [*command, "cuda:99"], env={"COLUMNS": "200"})
    assert refused.exit_code == 2
    assert "cuda:99" in refused.output


def test_a_local_model_writes_the_same_for_the_same_seed(base, tokenizer) -> None:
    write = local_chat(base, tokenizer, max_new_tokens=6)
    assert write("x", 1) == write("x", 1)
    assert write("x", 1) != write("x", 2)


def test_a_busy_server_is_asked_again_and_a_refusal_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("text2lora.server.time.sleep", waits.append)
    statuses = [503, 429]
    with serve_chat(lambda body: statuses.pop() if statuses else "yes") as url:
        assert ChatClient(url + "/v1/").chat("chat", []) == "yes"
        assert waits == [1, 2]
    with (
        serve_chat(lambda body: 401) as url,
        pytest.raises(ServerError, match="refuses chat/completions with status 401"),
    ):
        ChatClient(url).chat("chat", [])
    with pytest.raises(ServerError, match="cannot be reached"):
        ChatClient("http://127.0.0.1:9", retries=0).models()
    with pytest.raises(ServerError, match="is not the address of a server"):
        ChatClient("localhost")


def test_no_other_file_is_replaced_without_force(tmp_path: Path) -> None:
    path, other = tmp_path / "loud.yaml", tmp_path / "notes.yaml"
    path.write_text("examples: [[hello, HELLO], [bye, BYE]]\n")
    other.write_text("keep: me\n")
    with serve_chat(lambda body: ANSWERS[0]) as url:
        command = ["describe", str(path), "-n", "2", "--server", url, "-o"]
        for target, told in ((other, "exists"), (tmp_path / "a.jsonl", "would contain YAML")):
            refused = CliRunner().invoke(app, [*command, str(target)])
            assert isinstance(refused.exception, OutputError)
            assert told in str(refused.exception)
        assert other.read_text() == "keep: me\n"
        assert CliRunner().invoke(app, [*command, str(other), "--force"]).exit_code == 0
    assert read_tasks(other)[0].descriptions
