"""A cache of adapters on disk: made once, within its size, and never taken from one who uses it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from text2lora import LoraAdapter, LoraSpec, OutputError
from text2lora.errors import LimitError
from text2lora.integrations.cache import AdapterCache, Lease

SIZE = 4000
"""Of the weights of an adapter; their file has a header, too."""


def adapter() -> LoraAdapter:
    weights = {f"base_model.model.q.lora_{letter}.weight": torch.ones(4, SIZE // 32) for letter in "AB"}
    return LoraAdapter(weights, LoraSpec(4, 8.0, ("q",)))


def names(cache: AdapterCache) -> set[str]:
    return {path.name for path in cache.adapters.iterdir()}


@pytest.fixture
def cache(tmp_path: Path) -> AdapterCache:
    return AdapterCache(tmp_path / "cache", 3 * SIZE + 1000)


@pytest.fixture
def use(cache: AdapterCache) -> Callable[..., None]:
    """Takes adapters and gives them back, each at a later time than the one before."""
    clock = iter(range(1, 1000))

    def take(*wanted: str) -> None:
        for name in wanted:
            cache.lend(name, adapter).release()
            os.utime(cache.locks / name, (0, next(clock)))

    return take


def test_an_adapter_is_made_once_and_can_be_loaded(cache: AdapterCache) -> None:
    made: list[int] = []
    folders = {cache.lend("one", lambda: made.append(1) or adapter()).folder for _ in range(3)}
    assert len(made) == len(folders) == 1
    assert LoraAdapter.from_pretrained(folders.pop()).num_bytes == SIZE


def test_one_who_finds_nothing_does_not_wait_for_the_lease_of_who_was_quicker(cache: AdapterCache, monkeypatch) -> None:
    lock, quicker = cache._lock, []

    def late(name: str, operation: int):
        if name == ".one" and operation & fcntl.LOCK_EX and not quicker:
            quicker.append(None)
            quicker[0] = cache.lend("one", adapter)  # between the look and the lock
        return lock(name, operation)

    monkeypatch.setattr(cache, "_lock", late)
    assert within_time(lambda: cache.lend("one", adapter)).folder == quicker[0].folder


def within_time(lend: Callable[[], Lease]) -> Lease:
    """What a call returns that could wait for ever."""
    lent: list[Lease] = []
    thread = threading.Thread(target=lambda: lent.append(lend()), daemon=True)
    thread.start()
    thread.join(60)
    assert lent, "it waits"
    return lent[0]


@pytest.mark.parametrize("what", ["adapters/one", "adapters/one/adapter_model.safetensors", "adapters", "locks", ""])
def test_what_was_removed_under_a_lease_is_made_again(cache: AdapterCache, what: str) -> None:
    lease = cache.lend("one", adapter)
    path = cache.adapters.parent / what
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = within_time(lambda: cache.lend("one", adapter))
    assert again.folder == lease.folder
    assert LoraAdapter.from_pretrained(again.folder).num_bytes == SIZE
    within_time(lambda: cache.lend("two", adapter))


def test_an_adapter_that_lost_its_weights_is_in_nobodys_way(cache: AdapterCache, use: Callable[..., None]) -> None:
    use("a", "b", "c")
    (cache.adapters / "b" / "adapter_model.safetensors").unlink()
    (cache.adapters / "note.txt").touch()
    use("d", "e")
    assert names(cache) == {"b", "c", "d", "e", "note.txt"}  # what is left of b takes no room
    use("b")
    assert names(cache) == {"b", "d", "e", "note.txt"}


def test_the_least_recently_used_gives_way(cache: AdapterCache, use: Callable[..., None]) -> None:
    use("a", "b", "c", "a", "d")
    assert names(cache) == {"a", "c", "d"}
    use("e")
    assert names(cache) == {"a", "d", "e"}
    assert {path.name for path in cache.locks.iterdir()} == {"a", "d", "e", ".room"}
    use("b")  # made again
    assert names(cache) == {"b", "d", "e"}


def test_what_is_in_use_stays(cache: AdapterCache, use: Callable[..., None]) -> None:
    lease = cache.lend("a", adapter)
    os.utime(cache.locks / "a", (0, 0))
    use("b", "c", "d", "e")
    assert names(cache) == {"a", "d", "e"}
    lease.release()
    lease.release()  # once more does no harm
    os.utime(cache.locks / "a", (0, 0))
    use("f")
    assert names(cache) == {"d", "e", "f"}


def test_when_all_are_in_use_there_is_no_room(cache: AdapterCache) -> None:
    leases = [cache.lend(name, adapter) for name in "abc"]
    with pytest.raises(LimitError, match=r"no room for .* of 4,000 bytes: the 3 adapters in use take 12,\d+ of 13,000"):
        cache.lend("d", adapter)
    assert names(cache) == {"a", "b", "c"}
    assert cache.lend("a", adapter).folder == leases[0].folder  # what is there is served
    leases[1].release()
    cache.lend("d", adapter)
    assert names(cache) == {"a", "c", "d"}


def test_a_lease_that_is_forgotten_is_over(cache: AdapterCache, use: Callable[..., None]) -> None:
    cache.lend("a", adapter)
    os.utime(cache.locks / "a", (0, 0))
    use("b", "c", "d")
    assert names(cache) == {"b", "c", "d"}


def test_an_adapter_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match=r"no room .* the 0 adapters in use take 0 of 10 bytes"):
        AdapterCache(tmp_path, 10).lend("a", adapter)


def test_threads_make_it_once(cache: AdapterCache) -> None:
    made: list[str] = []

    def slow() -> LoraAdapter:
        made.append(threading.current_thread().name)
        time.sleep(0.2)
        return adapter()

    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda _: cache.lend("same", slow), range(8)))
    assert len(made) == 1
    assert len({lease.folder for lease in leases}) == 1


def test_a_failure_leaves_nothing_and_the_next_one_tries_again(cache: AdapterCache) -> None:
    def fail() -> LoraAdapter:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.lend("a", fail)
    assert names(cache) == set()
    assert list(cache.locks.iterdir()) == []
    assert cache.lend("a", adapter).folder.is_dir()
    assert {path.name for path in cache.locks.iterdir()} == {"a", ".room"}


PROCESS = """
import sys, time
sys.path[:0] = {path!r}
from test_cache import adapter
from pathlib import Path
from text2lora.integrations.cache import AdapterCache

