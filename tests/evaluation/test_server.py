"""A server that speaks OpenAI's API, and one that stumbles."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from chat_server import serve_chat

from text2lora.errors import ServerError
from text2lora.evaluation.backends import Request, ServerBackend
from text2lora.evaluation.data import TaskData
from text2lora.evaluation.harness import evaluate_tasks, make_conditions, summarise
from text2lora.evaluation.tasks import BENCHMARKS, EvalItem, own_task


class Server(ThreadingHTTPServer):
    """Says the last word that it was sent; the model `upper` in capitals.

    `faults` are statuses to answer first; `pairs` keeps each request until there is another one.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: list[str] | None = ["base", "upper"]
        self.faults: list[int] = []
        self.bodies: list[dict] = []
        self.keys: set[str | None] = set()
        self.pairs: threading.Barrier | None = None
        self.running = self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def reply(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        models = self.server.models
        known = self.path == "/v1/models" and models is not None
        self.reply(200 if known else 404, {"data": [{"id": name} for name in models or []]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.faults:
            return self.reply(self.server.faults.pop(), {"error": "stumbled"})
        self.server.bodies.append(body)
        self.server.keys.add(self.headers["Authorization"])
        self.server.running += 1
        self.server.most = max(self.server.most, self.server.running)
        if self.server.pairs:
            self.server.pairs.wait(60)
        self.server.running -= 1
        word = [turn for turn in body["messages"] if turn["role"] == "user"][-1]["content"].split()[-1]
        text = word.upper() if body["model"] == "upper" else word
        return self.reply(200, {"choices": [{"message": {"role": "assistant", "content": text}}]})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def examples(count: int) -> list[EvalItem]:
    return [EvalItem(f"say word{i}", f"WORD{i}", "x") for i in range(count)]


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_conditions_ask_for_their_models(server: Server, suffix: str) -> None:
    data = TaskData(own_task("mine"), examples(6), [])
    server.pairs = threading.Barrier(2)
    backend = ServerBackend(server.url + suffix, "base", ["upper"], concurrency=4)
    figures = summarise(evaluate_tasks(backend, [data], make_conditions(["upper"], "Shout.", shots=0)))
    assert {f.condition: f.accuracy.mean for f in figures} == {"base": 0, "base + description": 0, "upper": 1}
    assert 1 < server.most <= 4
    assert server.keys == {None}
    body = server.bodies[-1]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("upper", 0, 64, 0)


def test_turns_prefill_and_stop_are_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    task = BENCHMARKS["gsm8k"]
    shots = [EvalItem("1+1?", "2", "Two. The answer is 2.")]
    data = TaskData(task, [EvalItem("1 + 2 is 3", "3", "x")], shots)
    conditions = make_conditions(shots=1)
    found = evaluate_tasks(ServerBackend(server.url, "base"), [data], conditions)
    assert [sample.score for sample in found] == [1, 1]
    body = server.bodies[1]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user", "assistant"]
    assert body["messages"][-1]["content"] == task.prefill
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["stop"] == list(task.stop)
    assert found[1].prompt.startswith("user: 1+1?\nassistant: Two.")
    assert server.keys == {"Bearer sk-mine"}


def test_busy_server_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    backend = ServerBackend(server.url, "base")
    sleep = time.sleep
    monkeypatch.setattr("text2lora.server.time.sleep", lambda s: waits.append(s) if s >= 1 else sleep(s))
    server.faults = [503, 429, 500]
    (answer,) = backend.answer([Request(("say hi",))], 4, ())
    assert answer.text == "hi"
    assert waits == [1, 2, 4]
    server.faults = [503] * 9
    with pytest.raises(ServerError, match="refuses chat/completions with status 503"):
        backend.answer([Request(("say hi",))], 4, ())


def test_what_cannot_work_is_said_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerError, match="does not serve a model 'lower': it has base, upper"):
        ServerBackend(server.url, "base", ["lower"])
    with pytest.raises(ServerError, match="is not the address of a server"):
        ServerBackend("localhost:8000", "base")
    with pytest.raises(ServerError, match="cannot be reached"):
        ServerBackend("http://127.0.0.1:9", "base", retries=0)
    server.models = None  # a server that does not list them
    backend = ServerBackend(server.url, "base")
    server.faults = [400]
    with pytest.raises(ServerError, match=r"status 400.*stumbled"):
        backend.answer([Request(("say hi",))], 4, ())


def test_a_request_that_is_refused_is_not_answered_and_the_others_are() -> None:
    """As a prompt that is too long for the model."""
    requests = [Request((text,)) for text in ("short", "long " * 99)]

    def answer(body: dict) -> str | int:
        return 400 if len(body["messages"][-1]["content"]) > 99 else "yes"

    with serve_chat(answer) as url:
        backend = ServerBackend(url, "chat")
        first, second = backend.answer(requests, 4, ())
        with pytest.raises(ServerError, match="with status 400"):
            backend.answer(requests[1:], 4, ())
    assert (first.text, first.problem) == ("yes", "")
    assert second.text == ""
    assert "with status 400" in second.problem
