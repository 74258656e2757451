"""The experiments in `examples` run from data to table, on data made here and for a few steps."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from text2lora import files
from text2lora.recipes import run_recipe

pytestmark = pytest.mark.usefixtures("no_picture")
EXAMPLES = Path(__file__).parents[1] / "examples"


def run_script(path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python PATH ARGUMENTS` does it."""
    import runpy

    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    monkeypatch.syspath_prepend(str(path.parent))
    for other in path.parent.glob("*.py"):  # another example may have a module of the same name
        monkeypatch.delitem(sys.modules, other.stem, raising=False)
    runpy.run_path(str(path), run_name="__main__")


def test_function_vectors_from_data_to_table(tmp_path: Path, monkeypatch, capsys) -> None:
    folder = EXAMPLES / "function-vectors"
    names = [json.loads(line)["name"] for line in (folder / "descriptions.jsonl").read_text().splitlines()]
    assert len(names) == len(set(names)) == 56
    unseen = "ag_news choose_last_of_3 choose_middle_of_5 concept_v_object_5 conll2003_location".split()
    unseen += "conll2003_organization english-german english-spanish prev_item verb_v_adjective_5".split()
    with gzip.open(tmp_path / "data.jsonl.gz", "wt") as file:
        for name in [*unseen, "capitalize", "word_length"]:
            rows = [{"prompt": f"{name[:3]} {i}", "response": f"{i}"} for i in range(12)]
            file.write(json.dumps({"name": name, "train": rows[:9], "test": rows[8:]}) + "\n")
    monkeypatch.chdir(tmp_path)
    run_script(folder / "prepare.py", ["data.jsonl.gz", "--steps", "2", "--vocabulary", "280"], monkeypatch)
    assert "12 tasks, 2 of them in the base's pre-training" in capsys.readouterr().out
    runs = tmp_path / "runs" / "function-vectors"
    tasks = [json.loads(line) for line in (runs / "tasks.jsonl").read_text().splitlines()]
    assert {(len(task["examples"]), len(task["held_out_examples"])) for task in tasks} == {(8, 4)}

    short = ["sft.fit.steps=2", "sft.fit.eval_every=0", "split.examples=2"]
    run_recipe(str(folder / "recipe.yaml"), runs, short, lambda line: None)
    run_recipe(str(folder / "oracles.yaml"), runs, ["fit.steps=2"], lambda line: None)
    run_script(folder / "report.py", ["--examples", "2"], monkeypatch)
    table = (runs / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "| base, 6 demonstrations | " in table
    assert "| a LoRA trained per task | " in table
    assert len((runs / "tasks.csv").read_text().splitlines()) == 1 + 12 * 8


def test_task_encoders_and_heads_are_compared_at_equal_steps(tmp_path: Path, monkeypatch, capsys) -> None:
    folder = EXAMPLES / "task-encoders"
    few = ["sft.fit.steps=2", "sft.tasks=4", "model.encoder_max_length=8"]
    few += ["tasks.0.arguments.validate={dev_seen: 1, dev_unseen: 1, dev_freeform: 1}"]
    few += ["tasks.0.arguments.per_group={field: 1}"]
    monkeypatch.setattr(files, "read_json_lines", lambda path, read=files.read_json_lines: read(path)[:4])
    for recipe in ("pooled", "tokens", "mixture"):
        run_recipe(str(folder / f"{recipe}.yaml"), tmp_path / "0", few, lambda line: None)
    run_script(folder / "table.py", [str(tmp_path)], monkeypatch)
    printed = capsys.readouterr().out
    for recipe in ("pooled", "tokens", "mixture"):
        assert f"| {recipe} | 1 | 0.0" in printed