cache = AdapterCache(Path(sys.argv[1]), 13_000)
def slow():
    print("made", flush=True)
    time.sleep(0.5)
    return adapter()
leases = [cache.lend(name, slow) for name in sys.argv[2:]]
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process(cache: AdapterCache, forked):
    """Starts processes that take adapters and keep them until their input ends."""
    started: list[subprocess.Popen[str]] = []

    def start(*wanted: str) -> subprocess.Popen[str]:
        code = PROCESS.format(path=[str(Path(__file__).parent), *sys.path])
        command = [sys.executable, "-c", code, str(cache.adapters.parent), *wanted]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def test_processes_share_a_cache(cache: AdapterCache, process, use: Callable[..., None]) -> None:
    both = [process("shared"), process("shared")]
    said = []
    for each in both:
        lines = iter(each.stdout.readline, "ready\n")
        said += list(lines)
    assert said == ["made\n"]
    os.utime(cache.locks / "shared", (0, 0))
    use("b", "c", "d")
    assert "shared" in names(cache)
    both[0].communicate("")
    os.utime(cache.locks / "shared", (0, 0))
    use("e")
    assert "shared" in names(cache)  # the other one has it still
    both[1].kill()
    both[1].wait()
    os.utime(cache.locks / "shared", (0, 0))
    use("f")
    assert "shared" not in names(cache)


def test_what_a_killed_process_left_is_removed(cache: AdapterCache, use: Callable[..., None]) -> None:
    (cache.adapters / ".half").mkdir()
    (cache.adapters / ".half" / "adapter_model.safetensors").write_bytes(b"x" * 10_000)
    use("a")
    assert names(cache) == {"a"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file cannot be written \(Not a directory\)"):
        AdapterCache(tmp_path / "file", 1)
