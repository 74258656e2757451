"""How the tests are run: what they share, what may be skipped, and what makes them quick."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything of Hugging Face is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import signal
import subprocess
from collections import Counter
from pathlib import Path

import forks
import pytest
from hypothesis import HealthCheck, settings

SHARED = Path(__file__).parents[1].parent / "shared"
LONGEST = (
    "test_page test_docs test_processes test_llama_cpp test_smol test_odd_arguments test_hub_online test_runs test_ray "
    "test_hash_seeds test_examples test_cli test_tuning test_engine test_train"
).split()
"""The files that take longest. They go first, so that no worker is left with one of them at the end."""

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell turns off for what runs in the background
settings.register_profile(
    "ours", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("ours")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--must-run", action="append", default=[], help="tests below this path may not be skipped")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("numprocesses", None):  # else it only hands out tests, and needs no models
        forks.prepare()
        config.pluginmanager.import_plugin("tiny_models")


def pytest_unconfigure() -> None:
    forks.end()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def reports(config: pytest.Config, outcome: str) -> list[pytest.TestReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return reporter.stats.get(outcome, []) if reporter else []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if missing(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def missing(config: pytest.Config) -> list[str]:
    """The paths of `--must-run` with tests that were skipped, or with none at all."""
    if hasattr(config, "workerinput"):  # one of xdist's processes, which sees a part only
        return []
    ran, skipped = ([report.nodeid for report in reports(config, outcome)] for outcome in ("passed", "skipped"))
    paths: list[str] = config.getoption("--must-run")
    return [p for p in paths if any(n.startswith(p) for n in skipped) or not any(n.startswith(p) for n in ran)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in one line why tests were skipped."""
    skipped = reports(config, "skipped")
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped if report.longrepr)
    if reasons:
        terminalreporter.write_line("Skipped: " + "; ".join(f"{n} ({why})" for why, n in reasons.most_common()))
    for path in missing(config):
        terminalreporter.write_line(f"Not allowed here: tests of {path} were skipped, or there are none", red=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Fixtures of upstream's format that live beside the repository; not part of it."""
    if not SHARED.is_dir():
        pytest.skip("no shared fixtures here")
    return SHARED


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the picture of a training run, which takes longer than the run."""
    monkeypatch.setattr("text2lora.recipes.plot_training", lambda folder: None)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes Python processes start at once; see `forks`."""
    assert not forks.left_behind(), "a test or a library changed the environment: no process would be a fork"
    monkeypatch.setattr(subprocess, "Popen", forks.Popen)
