"""Adapters on demand: which descriptions are taken, how many, for which base, and what is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tiny_models import randomise

from text2lora import CheckpointError, InvalidDescriptionError, LoraAdapter, Text2LoraModel
from text2lora.bundled import BASES
from text2lora.errors import LimitError, ServingError
from text2lora.integrations import on_demand
from text2lora.integrations.on_demand import AdaptersOnDemand, OnDemandSettings, RateLimit


@pytest.fixture
def settings(checkpoint_dir: Path, tmp_path: Path) -> OnDemandSettings:
    return OnDemandSettings(str(checkpoint_dir), cache_dir=tmp_path / "cache")


@pytest.fixture
def lend(settings: OnDemandSettings, base_dir: Path) -> Callable[..., Path]:
    """The folder that a server with some settings lends for a description."""

    def call(description: str, **changes: object) -> Path:
        adapters = AdaptersOnDemand(dataclasses.replace(settings, **changes))
        return adapters.lend(description, str(base_dir)).folder

    return call


def test_the_folder_holds_what_the_description_gives(lend, t2l: Text2LoraModel, tmp_path: Path) -> None:
    folder = lend("upper case the city")
    found, expected = LoraAdapter.from_pretrained(folder), t2l.generate_lora("upper case the city")
    assert all(torch.equal(found.weights[key], value) for key, value in expected.weights.items())
    assert folder.parent == tmp_path / "cache" / "adapters"


def test_no_text_leaves_the_cache(lend, tmp_path: Path) -> None:
    for text in ("../../etc/passwd", "/etc/passwd", ".", "..", "a/../../b", "~/x", "COM1", "\u202e..", "x" * 2000):
        folder = lend(text)
        assert folder.resolve().parent == tmp_path / "cache" / "adapters"
        assert LoraAdapter.from_pretrained(folder).metadata["description"] == text
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the description is empty"),
        (" \n", "the description is empty"),
        ("ring \x07", "control characters"),
        ("half \ud800", "control characters"),
        ("x" * 2001, "the description has 2,001 characters: expected at most 2,000"),
    ],
)
def test_junk_is_refused_before_anything_is_loaded(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidDescriptionError, match=message):
        AdaptersOnDemand(OnDemandSettings(str(tmp_path / "none"))).lend(text, "base")


def test_only_new_adapters_count_and_a_broken_checkpoint_is_named(settings, base_dir: Path, tmp_path: Path) -> None:
    adapters = AdaptersOnDemand(dataclasses.replace(settings, rate=2))
    for text in ("one", "two", "one", " two\n", "one"):
        adapters.lend(text, str(base_dir))
    with pytest.raises(LimitError, match=r"more than 2 new adapters in a minute: try again in \d\d s"):
        adapters.lend("three", str(base_dir))
    adapters.lend("two", str(base_dir))
    again = AdaptersOnDemand(dataclasses.replace(settings, rate=0))  # a new server, the same cache
    again.lend("one", str(base_dir))
    with pytest.raises(LimitError, match="more than 0 new adapters in a minute: try again later"):
        again.lend("three", str(base_dir))
    with pytest.raises(CheckpointError, match="does not exist"):
        AdaptersOnDemand(OnDemandSettings(str(tmp_path / "none"))).lend("one", "base")


@pytest.mark.parametrize("broken", ["from_pretrained", "generate_lora"])
def test_a_failure_does_not_block_a_description(settings, base_dir: Path, monkeypatch, broken: str) -> None:
    """Such as a Hub that cannot be reached for a moment."""
    adapters = AdaptersOnDemand(settings)

    def fail(*args: object, **options: object) -> None:
        raise CheckpointError("the Hub cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(Text2LoraModel, broken, fail)
        for _ in range(2):
            with pytest.raises(CheckpointError, match="cannot be reached"):
                adapters.lend("upper case the city", str(base_dir))
    assert LoraAdapter.from_pretrained(adapters.lend("upper case the city", str(base_dir)).folder)


def test_the_rate_is_that_of_any_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(on_demand.time, "monotonic", lambda: now[0])
    limit = RateLimit(2)
    limit.take()
    now[0] += 59
    limit.take()
    with pytest.raises(LimitError, match="try again in 1 s"):
        limit.take()
    now[0] += 1
    limit.take()
    with pytest.raises(LimitError, match="try again in 59 s"):
        limit.take()


def test_many_at_once_make_each_adapter_once(settings, base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    inner = Text2LoraModel.generate_lora
    monkeypatch.setattr(Text2LoraModel, "generate_lora", lambda self, texts: made.extend(texts) or inner(self, texts))
    adapters = AdaptersOnDemand(settings)
    with ThreadPoolExecutor(12) as pool:
        leases = list(pool.map(lambda i: adapters.lend(f"task {i % 3}", str(base_dir)), range(24)))
    assert sorted(made) == ["task 0", "task 1", "task 2"]
    assert len({lease.folder for lease in leases}) == 3


def test_another_base_is_refused(settings, base_dir: Path) -> None:
    adapters = AdaptersOnDemand(settings)
    with pytest.raises(ServingError, match=r"makes adapters for '.*base0', but the model that is served is 'org/x'"):
        adapters.lend("one", "org/x")
    same = AdaptersOnDemand(dataclasses.replace(settings, base="org/x"))
    assert same.lend("one", "org/x").folder.is_dir()
    assert adapters.lend("one", f"{base_dir}/").folder.is_dir()


def test_nano_is_for_its_own_base(tmp_path: Path) -> None:
    adapters = AdaptersOnDemand(OnDemandSettings("nano", cache_dir=tmp_path))
    assert adapters.lend("Return the city in capitals.", str(BASES["nano"])).folder.is_dir()
    with pytest.raises(ServingError, match="served is 'org/nano'"):
        adapters.lend("Return the city in capitals.", "org/nano")


def test_strict_refuses_what_is_far_from_training(tmp_path: Path) -> None:
    adapters = AdaptersOnDemand(OnDemandSettings("nano", cache_dir=tmp_path, strict=True))
    adapters.lend("Return the city in capitals.", str(BASES["nano"]))
    with pytest.raises(InvalidDescriptionError, match="is unlike what this checkpoint was trained on"):
        adapters.lend("qwzx vvv kkkk 000", str(BASES["nano"]))


def test_what_decides_an_adapter_decides_its_folder(lend, t2l: Text2LoraModel, tmp_path: Path) -> None:
    first = lend("one")
    assert lend("one") == first
    bfloat16 = lend("one", dtype="bfloat16")
    assert bfloat16 != first
    assert {value.dtype for value in LoraAdapter.from_pretrained(bfloat16).weights.values()} == {torch.bfloat16}
    t2l.save_pretrained(tmp_path / "copy")
    assert lend("one", checkpoint=str(tmp_path / "copy")) == first  # wherever the checkpoint lies
    randomise(t2l, seed=9)
    t2l.save_pretrained(tmp_path / "copy")
    assert lend("one", checkpoint=str(tmp_path / "copy")) != first  # under the same name


def test_settings_come_from_the_environment() -> None:
    read = OnDemandSettings.from_environment
    assert read({}) is None
    assert read({"T2L_VLLM_RATE": "3", "HOME": "/"}) is None
    assert read({"T2L_VLLM_CHECKPOINT": "nano", "T2L_VLLM_DTYPE": ""}) == OnDemandSettings("nano")
    given = {
        "CHECKPOINT": "a/b", "SUBFOLDER": "c", "REVISION": "d", "BASE": "e/f", "CACHE_DIR": "/g", "CACHE_GB": "0.5",
        "RATE": "7", "DTYPE": "bfloat16", "DEVICE": "cuda", "STRICT": "1",
    }  # fmt: skip
    found = read({f"T2L_VLLM_{key}": value for key, value in given.items()})
    assert found == OnDemandSettings("a/b", "c", "d", "e/f", Path("/g"), 0.5, 7, "bfloat16", "cuda", True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RATE", "many", r"T2L_VLLM_RATE is 'many': expected a number from 0 upwards"),
        ("RATE", "0.5", r"T2L_VLLM_RATE is '0.5': expected a whole number from 1 upwards"),
        ("RATE", "0", r"T2L_VLLM_RATE is '0': expected a whole number from 1 upwards"),
        ("CACHE_GB", "-1", r"T2L_VLLM_CACHE_GB is '-1': expected a number"),
        ("CACHE_GB", "inf", r"T2L_VLLM_CACHE_GB is 'inf': expected a number"),
        ("DTYPE", "int8", r"T2L_VLLM_DTYPE is 'int8': expected one of float32, bfloat16, float16"),
        ("STRICT", "yes", r"T2L_VLLM_STRICT is 'yes': expected one of 0, 1"),
        ("CACHE_SIZE", "1", r"T2L_VLLM_CACHE_SIZE is not a setting: did you mean T2L_VLLM_CACHE_"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        OnDemandSettings.from_environment({"T2L_VLLM_CHECKPOINT": "nano", f"T2L_VLLM_{name}": value})
