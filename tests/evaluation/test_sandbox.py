"""What a program that a model wrote can do, and what it cannot. The attempts are small, should the guard ever fail."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from text2lora.errors import EvaluationError
from text2lora.evaluation import sandbox
from text2lora.evaluation.sandbox import CodeLimits, check_sandbox, confined, run_program
from text2lora.evaluation.sandbox.bubblewrap import find_bubblewrap

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are confined on Linux only")


@pytest.fixture(autouse=True, params=["seccomp", "bubblewrap"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each attempt is made under the filter of system calls alone, and in namespaces of its own as well."""
    if request.param == "seccomp":
        monkeypatch.setattr(sandbox, "find_bubblewrap", lambda: None)
    elif find_bubblewrap() is None:
        pytest.skip("bubblewrap is not installed, or may not make namespaces here")
    check_sandbox.cache_clear()
    return request.param


SHORT = CodeLimits(seconds=1, wall_seconds=600)  # a busy machine gives a second of its processor when it can


def test_what_computes_and_reads_passes() -> None:
    check_sandbox()
    imports = "math, re, hashlib, collections, typing, dataclasses, random, heapq, itertools, decimal"
    result = run_program(f"import {imports}\n@dataclasses.dataclass\nclass A:\n    x: int\nassert A(1) == A(1)")
    assert result == sandbox.CodeResult(True, "")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def (", "SyntaxError"),
        ("undefined", "NameError: name 'undefined' is not defined"),
        ("raise ValueError(print)\nprint", "ValueError: <built-in function print>"),
        ("raise ValueError(lambda: 1)", "ValueError: <function <lambda> at 0x...>"),
        ("raise ValueError(__import__('sys').argv[0])", "ValueError: /program.py"),
        ("exit()", "SystemExit"),
        ("import os; os._exit(0)", "exited before its end"),
        ("import ctypes; ctypes.string_at(0)", "died of SIGSEGV"),
    ],
)
def test_what_does_not_run_to_its_end_fails(source: str, reason: str) -> None:
    result = run_program(source)
    assert not result.passed
    assert reason in result.reason


def test_endless_loops_and_sleeps_are_stopped() -> None:
    assert run_program("while True: pass", SHORT).reason == "computed longer than 1 s"
    assert run_program("import time; time.sleep(60)", CodeLimits(wall_seconds=0.5)).reason == "ran longer than 0.5 s"


def test_large_memory_is_refused() -> None:
    assert "MemoryError" in run_program("x = bytearray(10 * 2**30)").reason
    assert "MemoryError" in run_program("x = []\nwhile True: x.append(bytearray(2**22))").reason


@pytest.mark.parametrize(
    "source",
    [
        "import os\nfor _ in range(3): os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; assert os.system('true') == 0",
        "import os; os.execv('/bin/true', ['true'])",
        "import ctypes; assert ctypes.CDLL(None).fork() >= 0",
        "import ctypes; assert ctypes.CDLL(None).vfork() >= 0",
        "import threading; threading.Thread(target=print).start()",
    ],
)
def test_no_process_or_thread_is_started(source: str) -> None:
    assert not run_program(source, SHORT).passed


def sessions() -> list[int]:
    """The session of each process: what a program starts is in the session of its own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(int(path.read_text().rpartition(")")[2].split()[3]))
    return found


def test_fork_bomb_is_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded by itself, should it ever get to fork: ten at most."""
    bomb = "import os\nfor _ in range(10):\n try:\n  if os.fork(): break\n except OSError: pass\nwhile True: pass"
    started: list[subprocess.Popen] = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    assert run_program(bomb, SHORT).reason == "computed longer than 1 s"
    assert [session for session in sessions() if session == started[0].pid] == []


