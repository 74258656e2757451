"""The order in which Python goes through sets differs from process to process; what is made in them does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_smol_tasks import command, write_data

from text2lora.nano import sample_record

SEEDS = ["1", "2"]
"""Each takes a process that imports all anew, so that all tests that need one are here."""
FILES = """
import sys
from pathlib import Path

def show(*folders):
    for folder in folders:
        for path in sorted(Path(folder).iterdir()):
            print(path.name, path.read_bytes().hex())
"""


def said(code: str, folder: Path, seeds: list[str] = SEEDS) -> set[str]:
    """What processes print that run `code` with a folder of their own in `sys.argv[1]`; they have `show`."""
    found = set()
    for seed in seeds:
        done = subprocess.run(
            [sys.executable, "-c", FILES + code, str(folder / seed)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout
        found.add(done.stdout)
    return found


@pytest.fixture(autouse=True)
def _start_at_once(forked: None) -> None:
    pass


def test_the_processes_differ(tmp_path: Path) -> None:
    assert len(said("print(hash('a'))", tmp_path)) == len(SEEDS)


def test_adapters_are_the_same_bytes(tmp_path: Path) -> None:
    code = """
from text2lora import Text2LoraModel
show(Text2LoraModel.from_pretrained("nano").generate_lora("initials of the buyer").save_pretrained(sys.argv[1]))
"""
    assert len(said(code, tmp_path)) == 1


def test_adapters_of_a_named_base_are_the_same_bytes_as_here(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code = f"""
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_adapter import make_adapter
show(make_adapter(base_model_name_or_path="my/base").save_pretrained(sys.argv[1]))
"""
    (found,) = said(code, tmp_path)
    exec(FILES + code.replace("sys.argv[1]", repr(str(tmp_path / "here"))), {})
    assert capsys.readouterr().out == found


def test_evaluations_give_the_same_report(tmp_path: Path) -> None:
    records = [sample_record("order", 900 + i) for i in range(6)]
    lines = [json.dumps({"prompt": line, "answer": fields["city"].upper()}) for line, fields in records]
    (tmp_path / "cities.jsonl").write_text("\n".join(lines))
    code = f"""
from text2lora import Text2LoraModel
from text2lora.cli import app
adapter = Text2LoraModel.from_pretrained("nano").generate_lora("Return the city in capital letters.")
adapter.save_pretrained({str(tmp_path / "capitals")!r})
words = "eval -m nano -a {tmp_path / "capitals"} -t {tmp_path / "cities.jsonl"} --device cpu -o".split()
app([*words, sys.argv[1]], standalone_mode=False)
show(sys.argv[1])
"""
    (found,) = said(code, tmp_path)
    assert "+1.000" in found
    names = [path.name for path in sorted((tmp_path / "1").iterdir())]
    assert [line.split()[0] for line in found.splitlines()[-2:]] == names == ["results.json", "table.md"]


def test_released_checkpoints_are_read_the_same(shared: Path, tmp_path: Path) -> None:
    """From both layouts; twenty seeds with T2L_HASH_SEEDS=20."""
    code = f"""
from safetensors.torch import load_file
from text2lora import Text2LoraModel
for folder in sorted(Path({str(shared / "fixtures" / "t2l_checkpoints")!r}).iterdir()):
    task_emb = load_file(folder / "task_emb.safetensors")["task_emb"]
    model, converted = Text2LoraModel.from_pretrained(folder), Path(sys.argv[1], "converted", folder.name)
    model.save_pretrained(converted)
    for each in (model, Text2LoraModel.from_pretrained(converted)):
        show(each.generate_lora(task_emb=task_emb)[0].save_pretrained(Path(sys.argv[1], "made", folder.name)))
"""
    count = int(os.environ.get("T2L_HASH_SEEDS", len(SEEDS)))
    assert len(said(code, tmp_path, [str(seed) for seed in range(1, 1 + count)])) == 1


def test_a_record_is_the_same(tmp_path: Path) -> None:
    code = "from text2lora.nano import sample_record; print(sample_record('event', 5))"
    assert said(code, tmp_path) == {f"{sample_record('event', 5)}\n"}


def test_wordings_are_the_same(tmp_path: Path) -> None:
    code = f"""
import random
sys.path.insert(0, {str(Path(__file__).parents[1] / "examples" / "nano")!r})
import wording
from catalogue import TASKS
seeded = random.Random(1)
print([wording.describe(task, seeded) for task in list(TASKS.values())[::200]])
"""
    assert len(said(code, tmp_path)) == 1


def test_task_files_of_smol_are_the_same(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    program, *words = map(str, command(tmp_path / "data", "OUTPUT")[1:])
    code = f"""
import runpy
folder = sys.argv[1]
sys.argv = [{program!r}, *(folder if word == "OUTPUT" else word for word in {words!r})]
sys.path.insert(0, str(Path({program!r}).parent))
runpy.run_path({program!r}, run_name="__main__")
show(folder)
"""
    (found,) = said(code, tmp_path)
    assert "train.jsonl" in found
