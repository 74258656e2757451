"""Runs the notebooks and saves them with their outputs: `python examples/save_notebooks.py [NAME ...]`; all by default.

Each runs in an empty folder that holds the ten tasks and nano. The map's picture goes into the documentation.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent.resolve()
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
descriptions = HERE / "../../shared/data/t2l_task_descriptions.jsonl.gz"
os.environ.setdefault("T2L_DESCRIPTIONS", str(descriptions))

for path in sorted(HERE.glob("*.ipynb")):
    if sys.argv[1:] and path.stem not in sys.argv[1:]:
        continue
    print(path.name)
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ten-tasks", "nano"):
            shutil.copytree(HERE / name, Path(folder, name))
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=3600, resources=resources, record_timing=False, coalesce_streams=True)
        client.execute()
        if (picture := Path(folder, "adapter-map.png")).is_file():
            shutil.copy(picture, HERE.parent / "docs/images")
    notebook.metadata = METADATA  # without versions, so that only what matters differs
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":  # warnings and progress go
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)
