"""What several callers ask for at the same time is made in one batch, in threads, forks and processes that end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from text2lora import CheckpointError
from text2lora.together import Together


def test_a_fork_and_a_process_that_ends_make_what_they_are_asked_for() -> None:
    code = """if True:
        import os, threading, time
        from text2lora.together import Together
        together = Together(lambda texts: [text.upper() for text in texts])
        assert together("a") == together.submit("a").result() == "A"
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
        else:
            found = together("b"), together.submit("c").result(60)
            os._exit(found != ("B", "C"))
        threading.Thread(target=lambda: (time.sleep(0.3), print(together("d")))).start()
        """  # and the main thread ends before the other one
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert (done.stdout, done.returncode) == ("D\n", 0), done.stderr


def test_descriptions_that_arrive_together_are_made_in_one_batch() -> None:
    begun, go_on = threading.Event(), threading.Event()
    batches: list[list[str]] = []

    def make(texts: Sequence[str]) -> list[str]:
        batches.append(sorted(texts))
        begun.set()
        assert go_on.wait(60)
        if "bad" in texts:
            raise CheckpointError("the weights are infinite")
        return [text.upper() for text in texts]

    together = Together(make)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(together, "a")
        assert begun.wait(60)
        others = [pool.submit(together, text) for text in "bcd"]
        while len(together._waiting) < len(others):
            time.sleep(0.01)
        go_on.set()
        assert [future.result() for future in (first, *others)] == ["A", "B", "C", "D"]
        assert batches == [["a"], ["b", "c", "d"]]
        with pytest.raises(CheckpointError, match="infinite"):
            together("bad")
        assert together("e") == "E"


def test_more_than_one_batch_holds_waits_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text2lora.together.LARGEST", 2)
    sizes: list[int] = []
    together = Together(lambda texts: sizes.append(len(texts)) or [text.upper() for text in texts])
    waiting = [together._wait_for(text) for text in "abcd"]
    assert together("e") == "E"
    assert [future.result(0) for future in waiting] == ["A", "B", "C", "D"]
    assert sizes == [2, 2, 1]
