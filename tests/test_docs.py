"""The code in README and docs runs as it is written, and prints what stands below it."""

import ast
import contextlib
import inspect
import io
import pydoc
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from gte_format import write_gte
from hub_server import HubClient, HubServer
from typer.core import TyperGroup
from typer.testing import CliRunner
from upstream_format import write_checkpoint

import text2lora
from text2lora import Text2LoraConfig
from text2lora.bundled import CHECKPOINTS
from text2lora.cli import app, terminal
from text2lora.recipes import KINDS
from text2lora.training.recipe import parse
from text2lora.training.sources import source_kind
from text2lora.training.task_files import read_tasks

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
SHOWN = [ROOT / f"docs/{name}.md" for name in ("tutorials/first-adapter", "concepts/heads", "concepts/scale")]
"""Pages whose blocks `text` are what the block before prints."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def at_a_terminal(monkeypatch):
    """Makes rich take what the tests read for a terminal of the width of the pages."""
    for console in (terminal.out, terminal.err):
        monkeypatch.setattr(console, "_width", 100)  # COLUMNS is read once, when the first test imports them
    for name, value in {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "0", "NO_COLOR": "1", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)


def command_lines(code: str) -> list[str]:
    return [line for line in code.replace("\\\n", " ").splitlines() if line.startswith("t2l ")]


def run_command(line: str) -> str:
    result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
    assert result.exit_code == 0, (line, result.output)
    return result.output


def assert_shows(shown: str, printed: str, tolerance: float = 0.05) -> None:
    """Every part between lines of `…` was printed, in this order; times and the last digits of figures may differ."""
    number = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w.]*\d)|…")
    printed = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed)
    rest = " ".join(printed.split())
    for part in re.split(r"^…\n", shown, flags=re.M):
        part = " ".join(part.split())
        pattern = "".join(
            r"(\d[\d,]*(?:\.\d+)?|…)" if number.fullmatch(piece) else re.escape(piece)
            for piece in re.split(rf"({number.pattern})", part)
            if piece
        )
        found = re.search(pattern, rest)
        assert found, f"{part}\n--- was not printed, but\n{printed}"
        for wanted, given, end in zip(number.findall(part), found.groups(), number.finditer(part)):
            is_time = wanted == "…" or re.match(r" m?s\b", part[end.end() :])
            difference = 0 if is_time else abs(float(given.replace(",", "")) - float(wanted.replace(",", "")))
            assert difference <= tolerance * max(1, float(wanted.replace(",", "")) if not is_time else 1), (part, given)
        rest = rest[found.end() :]


@pytest.mark.parametrize("page", SHOWN, ids=lambda p: p.stem)
def test_pages_show_what_is_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    at_a_terminal(monkeypatch)
    names: dict[str, object] = {}
    printed, compared = "", 0
    for language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "text":
            assert_shows(code, printed)
            compared += 1
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as caught:
                exec(compile(code, str(page), "exec"), names)
            printed = caught.getvalue()
        elif language == "":
            printed = "".join(run_command(line) for line in command_lines(code))
    assert compared


def test_what_is_shown_is_really_compared():
    assert_shows("made 3 in 5 ms\n…\nOSLO 0.79\n", "made 3 in 9 ms\nand more\nOSLO 0.80")
    for printed in ("made 4 in 9 ms\nOSLO 0.79", "made 3 in 9 ms\nOslo 0.79", "made 3 in 9 ms\nOSLO 0.89"):
        with pytest.raises(AssertionError):
            assert_shows("made 3 in 5 ms\n…\nOSLO 0.79\n", printed)


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent != ROOT], ids=lambda p: p.stem)
def test_code_fits_into_the_page_on_a_small_laptop(page):
    """At 1,280 pixels there is room for 93 characters; the rest would be cut off."""
    assert too_long(page.read_text(encoding="utf-8")) == []


def too_long(text: str) -> list[str]:
    return [line for _, code in FENCE.findall(text) for line in code.splitlines() if len(line) > 93]


def test_code_of_docstrings_fits_into_the_page_too():
    names = re.findall(r"^::: ([\w.]+)", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.M)
    found = [pydoc.locate(name) for name in names]
    members = [each for owner in found for name, each in inspect.getmembers(owner) if not name.startswith("_")]
    ours = [each for each in members if str(getattr(each, "__module__", "")).startswith("text2lora")]
    texts = [inspect.getdoc(each) or "" for each in (*found, *ours)]
    assert sum("```python" in text for text in texts) > 5
    assert [line for text in texts for line in too_long(text)] == []


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python") and p not in SHOWN], ids=lambda p: p.name)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), names)
    assert names


def test_code_that_a_shell_hands_to_python_runs():
    pages = {page: "".join(blocks(page, "sh")) for page in PAGES}
    assigned = [line for text in pages.values() for line in text.splitlines() if line.startswith('BASE="$(python -c')]
    assert assigned
    for line in assigned:
        shell = subprocess.run(
            ["bash", "-c", f'python() {{ printf %s "$2"; }}; {line}; printf %s "$BASE"'], capture_output=True
        )
        exec(compile(shell.stdout.decode(), line, "exec"), {})


def test_readme_code_prints_the_city(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(blocks(ROOT / "README.md", "python")[0], {})
    assert capsys.readouterr().out.strip().split("\n")[-1] == "Lisbon"


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if re.search(r"^t2l (make|run|info|export) ", "".join(blocks(p, "")), re.M) and p not in SHOWN],
    ids=lambda p: p.name,
)
def test_quick_commands_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code in blocks(page, ""):
        for line in command_lines(code):
            if re.match(r"t2l (make|run|info|export) ", line):
                run_command(line)


def test_pages_can_be_followed_one_after_the_other():
    """No two of them make an adapter of the same name, which the second would refuse."""
    lines = [
        line
        for page in PAGES
        for _, code in FENCE.findall(page.read_text(encoding="utf-8"))
        for line in command_lines(code)
    ]
    names = [found[1] for line in lines if (found := re.match(r"t2l make \".* (?:--output|-o) ([\w-]+)", line))]
    assert len(names) > 10
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "yaml")], ids=lambda p: p.name)
def test_recipes_and_tasks_are_understood(page, tmp_path):
    for code in blocks(page, "yaml"):
        data = yaml.safe_load(code)
        if "kind" in data:
            kind, _ = KINDS[data.pop("kind")]
            recipe = parse(kind, data)
            for number, entry in enumerate(getattr(recipe, "tasks", [])):
                parse(source_kind(entry), entry, f"tasks[{number}]")
            if getattr(recipe, "model", None):
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
                words = shlex.split(re.split(r" [|<>] |\)  ", found[1])[0].rstrip(")"), comments=True)
                command, names = typer.main.get_command(app), []
                while isinstance(command, TyperGroup) and words and words[0] in command.commands:
                    names.append(words[0])
                    command = command.commands[words.pop(0)]
                assert names, line
                known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
                used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
                assert used <= known | {"--help", "-h"}, (line, used - known)


def test_command_reference_is_that_of_the_command_line():
    script = runpy.run_path(str(ROOT / "docs/cli_reference.py"))
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert page == script["with_reference"](page), "run docs/cli_reference.py"


def written_messages() -> str:
    """Every text in the library's code, a line each; `…` for what is filled in."""

    def text(node: ast.AST) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(text(part) for part in node.values)
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"

    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "text2lora").rglob("*.py"))
    strings = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant))
    return "\n".join(text(node) for node in strings)


