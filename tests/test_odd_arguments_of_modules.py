"""The functions of submodules that the page on the API documents, as `test_odd_arguments` does for the public names."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from test_adapter import make_adapter
from test_odd_arguments import Row, World, check_row, finite, is_ours, is_text, parameters
from test_odd_arguments import world as world  # a fixture

import text2lora
from text2lora import CheckpointError, LoraAdapter
from text2lora.arguments import fits
from text2lora.arithmetic import cosine_matrix
from text2lora.batch import read_descriptions, write_adapters
from text2lora.evaluation.backends import Answer
from text2lora.evaluation.check import check_conditioning, prepare_tasks
from text2lora.evaluation.compare import compare_descriptions
from text2lora.evaluation.data import load_tasks
from text2lora.evaluation.harness import Condition, Sample, evaluate_tasks, make_conditions, summarise
from text2lora.evaluation.report import EvalReport, write_report
from text2lora.export import export_gguf, export_merged, export_zip, write_modelfile, zip_adapter
from text2lora.functions import call_many
from text2lora.inference import complete, generate_answers
from text2lora.novelty import measure_descriptions
from text2lora.recipes import run_recipe
from text2lora.training.lora import train_loras
from text2lora.training.recon import train_recon
from text2lora.training.sft import train_sft
from text2lora.training.task_files import read_tasks
from text2lora.training.tasks import SplitConfig, Task, TaskExample, split_tasks

TASK = """\
name: city
descriptions: [Name the city., Say the city.]
examples:
  - {prompt: a, response: A}
  - {prompt: b, response: B}
  - {prompt: c, response: C}
