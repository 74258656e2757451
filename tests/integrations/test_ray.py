"""Adapters on a cluster: a local one of two processes, one of which is killed in the middle."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from text2lora import InvalidDescriptionError, LoraAdapter, OutputError, Text2LoraModel
from text2lora.batch import ShardWriter
from text2lora.shards import find_shards

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytest.importorskip("ray.data", reason="the extra ray is not installed")

TEXTS = [f"Return the city, variant {number}." for number in range(11)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two processes on this machine; a busy one gets time to start, and Ray's workers their share of it."""
    patient = {"agent_register_timeout_ms": 300_000, "worker_register_timeout_seconds": 300, "worker_niceness": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_enable_metrics_collection", "0")
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _system_config=patient)
        except Exception as error:
            pytest.skip(f"Ray does not start on this machine ({error})")
        yield
        ray.shutdown()


def dying_maker(log: Path) -> type:
    """An `AdapterMaker` that is killed once, by the first batch, which is on disk then and not yet reported."""
    from text2lora.integrations.ray import AdapterMaker

    class Dying(AdapterMaker):  # in a function, so that Ray sends it to processes that cannot import this file
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            (log / f"started-{os.getpid()}").touch()

        def __call__(self, batch: Any) -> Any:
            until = time.monotonic() + 300
            while len(list(log.glob("started-*"))) < 2 and time.monotonic() < until:
                time.sleep(0.05)
            made = super().__call__(batch)
            (log / f"wrote-{os.getpid()}").touch()
            try:
                (log / "killed").touch(exist_ok=False)
            except FileExistsError:
                return made
            os.kill(os.getpid(), signal.SIGKILL)

    return Dying


def test_a_killed_process_loses_no_adapter_and_makes_none_twice(
    cluster: None, checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from text2lora.integrations import ray as ours

    monkeypatch.chdir(tmp_path)  # where the processes of Ray are not
    output, log = "adapters", tmp_path / "log"
    log.mkdir()
    monkeypatch.setattr(ours, "AdapterMaker", dying_maker(log))
    dataset = ray.data.from_items([{"description": text, "customer": i} for i, text in enumerate([*TEXTS, TEXTS[0]])])
    made = ours.write_adapters(dataset, output, str(checkpoint_dir), actors=2, per_shard=2).take_all()
    assert (log / "killed").exists()
    assert len(list(log.glob("started-*"))) == 3
    assert len(list(log.glob("wrote-*"))) >= 2
    assert sorted(row["description"] for row in made) == sorted(TEXTS)

    model = Text2LoraModel.from_pretrained(checkpoint_dir)
    writer = ShardWriter(model, output)
    shards = find_shards(output)
    names = [name for shard in shards for name in shard.facts.descriptions]
    assert sorted(names) == sorted(map(writer.name, TEXTS))
    assert sorted(path.name for path in Path(output).iterdir()) == sorted(Path(shard.path).name for shard in shards)
    for row in made:
        read, alone = LoraAdapter.from_pretrained(row["shard"], row["adapter"]), model.generate_lora(row["description"])
        for key, weight in alone.weights.items():
            torch.testing.assert_close(read.weights[key], weight, rtol=1e-4, atol=1e-5)

    again = ours.write_adapters([*TEXTS, "Return the item."], output, str(checkpoint_dir), actors=1).take_all()
    assert [row["description"] for row in again] == ["Return the item."]
    assert ours.write_adapters(TEXTS, output, str(checkpoint_dir)).count() == 0


def test_an_error_in_a_process_is_ours(cluster: None, checkpoint_dir: Path, tmp_path: Path) -> None:
    from text2lora.integrations.ray import write_adapters

    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_adapters(TEXTS, str(tmp_path / "file" / "adapters"), str(checkpoint_dir), actors=1)
    with pytest.raises(InvalidDescriptionError, match=r"columns .*'text'.*expected 'description'"):
        write_adapters(ray.data.from_items([{"text": "a"}]), str(tmp_path), str(checkpoint_dir))


def test_a_batch_with_something_else_than_descriptions_is_refused(checkpoint_dir: Path, tmp_path: Path) -> None:
    """An adapter for "None" was made of a missing one."""
    from text2lora.integrations.ray import AdapterMaker

    make = AdapterMaker(str(checkpoint_dir), str(tmp_path / "out"))
    for odd in (None, float("nan"), b"the city"):
        with pytest.raises(InvalidDescriptionError, match="a description must be a string"):
            make({"description": ["the city", odd]})
    assert not (tmp_path / "out").exists()
