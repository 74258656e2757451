"""Puts a process into separate namespaces with bubblewrap, if it is installed and the system allows it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

LIBRARIES = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime")
"""What Python loads its libraries from, beside its own folders."""


def wrapped(bwrap: str, readable: Sequence[str], cwd: str) -> list[str]:
    """The words to put before the command of a process that can read Python and some paths, and nothing else.

    It has no home, no network and no other processes, and it ends with the process that started it.

    Args:
        bwrap: the path of Bubblewrap.
        readable: paths outside of Python's folders.
        cwd: the working directory, inside one of them.
    """
    shown = [*LIBRARIES, sys.prefix, sys.base_prefix, *readable]
    binds = [word for path in shown if os.path.exists(path) for word in ("--ro-bind", path, path)]
    apart = ["--unshare-all", "--die-with-parent", "--new-session"]
    return [bwrap, *apart, *binds, "--dev", "/dev", "--chdir", cwd, "--"]


@functools.cache
def find_bubblewrap() -> str | None:
    """Its path, if it is installed and Python starts in it; in many containers it may not make namespaces."""
    if sys.platform != "linux" or not (path := shutil.which("bwrap")):
        return None
    try:
        trial = [*wrapped(path, [], "/"), sys.executable, "-I", "-S", "-c", "pass"]
        done = subprocess.run(trial, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return path if done.returncode == 0 else None
