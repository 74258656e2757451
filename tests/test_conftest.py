"""How the tests are run: skips are explained in one line, and those that must run may not be skipped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture
def ours(request: pytest.FixtureRequest):
    plugins = request.config.pluginmanager.get_plugins()
    return next(
        plugin for plugin in plugins if getattr(plugin, "__file__", "") == str(Path(__file__).parent / "conftest.py")
    )


class Run:
    """What pytest tells a plugin at the end of a run: outcomes of tests by name, and paths of `--must-run`."""

    def __init__(self, outcomes: dict[str, str], must_run: list[str]):
        self.stats: dict[str, list[SimpleNamespace]] = {}
        for name, outcome in outcomes.items():
            kind, _, why = outcome.partition(": ")
            self.stats.setdefault(kind, []).append(SimpleNamespace(nodeid=name, longrepr=("", 1, f"Skipped: {why}")))
        self.must_run, self.lines, self.pluginmanager, self.exitstatus = must_run, [], self, 0
        self.config = self

    def get_plugin(self, name: str) -> Run:
        return self

    def getoption(self, name: str) -> list[str]:
        return self.must_run

    def write_line(self, line: str, **style: bool) -> None:
        self.lines.append(line)


def test_a_line_at_the_end_says_why_tests_were_skipped(ours) -> None:
    run = Run({"a": "skipped: no GPU", "b": "skipped: no browser", "c": "skipped: no GPU", "d": "passed"}, [])
    ours.pytest_terminal_summary(run, run)
    assert run.lines == ["Skipped: 2 (no GPU); 1 (no browser)"]
    ours.pytest_sessionfinish(run)
    assert run.exitstatus == 0


@pytest.mark.parametrize(
    "outcomes", [{"tests/ui/a": "passed", "tests/ui/b": "skipped: no browser"}, {"tests/x": "passed"}]
)
def test_tests_that_must_run_fail_the_run_where_they_are_skipped(ours, outcomes: dict[str, str]) -> None:
    run = Run(outcomes, ["tests/ui"])
    ours.pytest_terminal_summary(run, run)
    assert run.lines[-1] == "Not allowed here: tests of tests/ui were skipped, or there are none"
    ours.pytest_sessionfinish(run)
    assert run.exitstatus == pytest.ExitCode.TESTS_FAILED


def test_the_checks_of_a_change_must_run_the_browser_tests() -> None:
    script = Path(__file__).parents[1] / ".ci" / "run"
    if not script.exists():
        pytest.skip("no checkout here")
    assert 'PYTEST_ADDOPTS="--must-run tests/ui" make test' in script.read_text()
