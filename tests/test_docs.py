"""The code in README and docs runs as it is written."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from typer.core import TyperGroup
from typer.testing import CliRunner

from text2lora import Text2LoraConfig
from text2lora.cli import app
from text2lora.hub import CHECKPOINTS
from text2lora.recipes import KINDS
from text2lora.training.recipe import parse
from text2lora.training.tasks import read_tasks, source_kind

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), names)
    assert names


def test_readme_code_prints_the_city(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(blocks(ROOT / "README.md", "python")[0], {})
    assert capsys.readouterr().out.strip().split("\n")[-1] == "OSLO"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if re.search(r"^t2l (make|run|info|export) ", p.read_text(), re.M)], ids=lambda p: p.name
)
def test_quick_commands_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code in blocks(page, ""):
        for line in code.splitlines():
            if re.match(r"t2l (make|run|info|export) ", line):
                result = CliRunner().invoke(app, shlex.split(line)[1:])
                assert result.exit_code == 0, (line, result.output)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "yaml")], ids=lambda p: p.name)
def test_recipes_and_tasks_are_understood(page, tmp_path):
    for code in blocks(page, "yaml"):
        data = yaml.safe_load(code)
        if "kind" in data:
            kind, _ = KINDS[data.pop("kind")]
            recipe = parse(kind, data)
            for number, entry in enumerate(getattr(recipe, "tasks", [])):
                parse(source_kind(entry), entry, f"tasks[{number}]")
            if recipe.model:
                Text2LoraConfig(**recipe.model)
        else:
            (tmp_path / "task.yaml").write_text(code)
            assert read_tasks(tmp_path / "task.yaml")


@pytest.mark.parametrize("page", [p for p in PAGES if "t2l " in p.read_text()], ids=lambda p: p.name)
def test_commands_and_their_options_exist(page):
    """What is too long to run is at least understood: every command in a block is one, with the options it is given."""
    for language in ("", "sh"):
        for code in blocks(page, language):
            for line in code.replace("\\\n", " ").splitlines():
                found = re.search(r"(?:\bt2l|-m text2lora) (.*)", line)
                if not found or line.startswith("#"):
                    continue
                words = shlex.split(found[1], comments=True)
                command, names = typer.main.get_command(app), []
                while isinstance(command, TyperGroup) and words and words[0] in command.commands:
                    names.append(words[0])
                    command = command.commands[words.pop(0)]
                assert names, line
                known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
                used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
                assert used <= known | {"--help", "-h"}, (line, used - known)


def test_readme_shows_the_table_that_the_command_wrote():
    table = (CHECKPOINTS["nano"].parent / "results" / "table.md").read_text(encoding="utf-8")
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")


def test_demo_shows_base_and_adapter_side_by_side(tmp_path):
    import subprocess
    import sys

    run = subprocess.run(
        [sys.executable, ROOT / "examples/quickstart.py"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert run.stdout.count("adapter") >= 3
    assert "Traceback" not in run.stderr


def test_links_between_pages_exist():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
