"""What the benchmarks share: times, the memory of a process, and tables."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
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


def medians(calls: list[Callable[[], object]], repeat: int) -> list[float]:
    """The median seconds of each call, measured in turns after one round to warm up."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(repeat + 1):
        for call, taken in zip(calls, seconds, strict=True):
            begin = time.perf_counter()
            call()
            if turn:  # the first one warms up
                taken.append(time.perf_counter() - begin)
    return [statistics.median(taken) for taken in seconds]


def size(num_bytes: int) -> str:
    """A size for people: 152 MB."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{max(0, num_bytes) / 1e6:.0f} MB"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