def test_messages_of_troubleshooting_are_those_of_the_library():
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\*\*(`+)(.+)\1\*\*$", page, re.M)
    assert len(quoted) == page.count("\n: ") > 20
    written = written_messages()
    assert [message for _, message in quoted if message not in written] == []


@pytest.mark.slow
def test_training_tutorial_prints_what_it_shows(tmp_path, monkeypatch):
    """With one step in place of 150, so that figures differ, and the answers at the end."""
    monkeypatch.chdir(tmp_path)
    at_a_terminal(monkeypatch)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    page = ROOT / "docs/tutorials/train-ten-tasks.md"
    (train,), (make,) = (
        [line for code in blocks(page, "sh") for line in command_lines(code) if line.startswith(command)]
        for command in ("t2l train", "t2l make")
    )
    trained, made, _ = blocks(page, "text")
    assert_shows(trained, run_command(f"{train} --set sft.fit.steps=1 --set split.examples=1"), tolerance=1e9)
    assert_shows(made, run_command(make))
    assert (tmp_path / "runs/recipe/training.png").exists()


def test_tutorial_on_released_checkpoints_prints_what_it_shows(tmp_path, encoder_dir):
    """Against a Hub in memory, with a checkpoint of the same format whose sizes are other ones."""
    page = ROOT / "docs/tutorials/released-to-deployed.md"
    lines = [line for code in blocks(page, "sh") for line in command_lines(code)]
    lines = [shlex.split(line)[1:] for line in lines if line.startswith(("t2l make", "t2l info"))]
    source = write_checkpoint(
        tmp_path / "source" / "trained_t2l/gemma_2b_t2l", args={"model_dir": "google/gemma-2-2b-it"}
    )
    (tmp_path / "work").mkdir()
    with HubServer() as hub, HubClient(hub.url, tmp_path, TTY_COMPATIBLE="1", TTY_INTERACTIVE="0") as client:
        hub.add("SakanaAI/text-to-lora", source.parents[1])
        hub.add("Alibaba-NLP/gte-large-en-v1.5", write_gte(tmp_path / "gte", encoder_dir))
        code = "result = [cli(*words) for words in commands]"
        answers = client(code, token="hf_writertoken", cwd=tmp_path / "work", commands=lines)
    shown = [code.replace("https://huggingface.co", hub.url) for code in blocks(page, "text")]
    assert len(shown) == len(answers) == 3
    for text, (code, out, err) in zip(shown, answers, strict=True):
        assert code == 0, err
        assert_shows(text, re.sub(r"\d k?B\b", "1 MB", out), tolerance=1e9)


def test_readme_shows_the_table_that_the_command_wrote():
    table = (CHECKPOINTS["nano"].parent / "results" / "table.md").read_text(encoding="utf-8")
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")


def test_demo_shows_base_and_adapter_side_by_side(tmp_path, forked):
    run = subprocess.run(
        [sys.executable, ROOT / "examples/quickstart.py"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert run.stdout.count("adapter") >= 7
    assert "Traceback" not in run.stderr
    told = " ".join(run.stdout.split())
    assert "Will it rain in Lisbon" in told
    assert "Names and orders are invented" in told
    assert "so its answers, often just 1, mean nothing" in told
    *activation, make, use = (line.strip() for line in run.stdout.strip().splitlines()[-3:])
    assert make.startswith('t2l make "')
    assert use.startswith("t2l run city ")
    assert activation[0].startswith("source ") == (shutil.which("t2l") is None)


def test_how_tos_are_grouped_and_output_is_no_command():
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    (groups,) = (part["How to"] for part in yaml.safe_load(text)["nav"] if "How to" in part)
    sizes = [len(pages) for group in groups for pages in group.values() if isinstance(pages, list)]
    assert len(sizes) == len(groups) > 1
    assert max(sizes) <= 6
    style = (ROOT / "docs/extra.css").read_text(encoding="utf-8")
    assert re.search(r"language-text.* \.md-code__nav \{ display: none; \}", style)


def test_what_two_calls_give_is_said_where_people_begin():
    for page in ("README.md", "docs/quickstart.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert "Each call of `generate_adapter` returns a new model" in text


@pytest.mark.slow
def test_site_builds_strictly_and_asks_nobody_else_for_anything(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:link|script|img|iframe|source)\b[^>]*?(?:href|src)=[\"']?(?:https?:)?//[^>]*>", text)
        assert [tag for tag in loaded if "canonical" not in tag] == [], page
    assert not list((tmp_path / "site").rglob("*.py"))


def test_reference_shows_where_names_are_imported_from():
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^::: (\S+)\n((?:    .*\n)*)", page, re.M)
    short = {path.rpartition(".")[2] for path, options in blocks if "show_root_full_path: false" in options}
    assert short == {path.rpartition(".")[2] for path, _ in blocks} & set(text2lora.__all__)
    assert all("show_object_full_path: true" in text for _, text in blocks if "show_root_heading: false" in text)
    assert "show_root_full_path: true" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_links_between_pages_exist():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
