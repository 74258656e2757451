"""`t2l` in this process."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from text2lora.cli import main
from text2lora.cli import terminal as consoles


@pytest.fixture(autouse=True)
def _columns_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets COLUMNS say how wide a terminal is; rich reads it once, when the first test imports the consoles."""
    for console in (consoles.out, consoles.err):
        monkeypatch.setattr(console, "_width", None)


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def t2l_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Result]:
    """Runs `t2l` in an empty folder; gives exit code, stdout and stderr, without colours."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["t2l", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = (re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text) for text in capfd.readouterr())
        return Result(code, out, "\n".join(line for line in err.splitlines() if "Warning" not in line))

    return call


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes rich take stdout and stderr for a terminal."""
    for name, value in {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "0", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