"""


class Echo:
    """A backend that answers with the question."""

    chat = True

    @contextmanager
    def use(self, adapter: str | None) -> Iterator[None]:
        yield

    def answer(self, requests: Any, max_new_tokens: int, stop: Any) -> list[Answer]:
        return [Answer(request.turns[-1], request.turns[-1]) for request in requests]


TRAINING = (train_sft, train_recon, train_loras, run_recipe)  # a set has another order in each worker
"""What takes long when it is right: only what is refused is tried."""


@pytest.fixture(scope="module")
def module_rows(world: World) -> dict[str, Row]:
    t2l, adapter, base = world.t2l, world.adapter, world.load_base()
    tokenizer = t2l.base_tokenizer
    tasks_file, texts = world.fresh().with_suffix(".yaml"), world.fresh().with_suffix(".txt")
    tasks_file.write_text(TASK)
    texts.write_text("the city\n")
    tasks = [Task(name, ["do"], [TaskExample("a", "A"), TaskExample("b", "B")]) for name in ("one", "two")]
    function = t2l.function("the city", max_new_tokens=2)
    samples = [Sample(name, "t", 0, "p", "o", None, "g", 1.0) for name in ("base", "x")]
    conditions = make_conditions(["x"], shots=0)
    report = EvalReport("m", "b", 0, conditions, summarise(samples), samples)
    made = {"path": world.fresh, "folder": world.fresh, "output_dir": world.fresh}
    prompts = {"model": base, "tokenizer": tokenizer, "max_new_tokens": 2, "batch_size": 2}

    def row(function: Any, right: Any = lambda result: True, **good: Any) -> Row:
        return Row(function, good, right, tuple(name for name, value in good.items() if value in made.values()))

    found = {
        "batch.write_adapters": row(
            lambda **given: list(write_adapters(**given)), lambda found: all(each.folder.is_dir() for each in found),
            model=t2l, descriptions=["the city"], output_dir=world.fresh, settings=None, force=False,
        ),
        "batch.read_descriptions": row(read_descriptions, is_text, path=texts),
        "arithmetic.cosine_matrix": row(
            cosine_matrix, lambda found: bool(found.isfinite().all()), adapters=[adapter, make_adapter(2)]
        ),
        "novelty.measure_descriptions": row(
            measure_descriptions, encoder=t2l.encoder, descriptions=["the city", "case"], tasks=["a", "b"]
        ),
        "functions.call_many": row(
            call_many, is_text, calls=[(function, "two words")], batch_size=2, with_confidence=False
        ),
        "inference.generate_answers": row(generate_answers, is_text, prompts=["two words"], **prompts),
        "inference.complete": row(complete, is_text, texts=["two words"], stop=["."], on_text=None, **prompts),
        "export.gguf.export_gguf": row(
            export_gguf, lambda path: path.is_file(), adapter=adapter, path=world.fresh, base=base.config, dtype=None
        ),
        "export.gguf.write_modelfile": row(
            write_modelfile, lambda path: path.is_file(), path=world.fresh, base="llama3"
        ),
        "export.merged.export_merged": row(
            export_merged, lambda path: path.is_dir(), adapter=adapter, path=world.fresh, base=str(world.base_dir),
            dtype=None, max_shard_size="1GB", force=False,
        ),
        "export.zip.export_zip": row(export_zip, lambda path: path.is_file(), adapter=adapter, path=world.fresh),
        "export.zip.zip_adapter": row(zip_adapter, lambda data: data[:2] == b"PK", adapter=adapter),
        "evaluation.data.load_tasks": row(load_tasks, bool, name=str(tasks_file), data=None, shots=1, limit=1),
        "evaluation.check.prepare_tasks": row(prepare_tasks, tasks=tasks, examples=1),
        "evaluation.check.check_conditioning": row(
            check_conditioning, lambda found: bool(found.verdict), model=t2l, base=base, tokenizer=tokenizer,
            tasks=prepare_tasks(tasks), rows=4, seed=0, report=print,
        ),
        "evaluation.compare.compare_descriptions": row(
            compare_descriptions, lambda found: bool(found.as_dict()), model=t2l, base=base, tokenizer=tokenizer,
            descriptions=["the city", "case"], prompts=["x"], tasks=prepare_tasks(tasks), max_new_tokens=2,
        ),
        "evaluation.harness.make_conditions": row(make_conditions, bool, adapters=["x"], description="d", shots=1),
        "evaluation.harness.evaluate_tasks": row(
            evaluate_tasks, lambda found: all(isinstance(one, Sample) for one in found), backend=Echo(),
            tasks=load_tasks(str(tasks_file), shots=1), conditions=[Condition("base")], allow_code_execution=False,
            max_new_tokens=2, report=print,
        ),
        "evaluation.harness.summarise": row(summarise, samples=samples, seed=0),
        "evaluation.report.write_report": row(write_report, report=report, folder=world.fresh),
        "training.task_files.read_tasks": row(read_tasks, bool, path=tasks_file, described=True),
        "training.tasks.split_tasks": row(
            split_tasks, tasks=tasks, config=SplitConfig(examples=1), report=print
        ),
    }  # fmt: skip
    return found


PAGE = (Path(text2lora.__file__).parent.parent / "docs/api.md").read_text()


def documented() -> dict[str, Any]:
    """What the page shows of submodules, by name, without what `test_odd_arguments` has and without errors."""
    found = {}
    for path in re.findall(r"^::: text2lora\.(\S+)$", PAGE, re.M):
        try:
            module = importlib.import_module(f"text2lora.{path}")
        except ModuleNotFoundError:
            owner, _, name = path.rpartition(".")
            found[path] = getattr(importlib.import_module(f"text2lora.{owner}"), name)
        else:
            own = {name: value for name, value in vars(module).items() if name[0] != "_" and is_ours(value)}
            found |= {f"{path}.{name}": value for name, value in own.items() if value.__module__ == module.__name__}
    exported = {getattr(text2lora, name) for name in text2lora.__all__}
    return {path: v for path, v in found.items() if v not in exported and not path.startswith("errors.")}


def functions() -> dict[str, Any]:
    return {path: value for path, value in documented().items() if inspect.isfunction(value)}


def test_every_documented_function_and_parameter_is_in_the_table(module_rows: dict[str, Row]) -> None:
    expected = {name: sorted(parameters(value)) for name, value in functions().items() if value not in TRAINING}
    assert {name: sorted(row.good) for name, row in module_rows.items()} == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(name for name, value in functions().items() if value not in TRAINING))
def test_odd_arguments_give_a_right_result_or_an_error_of_ours(
    name: str,
    module_rows: dict[str, Row],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(world.folder)
    check_row(name, module_rows[name])


@pytest.mark.parametrize("function", TRAINING, ids=lambda function: function.__name__)
def test_training_refuses_what_is_of_another_type(function: Any) -> None:
    names = parameters(function)
    with pytest.raises(text2lora.TrainingError, match=rf"^{names[0]} is 1\.5: expected "):
        function(*[1.5 for _ in names])


def test_a_value_is_of_a_type_with_all_that_it_contains() -> None:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Literal

    for value, hint, right in [
        (1, int, True), (True, int, False), (1, float, True), (float("nan"), float, False), ("a", str, True),
        (None, str | None, True), (1, str | None, False), (["a"], Sequence[str], True), ("a", Sequence[str], False),
        (["a", 1], Sequence[str], False), (("a", 1), tuple[str, int], True), (("a",), tuple[str, int], False),
        (("a", "b"), tuple[str, ...], True), ({"a": 1}, Mapping[str, int], True), ({1: 1}, Mapping[str, int], False),
        (len, Callable[[str], int], True), ("x", Literal["x", "y"], True), ("z", Literal["x", "y"], False),
        ([], Any, True), (torch.zeros(1), int | float, False),
    ]:  # fmt: skip
        assert fits(value, hint) == right, (value, hint)


def test_a_path_may_be_a_text(world: World) -> None:
    folder = world.fresh()
    (made,) = write_adapters(world.t2l, ["the city"], str(folder))  # type: ignore[arg-type]
    assert finite(LoraAdapter.from_pretrained(made.folder))
    with pytest.raises(CheckpointError, match="adapter is None: expected LoraAdapter"):
        export_gguf(None, folder / "x.gguf")  # type: ignore[arg-type]
