"""What the benchmarks share: times, the memory of a process, and tables."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent
TELL_PEAK = """
import atexit, pathlib, re, resource, sys

def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # rusage would count the parent's memory at the fork
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

atexit.register(lambda: print(peak()))
"""
"""Code that ends a process with its largest resident set, in bytes."""


def peak_of(code: str, **env: str) -> int:
    """The largest resident set of a Python process that runs `code` in this folder, in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", f"{TELL_PEAK}\n{code}"],
        cwd=HERE,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.strip().split("\n")[-1])


def rounds(calls: list[Callable[[], object]], repeat: int, limit: float = math.inf) -> list[list[float]]:
    """The seconds of each call in each round, measured in turns after one round to warm up.

    After `limit` seconds no further round begins; if that is in the first one, its times are what is returned.
    """
    taken: list[list[float]] = []
    start = time.perf_counter()
    while len(taken) <= repeat and (not taken or time.perf_counter() - start < limit):
        taken.append([])
        for call in calls:
            begin = time.perf_counter()
            call()
            taken[-1].append(time.perf_counter() - begin)
    return taken[1:] or taken


def medians(taken: list[list[float]]) -> list[float]:
    """The median seconds of each call over all rounds."""
    return [statistics.median(seconds) for seconds in zip(*taken, strict=True)]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    return "\n".join(_lines(rows))


def show(rows: Iterable[Sequence[str]]) -> None:
    """Print a table whose first row is its head, each row as soon as there is one."""
    for line in _lines(rows):
        print(line, flush=True)


def _lines(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if number == 0:
            yield "|" + " --- |" * len(row)
