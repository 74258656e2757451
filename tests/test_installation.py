"""The command that error messages give installs the library from where it came, and the docs say one and the same."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from text2lora.installation import install_command

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
URL = "https://github.com/text2lora/text2lora"


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'text2lora[ui]'"),
        ({"url": "file:///home/me/my%20lora", "dir_info": {}}, "pip install '/home/me/my lora[ui]'"),
        ({"url": "file:///srv/t2l", "dir_info": {"editable": True}}, "pip install -e '/srv/t2l[ui]'"),
        (
            {"url": URL, "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            f"pip install 'text2lora[ui] @ git+{URL}@abc'",
        ),
        (
            {"url": "file:///tmp/text2lora-1.whl", "archive_info": {}},
            "pip install 'text2lora[ui] @ file:///tmp/text2lora-1.whl'",
        ),
    ],
)
def test_an_extra_is_installed_from_where_the_library_came(monkeypatch, origin, command):
    found = SimpleNamespace(read_text={"direct_url.json": origin and json.dumps(origin)}.get)
    monkeypatch.setattr(metadata, "distribution", lambda name: found)
    assert install_command("ui") == command


def test_a_library_that_is_not_installed_is_installed_from_an_index(monkeypatch):
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert install_command("", "--force-reinstall") == "pip install --force-reinstall text2lora"


def test_one_page_says_how_to_install():
    """A release changes that page and no other: they name their extra and link to it."""
    pages = [*ROOT.glob("*.md"), *(page for folder in ("docs", "examples") for page in ROOT.glob(f"{folder}/**/*.md"))]
    installing = re.compile(r"pip install [^\n`]*(?:text2lora|\.\[)")
    assert [page.name for page in pages if installing.search(page.read_text(encoding="utf-8"))] == ["installation.md"]
    page = (ROOT / "docs/installation.md").read_text(encoding="utf-8")
    assert PROJECT["urls"]["Repository"] in page
    rows = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert set(rows) == set(PROJECT["optional-dependencies"]) - {"dev", "docs"}


def test_notebooks_and_the_space_install_from_the_repository():
    source = f"git+{PROJECT['urls']['Repository']}"
    assert (ROOT / "examples/space/requirements.txt").read_text() == f"text2lora[ui] @ {source}\n"
    for path in ROOT.glob("examples/*.ipynb"):
        cell = re.search(r"%pip install -q \\\"text2lora\[[\w,]+\] @ (\S+)\\\"", path.read_text(encoding="utf-8"))
        assert cell, path.name
        assert cell[1] == source
