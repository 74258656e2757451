"""`t2l ui`: what it refuses, and that it listens to this machine and stops with Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from text2lora.cli import app
from text2lora.errors import CheckpointError, MissingExtraError
from text2lora.installation import install_command


@pytest.mark.parametrize("public", [["--share"], ["--host", "0.0.0.0"]])
def test_nobody_else_pushes_as_the_host(public):
    result = CliRunner().invoke(app, ["ui", "--use-login", *public])
    assert result.exit_code == 2
    assert "--use-login" in result.output


def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["ui"])
    assert isinstance(result.exception, MissingExtraError)
    assert install_command("ui") in str(result.exception)


def test_a_checkpoint_that_is_not_there_stops_it_at_the_start():
    pytest.importorskip("gradio")
    result = CliRunner().invoke(app, ["ui", "--model", "./nowhere"])
    assert isinstance(result.exception, CheckpointError)
    assert "./nowhere" in str(result.exception)


def test_it_shows_the_page_until_it_is_interrupted_whatever_the_proxy(forked):
    pytest.importorskip("gradio")
    import httpx2

    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "text2lora", "ui"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "GRADIO_SERVER_NAME": "0.0.0.0"} | proxies,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("Open http://127.0.0.1:"), line + process.communicate(timeout=600)[1]
        assert "text2lora" in httpx2.get(line.split()[1], trust_env=False, timeout=600).text
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert out + err == ""
