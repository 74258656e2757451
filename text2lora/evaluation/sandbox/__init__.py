"""Runs programs that a model wrote, in a process that can do little else than compute.

What it stops: the kernel refuses every system call that computing does not need (`confined`: seccomp, on Linux for
x86-64 and ARM64). A program opens no socket, starts no process or thread, sends no signal to others, and creates,
changes or removes no file; its time, memory and output are limited. Where bubblewrap is installed and works
(`bubblewrap`), the program also runs in namespaces of its own, and sees no files but Python's and the system's
libraries: it cannot read yours. What it does not stop: without bubblewrap, a program can read every file that you can
read, and what it prints last is kept in the report. The tests run in the program's own process, so a program that is
written to deceive them can. And a flaw in the kernel would let it out: for models that you do not trust at all, use a
virtual machine. Where the kernel cannot confine a process (macOS, Windows, other processors), nothing is run.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from text2lora.errors import EvaluationError
from text2lora.evaluation.sandbox import confined
from text2lora.evaluation.sandbox.bubblewrap import find_bubblewrap, wrapped


@dataclass(frozen=True)
class CodeLimits:
    """What a program may use.

    Attributes:
        seconds: processor time, in seconds.
        wall_seconds: elapsed time in seconds, for programs that sleep and machines that are busy.
        memory: address space, in bytes.
        output: output, in bytes.
    """

    seconds: int = 10
    wall_seconds: float = 30.0
    memory: int = 1 << 30
    output: int = 1 << 20


class CodeResult(NamedTuple):
    """Whether a program ran to its end without an exception, and if not, why, in one line."""

    passed: bool
    reason: str


def run_program(source: str, limits: CodeLimits | None = None) -> CodeResult:
    """Run a program in a confined process of its own.

    The process gets an empty temporary folder, a clean environment and no input. A program that is not Python, or that
    asks for more than this module allows, fails.

    Raises:
        EvaluationError: the system cannot confine a process, so the program was not run.
    """
    limits = limits or CodeLimits()
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="text2lora-") as name:
        folder = Path(name)
        (folder / "program.py").write_text(source, encoding="utf-8", errors="replace")
        (folder / "work").mkdir()
        sizes = [str(value) for value in (limits.memory, limits.seconds, limits.output)]
        bwrap = find_bubblewrap()
        with (folder / "output").open("w+b") as output:
            process = subprocess.Popen(
                [
                    *(wrapped(bwrap, [name, confined.__file__], str(folder / "work")) if bwrap else []),
                    *(sys.executable, "-P", "-s", "-B", confined.__file__, str(folder / "program.py"), *sizes),
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder / "work",
                # a fixed hash seed, so that the verdict on code that iterates over sets stays the same
                env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
            try:
                process.communicate(secret.encode() + b"\n", timeout=limits.wall_seconds)
            except subprocess.TimeoutExpired:
                return CodeResult(False, f"ran longer than {limits.wall_seconds:g} s")
            finally:
                process.kill()  # it cannot have started another
                process.wait()
            size = output.seek(0, os.SEEK_END)
            output.seek(max(0, size - 1000))
            said = output.read().decode("utf-8", "replace").strip()
    last = said.splitlines()[-1][:200] if said else ""
    last = re.sub(r"0x[0-9a-f]{4,}", "0x...", last.replace(name, ""))  # what differs from run to run
    code = process.returncode
    if bwrap and code > 128:
        code = 128 - code  # as bubblewrap tells that a signal ended the program
    if bwrap and code == 1 and said.startswith("bwrap: "):
        raise EvaluationError(f"generated code cannot be confined here ({last}), so it was not run")
    if code == confined.CANNOT_CONFINE:
        raise EvaluationError(
            f"generated code cannot be confined here ({last}): run it on Linux, x86-64 or ARM64, with seccomp"
        )
    if code == 0 and said.endswith(secret):
        return CodeResult(True, "")
    return CodeResult(False, _why(code, last, size, limits))


def _why(code: int, last: str, size: int, limits: CodeLimits) -> str:
    """Why a program failed, by its exit code, the last line and the size of what it printed."""
    if size >= limits.output:
        return f"printed more than {limits.output} bytes"
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"computed longer than {limits.seconds} s"
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    return last if code == 1 else "exited before its end"


PROBE = """
import os, socket, subprocess
def refused(call):
    try:
        call()
    except OSError:
        return True
attempts = [lambda: socket.socket(), lambda: os.fork(), lambda: os.kill(os.getppid(), 0), lambda: os.mkdir("x"),
            lambda: open("x", "w"), lambda: os.open("x", os.O_CREAT), lambda: os.execv("/bin/true", ["true"])]
assert all(refused(call) for call in attempts)
"""


@functools.cache
def check_sandbox() -> None:
    """Try the confinement once: a program of ours attempts what must be refused.

    Raises:
        EvaluationError: the system cannot confine a process, or lets it do more than it should.
    """
    result = run_program(PROBE)
    if not result.passed:
        raise EvaluationError(f"generated code is not safely confined here ({result.reason}), so it was not run")
