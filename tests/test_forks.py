"""A fork behaves as the process that it stands in for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import forks

ODD = """
import atexit, os, sys, warnings
atexit.register(print, "the end")
warnings.warn("a warning")
print(sys.argv, os.getcwd(), dict(os.environ) | {"LC_CTYPE": ""}, __name__, sys.stdin.read())
print(hash("text"), os.getsid(0) == os.getpid(), file=sys.stderr)
sys.exit(3)
"""


def run(kind: type[subprocess.Popen], *words: str | Path, **settings: object) -> tuple[int, str, str]:
    with kind(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **settings,
    ) as process:  # fmt: skip
        said = process.communicate("given")
    assert isinstance(process, forks.Popen) == bool(getattr(process, "_zygote", None))
    return process.returncode, *said


def test_a_fork_does_what_a_process_does(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ODD)
    environment = {"A": "b", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "5", "PYTHONPATH": str(tmp_path)}
    for words in (["-c", ODD, "x"], [script, "x", "y"], ["-m", "script", "z"], ["-c", "1 / 0"]):
        for new in (True, False):
            settings = {"env": environment, "cwd": tmp_path, "start_new_session": new}
            code, out, err = run(forks.ANEW, *words, **settings)
            assert run(forks.Popen, *words, **settings)[:2] == (code, out)
            assert err.split("\n")[-2:]


def test_an_environment_is_read_anew() -> None:
    code = "import huggingface_hub.constants as c; print(c.ENDPOINT, c.is_offline_mode())"
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert run(forks.Popen, "-c", code, env=environment) == (0, "http://127.0.0.1:9 False\n", "")
    code = "import sys; print('transformers' in sys.modules)"
    beginning = dict(forks._ENVIRONMENT)  # other tests may have left something in that of this process
    assert run(forks.Popen, "-c", code, env=beginning) == (0, "True\n", "")
    assert run(forks.ANEW, "-c", code, env=beginning) == (0, "False\n", "")


def test_what_changes_the_interpreter_is_no_fork() -> None:
    for words, changes in ((["-c", ""], {"PYTHONUTF8": "0"}), (["-c", ""], {"LC_ALL": "C"}), (["-I", "-c", ""], {})):
        process = forks.Popen([sys.executable, *words], env=os.environ | changes)
        assert process.wait() == 0
        assert process._zygote is None


def test_a_signal_reaches_a_fork() -> None:
    code = "import time; print('there', flush=True); time.sleep(600)"
    for number, expected in ((signal.SIGINT, -signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)):
        with forks.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout.readline() == b"there\n"
            assert process.poll() is None
            process.send_signal(number)
            assert process.wait(600) == expected


def test_what_a_library_leaves_in_the_environment_is_seen(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONBREAKPOINT", "ray.util.rpdb._driver_set_trace")  # as Ray does; it changes no start
    assert forks.find_zygote([sys.executable, "-m", "this"], dict(os.environ)) is forks.warm
    assert not forks.left_behind()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert forks.left_behind() == {"OMP_NUM_THREADS": "7"}
