"""Recipes whose tasks a Python file makes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from text2lora import Text2LoraModel
from text2lora.errors import TrainingError
from text2lora.recipes import run_recipe
from text2lora.training.sources import load_sources
from text2lora.training.tasks import Task

pytestmark = pytest.mark.usefixtures("no_picture")
ROOT = Path(__file__).parents[2]
NEIGHBOUR = "ORDERS = [f'order A{n}: {n} x tent' for n in range(1, 41)]\n"
SOURCE = """
from __future__ import annotations

from dataclasses import dataclass

from neighbour_of_tasks import ORDERS
from text2lora.training.data import Probe, TaskDraw
from text2lora.training.tasks import Task, TaskExample

TASKS = {"quantity": ("How many?", 2), "number": ("Which order?", 1)}


def answer(name, order):
    return order.split()[TASKS[name][1]].rstrip(":")


def listed(count):
    examples = {name: [TaskExample(o, answer(name, o)) for o in ORDERS[:count]] for name in TASKS}
    return [Task(name, [text], examples[name]) for name, (text, _) in TASKS.items()]


@dataclass
class Endless:
    suffix: str = ""

    def __post_init__(self):
        self.task_names = list(TASKS)
        self.descriptions = [text for text, _ in TASKS.values()]
        self.probes = {"orders": [Probe(TASKS[n][0], [(ORDERS[0], answer(n, ORDERS[0]))]) for n in TASKS]}

    def draw(self, rng, examples):
        row = rng.randrange(2)
        orders = rng.choices(ORDERS, k=examples)
        return TaskDraw(row, [(o, answer(self.task_names[row], o) + self.suffix) for o in orders])


def wrong():
    return ["no task"]


def broken():
    raise ZeroDivisionError("there are no orders")
"""
MODEL = {"encoder_name_or_path": "sentence-transformers/all-MiniLM-L6-v2", "encoder_pooling": "mean",
         "task_emb_size": 384, "latent_size": 32, "head_input_size": 32, "lora_r": 1}  # fmt: skip
SFT = {"tasks": 2, "fit": {"steps": 2}}


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "neighbour_of_tasks", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe and the Python file beside it."""
    (tmp_path / "neighbour_of_tasks.py").write_text(NEIGHBOUR)
    (tmp_path / "my_tasks.py").write_text(SOURCE)
    recipe = {"kind": "sft", "base": {"name": "nano"}, "tasks": [{"python": "my_tasks.py:Endless"}],
              "model": MODEL, "sft": SFT}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def silent(line: str) -> None:
    pass


def test_a_function_lists_tasks_beside_those_of_files(folder: Path) -> None:
    (folder / "task.yaml").write_text("descriptions: [Whatever]\nexamples: [[a, b], [c, d]]\n")
    sources = [{"python": "my_tasks.py:listed", "arguments": {"count": 3}}, {"path": "task.yaml"}]
    tasks = load_sources(sources, folder)
    assert isinstance(tasks, list)
    assert [(task.name, len(task.examples)) for task in tasks] == [("quantity", 3), ("number", 3), ("task", 2)]
    assert tasks[1].examples[2].without_definition() == ("order A3: 3 x tent", "A3")


def test_a_class_draws_examples_and_says_what_to_validate_on(folder: Path) -> None:
    run = run_recipe(str(folder / "recipe.yaml"), folder / "runs", [], silent)
    figures = [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "step" in row]
    assert "orders/exact_match" in figures[-1]
    model = Text2LoraModel.from_pretrained(run)
    assert {near.task for near in model.novelty("How many?").nearest} == {"quantity", "number"}


def test_a_run_is_not_resumed_with_other_answers(folder: Path) -> None:
    run_recipe(str(folder / "recipe.yaml"), folder / "runs", [], silent)
    (folder / "runs" / "recipe" / "finished").unlink()  # interrupted
    (folder / "my_tasks.py").write_text(SOURCE.replace('suffix: str = ""', 'suffix: str = "!"'))
    with pytest.raises(TrainingError, match="the files named in the recipe have changed"):
        run_recipe(str(folder / "recipe.yaml"), folder / "runs", [], silent, resume=True)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([{"python": "my_tasks.py"}], "python is 'my_tasks.py': expected FILE.py:NAME"),
        ([{"python": "my_tasks:listed"}], "python is 'my_tasks:listed': expected FILE.py:NAME"),
        ([{"python": "absent.py:listed"}], "python is 'absent.py:listed': there is no file absent.py"),
        ([{"python": "my_tasks.py:absent"}], "my_tasks.py defines no absent"),
        ([{"python": "my_tasks.py:wrong"}], "my_tasks.py:wrong returned \"['no task']\": expected a list of"),
        ([{"python": "my_tasks.py:broken"}], r"my_tasks.py:broken failed (ZeroDivisionError: there are no orders)"),
        ([{"python": "my_tasks.py:listed"}], "my_tasks.py:listed failed (TypeError: listed() missing 1 required"),
        ([{"python": "my_tasks.py:listed", "argument": {}}], "has no setting 'argument': did you mean 'arguments'?"),
        ([{"python": "my_tasks.py:Endless"}] * 2, "draws its own examples: it must be the recipe's only source"),
    ],
)
def test_what_is_wrong_with_a_source_is_said_in_a_line(sources: list, message: str, folder: Path) -> None:
    with pytest.raises(TrainingError, match=re.escape(message)):
        load_sources(sources, folder)


def test_loras_and_one_hot_need_a_list(folder: Path) -> None:
    with pytest.raises(TrainingError, match="one_hot needs tasks from files, data sets or a list"):
        run_recipe(str(folder / "recipe.yaml"), folder / "runs", ["one_hot=true"], silent)
    (folder / "lora.yaml").write_text("kind: lora\nbase: {name: nano}\ntasks: [{python: 'my_tasks.py:Endless'}]\n")
    with pytest.raises(TrainingError, match="LoRAs need a list of tasks"):
        run_recipe(str(folder / "lora.yaml"), folder / "runs", [], silent)


def test_the_documented_source_makes_tasks(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/train.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# my_tasks.py\n(.*?)```", page, re.S)
    (tmp_path / "my_tasks.py").write_text(code)
    tasks = load_sources([{"python": "my_tasks.py:make_tasks", "arguments": {"count": 5}}], tmp_path)
    assert isinstance(tasks, list)
    assert all(isinstance(task, Task) and len(task.examples) == 5 for task in tasks)
    assert tasks[0].examples[4].response == "5"