def test_nothing_is_written(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    for attempt in (
        f"open({str(tmp_path / 'new')!r}, 'w')",
        "open('here', 'w')",
        f"open({str(kept)!r}, 'a')",
        f"import os; os.remove({str(kept)!r})",
        f"import os; os.truncate({str(kept)!r}, 0)",
        f"import os; os.chmod({str(kept)!r}, 0)",
        f"import os; os.rename({str(kept)!r}, {str(kept) + '2'!r})",
        f"import os; os.symlink('/', {str(tmp_path / 'link')!r})",
        f"import os; os.utime({str(kept)!r})",
    ):
        assert "Operation not permitted" in run_program(attempt).reason, attempt
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert kept.read_text() == "as it was"


def test_output_has_a_limit() -> None:
    assert run_program("while True: print('x' * 1000)").reason == "printed more than 1048576 bytes"


def test_no_connection_is_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        source = f"import socket; socket.create_connection({server.getsockname()!r}, 1)"
        assert "Operation not permitted" in run_program(source).reason
        with pytest.raises(BlockingIOError):
            server.accept()


def test_other_processes_get_no_signal_and_limits_stay() -> None:
    assert "Operation not permitted" in run_program("import os; os.kill(os.getppid(), 0)").reason
    raised = "import resource as r; r.setrlimit(r.RLIMIT_CPU, (r.RLIM_INFINITY,) * 2)"
    assert not run_program(raised).passed


def test_files_of_the_user_are_out_of_sight_in_bubblewrap(way: str, tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("dear diary")
    result = run_program(f"print(open({str(tmp_path / 'diary')!r}).read())")
    assert result.passed == (way == "seccomp")
    assert ("No such file" in result.reason) == (way == "bubblewrap")


def test_a_failure_of_bubblewrap_is_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sandbox, "find_bubblewrap", lambda: str(broken))
    with pytest.raises(EvaluationError, match=r"cannot be confined here .*No permissions to create new namespace"):
        run_program("print(1)")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_bubblewrap.__wrapped__() is None


def test_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert run_program("import os; assert 'HF_TOKEN' not in os.environ; assert os.listdir() == []").passed


def test_verdict_on_code_that_depends_on_the_hash_seed_is_always_the_same() -> None:
    source = "assert list({'a', 'b', 'c', 'd', 'e'}) == ['a', 'b', 'c', 'd', 'e']"
    assert len({run_program(source).passed for _ in range(5)}) == 1


def test_system_that_cannot_confine_runs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crippled = tmp_path / "confined.py"
    crippled.write_text(Path(confined.__file__).read_text().replace('"x86_64"', '"other"').replace('"aarch64"', '"b"'))
    monkeypatch.setattr(confined, "__file__", str(crippled))
    with pytest.raises(EvaluationError, match=r"cannot be confined here .* run it on Linux"):
        run_program("print(1)")


@pytest.mark.parametrize("machine", confined.ARCHITECTURES)
def test_filter_is_a_program_whose_jumps_stay_inside(machine: str) -> None:
    steps = confined.seccomp_filter(machine)
    count = len(steps) // 8
    assert count < 4096
    for i in range(count):
        code, yes, no = steps[8 * i] | steps[8 * i + 1] << 8, steps[8 * i + 2], steps[8 * i + 3]
        if code in (confined.EQUAL, confined.ANY_BIT):
            assert i + 1 + max(yes, no) < count


def test_numbers_of_system_calls_are_the_kernels() -> None:
    header = Path("/usr/include/asm-generic/unistd.h")
    if not header.exists():
        pytest.skip("no kernel headers here")
    defined = {}
    for line in header.read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[1].startswith(("__NR_", "__NR3264_")) and words[2].isdigit():
            defined[words[1].partition("_NR_")[2] or words[1].partition("3264_")[2]] = int(words[2])
    numbers = confined.ALLOWED | {name: row[0] for name, row in (confined.FOR_VALUES | confined.OPEN).items()}
    for name, (_, arm) in numbers.items():
        if arm is not None:
            assert defined["fstatat" if name == "newfstatat" else name] == arm
