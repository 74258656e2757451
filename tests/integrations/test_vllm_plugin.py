"""The plugin against vLLM's own classes; no model is served.

Runs in an environment with vLLM; elsewhere in the one whose interpreter T2L_TEST_VLLM_PYTHON names, if it has pytest.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from text2lora import LoraAdapter
from text2lora.bundled import BASES
from text2lora.integrations.on_demand import OnDemandSettings

PYTHON = os.environ.get("T2L_TEST_VLLM_PYTHON", "")
BASE = str(BASES["nano"])
TEXT = "Return the city in capitals."

here = pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is not installed")


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON or sys.executable == PYTHON, reason="T2L_TEST_VLLM_PYTHON names no other interpreter")
def test_the_plugin_fits_vllm() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("T2L_", "PYTEST_"))}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rN", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "failed" not in done.stdout


@pytest.fixture
def resolver(tmp_path: Path):
    from text2lora.integrations.vllm import Text2LoraResolver

    return Text2LoraResolver(OnDemandSettings("nano", cache_dir=tmp_path, rate=3))


def resolve(resolver, name: str, base: str = BASE):
    return asyncio.run(resolver.resolve_lora(base, name))


@here
def test_registering_is_for_those_who_ask_and_loads_nothing() -> None:
    code = """
import os, sys
from vllm.lora.resolver import LoRAResolverRegistry
from text2lora.integrations.vllm import register
register()
assert not LoRAResolverRegistry.get_supported_resolvers()
os.environ["T2L_VLLM_CHECKPOINT"] = "no/such-checkpoint"
register()
first = LoRAResolverRegistry.get_resolver("text2lora")
register()
assert LoRAResolverRegistry.get_resolver("text2lora") is first
assert not {"text2lora.modeling", "text2lora.encoder", "peft"} & set(sys.modules)
os.environ["T2L_VLLM_RATE"] = "many"
try:
    register()
except Exception as error:
    assert "T2L_VLLM_RATE is 'many'" in str(error)
else:
    sys.exit("a bad setting was taken")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@here
def test_vllm_reads_what_is_lent(resolver) -> None:
    import msgspec
    from vllm.config.lora import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper
    from vllm.lora.request import LoRARequest

    request = resolve(resolver, f"t2l:{TEXT}")
    assert isinstance(request, LoRARequest)
    assert (request.lora_name, request.lora_int_id > 0) == (f"t2l:{TEXT}", True)
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=LoRARequest)  # as to the engine's process
    assert type(sent) is LoRARequest
    assert (sent.lora_name, sent.lora_path) == (request.lora_name, request.lora_path)
    spec = LoraAdapter.from_pretrained(request.lora_path).spec
    helper = PEFTHelper.from_local_dir(request.lora_path, max_position_embeddings=None)
    helper.validate_legal(LoRAConfig(max_lora_rank=8))
    assert (helper.r, spec.use_rslora) == (spec.r, True)
    assert helper.vllm_lora_scaling_factor == spec.scaling
    with pytest.raises(ValueError, match="max_lora_rank"):
        helper.validate_legal(LoRAConfig(max_lora_rank=1))


@here
def test_names_of_others_are_left_to_them(resolver) -> None:
    for name in ("", "sql-lora", "T2L:x", "../../etc/passwd"):
        assert resolve(resolver, name) is None


@here
@pytest.mark.parametrize(
    ("name", "base", "status", "message"),
    [
        ("t2l:", BASE, 400, "the description is empty"),
        ("t2l:a\x00b", BASE, 400, "control characters"),
        ("t2l:" + "x" * 2001, BASE, 400, "2,001 characters"),
        ("t2l:city", "org/another", 503, "its log says why"),
    ],
)
def test_refusals_are_answers_of_http(resolver, name: str, base: str, status: int, message: str) -> None:
    from fastapi import HTTPException

    with pytest.raises(HTTPException) as refused:
        resolve(resolver, name, base)
    assert refused.value.status_code == status
    assert message in refused.value.detail


@here
def test_too_many_are_refused(resolver) -> None:
    from fastapi import HTTPException

    kept = [resolve(resolver, f"t2l:city {n}") for n in range(3)]
    with pytest.raises(HTTPException) as refused:
        resolve(resolver, "t2l:city 4")
    assert refused.value.status_code == 429
    assert resolve(resolver, "t2l:city 1").lora_path == kept[1].lora_path


@here
def test_the_event_loop_goes_on_while_adapters_are_made(resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    turns = threading.Semaphore(0)

    def slow(text: str, base: str):
        made.append(threading.current_thread().name)
        assert turns.acquire(timeout=60), "the event loop stands still"
        return lend(text, base)

    resolve(resolver, "t2l:city")  # loads
    lend = resolver.adapters.lend
    monkeypatch.setattr(resolver.adapters, "lend", slow)

    async def run() -> None:
        tasks = [asyncio.create_task(resolver.resolve_lora(BASE, f"t2l:city{' ' * n}")) for n in range(3)]
        while not made:
            await asyncio.sleep(0.01)
        for _ in tasks:  # no adapter is made before the loop says so
            turns.release()
        assert len({request.lora_path for request in await asyncio.gather(*tasks)}) == 1

    asyncio.run(run())
    assert threading.current_thread().name not in made


@here
def test_a_folder_is_lent_for_as_long_as_vllm_keeps_the_request(resolver) -> None:
    from text2lora.errors import LimitError

    request = resolve(resolver, "t2l:city")
    cache = resolver.adapters._cache
    cache.max_bytes = 400_000  # one adapter of nano's, and a bit
    other = LoraAdapter.from_pretrained(request.lora_path)
    with pytest.raises(LimitError, match="the 1 adapters in use"):
        cache.lend("other", lambda: other)
    folder = Path(request.lora_path)
    del request
    gc.collect()
    cache.lend("other", lambda: other)
    assert not folder.exists()
