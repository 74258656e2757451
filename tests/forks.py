"""Processes that start at once: forked from one that has imported already what takes a process seconds to import.

`Popen` stands in for `subprocess.Popen`; the tests' fixture `forked` puts it there. A command that runs this Python is
then run in a fork of a process that waits for such commands, with its own environment, folder, arguments and streams;
any other command, and one whose environment changes how Python itself starts, is run as ever.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import gc
import importlib
import inspect
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
import warnings
from pathlib import Path
from typing import Any

COOL = "sympy scipy.optimize torch torch._dynamo torch.distributed.tensor safetensors.torch tokenizers regex psutil"
"""What reads nothing of the environment that Hugging Face's clients go by."""
WARM = f"{COOL} transformers transformers.modeling_utils accelerate peft"
HEADER = 4
"""Bytes of an order's length."""
ANEW = subprocess.Popen


class Zygote:
    """A process that forks for each command."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self.connection, self._lock = pid, connection, threading.Lock()
        self._answers = connection.makefile("r")
        _all.append(self)

    @classmethod
    def of_this_process(cls) -> Zygote:
        """One that has imported what this process has; to be called before anything has started threads."""
        ours, theirs = socket.socketpair()
        if not (pid := os.fork()):
            _close_all_but(theirs.fileno())
            try:
                serve(theirs)
            finally:
                os._exit(0)
        theirs.close()
        return cls(pid, ours)

    @classmethod
    @functools.cache
    def with_hash_seed(cls, seed: str) -> Zygote:
        """One of its own, since a fork has its parent's."""
        ours, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, __file__, str(theirs.fileno())]
        process = ANEW(command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        return cls(process.pid, ours)

    def ask(self, order: dict[str, Any], *fds: int) -> Any:
        data = json.dumps(order).encode()
        with self._lock:
            socket.send_fds(self.connection, [len(data).to_bytes(HEADER)], fds)
            self.connection.sendall(data)
            return json.loads(self._answers.readline())


cool: Zygote | None = None
"""Forked before anything of Hugging Face was imported."""
warm: Zygote | None = None
"""Forked after that."""
_all: list[Zygote] = []
_ENVIRONMENT: dict[str, str] = {}


def prepare() -> None:
    """To be called once, at the beginning: what runs in threads is not in a fork."""
    global cool, warm
    if warm or not hasattr(os, "fork"):
        return
    _ENVIRONMENT.update(os.environ)
    _import(COOL)
    cool = Zygote.of_this_process()
    _import(WARM)
    warm = Zygote.of_this_process()


def end() -> None:
    """End what was started, and count the time that it took as that of this process."""
    for zygote in _all:
        zygote.connection.shutdown(socket.SHUT_RDWR)
    for zygote in _all:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(zygote.pid, 0)


def _import(names: str) -> None:
    for name in names.split():
        importlib.import_module(name)
    gc.freeze()  # so that forks share what is there


HUB = "HF_", "HUGGING", "TRANSFORMERS_", "XDG_"
"""Beginnings of the variables that Hugging Face's clients go by."""
START = "PYTHON", "LC_", "LANG", "OMP_"
"""Beginnings of the variables that Python and torch go by when they start."""


def _part(variables: dict[str, str], *starts: str) -> dict[str, str]:
    at_run_time = "PYTHONHASHSEED PYTHONPATH PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE HF_TOKEN".split()
    at_run_time += "HF_XET_HIGH_PERFORMANCE", "HF_HUB_DISABLE_TELEMETRY"  # set by lm_eval and Gradio when imported
    at_run_time += ("PYTHONBREAKPOINT",)  # set by Ray
    return {key: v for key, v in variables.items() if key.startswith(starts) and key not in at_run_time}


def left_behind() -> dict[str, str]:
    """What was put into this process's environment since, and keeps its commands from being forks."""
    before = _part(_ENVIRONMENT, *HUB, *START).items()
    return dict(_part(dict(os.environ), *HUB, *START).items() - before) if warm else {}


def find_zygote(args: Any, environment: dict[str, str]) -> Zygote | None:
    """Who can run a command as if it had started anew, if anyone can."""
    if not warm or not isinstance(args, list) or len(args) < 2 or args[0] != sys.executable:
        return None
    is_script = not str(args[1]).startswith("-")
    if not is_script and args[1] not in ("-c", "-m"):
        return None
    if _part(environment, *START) != _part({key: v for key, v in _ENVIRONMENT.items() if key in environment}, *START):
        return None
    is_warm = _part(environment, *HUB) == _part(_ENVIRONMENT, *HUB)
    seed, own = (variables.get("PYTHONHASHSEED", "random") for variables in (environment, _ENVIRONMENT))
    if seed == own:
        return warm if is_warm else cool
    return Zygote.with_hash_seed(seed) if is_warm else None


class Popen(ANEW):
    """See the module."""

    _zygote: Zygote | None = None

    def _execute_child(self, *given: Any) -> None:
        bound = inspect.signature(super()._execute_child).bind(*given).arguments
        environment = {os.fsdecode(k): os.fsdecode(v) for k, v in dict(bound["env"] or os.environ).items()}
        args = bound["args"]
        self._zygote = find_zygote(args, environment) if not bound["shell"] else None
        if not self._zygote:
            return super()._execute_child(*given)
        ends = (bound["p2cread"], bound["c2pwrite"], bound["errwrite"])
        fds = [end if end != -1 else standard for standard, end in enumerate(ends)]
        order = {
            "args": [os.fspath(arg) for arg in args],
            "cwd": os.path.abspath(bound["cwd"] or ""),
            "env": environment,
            "new_session": bound["start_new_session"],
        }
        self.pid = self._zygote.ask(order, *fds)
        self._child_created = True
        self._close_pipe_fds(*(bound[f"{end}"] for end in inspect.signature(self._close_pipe_fds).parameters))
        return None

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if not self._zygote:
            return super()._try_wait(wait_flags)
        while (status := self._zygote.ask({"pid": self.pid})) is None:
            if wait_flags & os.WNOHANG:
                return 0, 0
            time.sleep(0.01)
        return self.pid, status

    def _internal_poll(self, *args: Any, **kwargs: Any) -> int | None:
        if not self._zygote:
            return super()._internal_poll(*args, **kwargs)
        with self._waitpid_lock:
            if self.returncode is None:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
        return self.returncode


# -- in the process that forks ----------------------------------------------------------------------------------------


def serve(connection: socket.socket) -> None:
    """Fork for each order, and tell how the forks ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for those who wait for it
    running: set[int] = set()
    while True:
        head, fds, *_ = socket.recv_fds(connection, HEADER, 3)
        if not head:
            break
        size, data = int.from_bytes(head), b""
        while len(data) < size:
            data += connection.recv(size - len(data))
        order = json.loads(data)
        if "pid" in order:
            pid, status = os.waitpid(order["pid"], os.WNOHANG)
            running.discard(pid)
            answer = status if pid else None
        else:
            there, ready = os.pipe()
            answer = os.fork()
            if not answer:
                if order["new_session"]:
                    os.setsid()
                _be_the_command(order, fds)  # closes `ready`
            running.add(answer)
            os.close(ready)
            os.read(there, 1)  # a signal to its group must not reach ours
            os.close(there)
        for fd in fds:
            os.close(fd)
        connection.sendall(json.dumps(answer).encode() + b"\n")
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _close_all_but(*kept: int) -> None:
    for fd in map(int, os.listdir("/dev/fd")):
        if fd > 2 and fd not in kept:
            with contextlib.suppress(OSError):
                os.close(fd)


def _be_the_command(order: dict[str, Any], fds: list[int]) -> None:
    """Run it as a Python that has just started, and end."""
    code = 1
    try:
        faulthandler.disable()
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        _close_all_but()
        if order["new_session"] and os.isatty(0):
            _take_terminal()
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _reset_interpreter()
        code = _run(order["args"][1:])
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        if code == -signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(code)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _reset_interpreter() -> None:
    """Take back what pytest has changed."""
    atexit._clear()
    kinds = ({"mode": "r"}, {"mode": "w"}, {"mode": "w", "errors": "backslashreplace"})
    for fd, (name, kind) in enumerate(zip(("stdin", "stdout", "stderr"), kinds)):
        file = os.fdopen(fd, buffering=1, closefd=False, **kind)
        setattr(sys, name, file), setattr(sys, f"__{name}__", file)
    warnings.resetwarnings()
    for category in (ResourceWarning, ImportWarning, PendingDeprecationWarning, DeprecationWarning):
        warnings.simplefilter("ignore", category)
    warnings.showwarning = lambda message, category, filename, lineno, file=None, line=None: print(
        warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr
    )


def _run(words: list[str]) -> int:
    """What `python WORDS` does; gives its exit code."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    first = {"-c": "", "-m": os.getcwd()}.get(words[0], os.path.dirname(os.path.abspath(words[0])))
    rest = [path for path in sys.path if path not in ("", str(Path(__file__).parent))]
    sys.path[:] = dict.fromkeys([first, *filter(None, paths), *rest])
    try:
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            exec(compile(words[1], "<string>", "exec"), main.__dict__)
        elif words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return -signal.SIGINT
    return 0


if __name__ == "__main__":
    _import(WARM)
    serve(socket.socket(fileno=int(sys.argv[1])))
