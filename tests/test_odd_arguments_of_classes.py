"""The classes of submodules that the page on the API documents: made of odd values, and their methods called with them.

As `test_odd_arguments` does for the public names: a right result or an error of ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import serve_chat
from test_adapter import make_adapter
from test_odd_arguments import Row, World, all_finite, check_row, surface_of_class
from test_odd_arguments import world as world  # a fixture
from test_odd_arguments_of_modules import documented

from text2lora import LoraAdapter
from text2lora.batch import AdapterSettings, ShardWriter, write_adapters
from text2lora.confidence import Calibration
from text2lora.evaluation.backends import Answer, Request, ServerBackend, TransformersBackend
from text2lora.evaluation.check import CheckTask
from text2lora.evaluation.harness import Sample, make_conditions, summarise
from text2lora.evaluation.report import EvalReport
from text2lora.training.average import AverageRecipe
from text2lora.training.engine import EngineConfig
from text2lora.training.fit import FitConfig
from text2lora.training.recon import ReconConfig
from text2lora.training.runs import BaseSpec, LoraRecipe, ReconRecipe, SftRecipe
from text2lora.training.sft import SftConfig
from text2lora.training.tasks import SplitConfig, Task, TaskExample, TaskSet

RESULTS = {
    "evaluation.check.ConditionScore",
    "evaluation.check.ConditioningReport",
    "evaluation.check.Interval",
    "evaluation.check.Similarities",
    "evaluation.compare.Comparison",
    "evaluation.compare.Wording",
    "functions.Answer",
    "novelty.Novelty",
    "tuning.Tuned",
}
"""What the library makes and hands out: users read it and pass it to nothing."""


def classes() -> dict[str, type]:
    return {path: value for path, value in documented().items() if isinstance(value, type) and path not in RESULTS}


def surface() -> dict[str, list[str]]:
    return {name: each for path, cls in classes().items() for name, each in surface_of_class(path, cls).items()}


def settings_of(cls: type, **more: Any) -> Row:
    """A class of settings with its defaults: every field is checked by its annotation."""
    fields = vars(cls(**more)).copy()
    return Row(cls, fields, lambda made: all(getattr(made, name) is not None for name in fields))


def used(backend: Any, adapter: Any) -> bool:
    """Whether a backend answers with an adapter."""
    use: AbstractContextManager[None] = backend.use(adapter)
    with use:
        (answer,) = backend.answer([Request(("two words",))], 2, [])
    return isinstance(answer, Answer)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, serve_chat(lambda body: "yes", ("base", "x")) as url:
        patch.delenv("OPENAI_API_KEY", raising=False)
        yield url


@pytest.fixture(scope="module")
def class_rows(world: World, server: str) -> dict[str, Row]:
    t2l, base = world.t2l, world.load_base()
    tokenizer = t2l.base_tokenizer
    saved = str(world.fresh())
    t2l.generate_lora("the city").save_pretrained(saved)
    example = TaskExample("a", "A", "do", "A")
    task = Task("one", ["do"], [example, example])
    tasks = TaskSet([task])
    samples = [Sample(name, "t", 0, "p", "o", None, "g", 1.0) for name in ("base", "x")]
    conditions = make_conditions(["x"], shots=0)
    report = EvalReport("m", "b", 0, conditions, summarise(samples), samples)
    writer = ShardWriter(t2l, str(world.fresh()))
    backend = TransformersBackend(base, tokenizer, {"x": make_adapter()}, 2)
    remote = ServerBackend(server, "base", ["x"])
    request = Request(("two words",))
    calibration = Calibration(1.0, 0.5, 0.0, 0.0)
    recipe = {"base": BaseSpec("nano"), "tasks": [{"path": "x"}]}
    answers = {"requests": [request], "max_new_tokens": 2, "stop": ["."]}

    def write(**given: Any) -> LoraAdapter:
        (made,) = write_adapters(t2l, ["the city"], world.fresh(), AdapterSettings(**given))
        return LoraAdapter.from_pretrained(made.folder)

    def writes(made: ShardWriter) -> bool:
        return all_finite(LoraAdapter.from_pretrained(made.write(["the city"]), made.name("the city")))

    def is_confidence(value: Any) -> bool:
        return isinstance(value, float) and 0 <= value <= 1

    def drawn(made: Any) -> bool:
        return isinstance(made.draw(random.Random(0), 1).examples[0][1], str)

    return {
        "batch.AdapterSettings": Row(
            write, {"scale": 1.0, "dtype": torch.bfloat16, "fold_rslora": True}, all_finite
        ),
        "batch.ShardWriter": Row(
            ShardWriter,
            {"model": t2l, "output": world.fresh, "settings": AdapterSettings(), "decided": "x"},
            writes,
            ("output",),
        ),
        "batch.ShardWriter.name": Row(writer.name, {"description": "the city"}, lambda name: name == Path(name).name),
        "batch.ShardWriter.plan": Row(
            writer.plan, {"descriptions": ["the city"], "per_shard": 2}, lambda parts: isinstance(parts, list)
        ),
        "batch.ShardWriter.write": Row(writer.write, {"descriptions": ["the city"]}, lambda path: Path(path).is_file()),
        "confidence.Calibration": Row(
            Calibration, dict(vars(calibration)), lambda made: is_confidence(made.confidence([-1.0]))
        ),
        "confidence.Calibration.after_tuning": Row(
            calibration.after_tuning, {"share": 0.5}, lambda made: is_confidence(made.confidence([-1.0]))
        ),
        "confidence.Calibration.confidence": Row(calibration.confidence, {"log_probs": [-1.0, -2.0]}, is_confidence),
        "confidence.Calibration.fit": Row(
            Calibration.fit,
            {"log_probs": [[-0.1], [-0.2], [-4.0]], "right": [True, True, False], "left_out": [None, 1.0, 0.0]},
            lambda made: is_confidence(made.confidence([-1.0])),
        ),
        "confidence.Calibration.load": Row(Calibration.load, {"path": calibration.save(world.folder)}),
        "confidence.Calibration.parse": Row(Calibration.parse, {"text": str(calibration)}),
        "confidence.Calibration.save": Row(calibration.save, {"folder": world.fresh}, made=("folder",)),
        "evaluation.backends.ServerBackend": Row(
            ServerBackend,
            {"url": server, "model": "base", "adapters": ["x"], "concurrency": 2, "retries": 0, "timeout": 60,
             "seed": 0},
            lambda made: used(made, "x"),
        ),
        "evaluation.backends.ServerBackend.answer": Row(remote.answer, answers),
        "evaluation.backends.ServerBackend.use": Row(lambda adapter: used(remote, adapter), {"adapter": "x"}, bool),
        "evaluation.backends.TransformersBackend": Row(
            TransformersBackend,
            {"model": base, "tokenizer": tokenizer, "adapters": {"x": make_adapter()}, "batch_size": 2},
            lambda made: used(made, "x" if "x" in made.adapters else None),
        ),
        "evaluation.backends.TransformersBackend.answer": Row(backend.answer, answers),
        "evaluation.backends.TransformersBackend.from_names": Row(
            TransformersBackend.from_names,
            {"model": str(world.base_dir), "adapters": [saved], "batch_size": 2, "device": "cpu", "dtype": "auto",
             "token": None},
            lambda made: used(made, None),
        ),
        "evaluation.backends.TransformersBackend.render": Row(
            backend.render, {"request": request}, lambda text: isinstance(text, str)
        ),
        "evaluation.backends.TransformersBackend.use": Row(
            lambda adapter: used(backend, adapter), {"adapter": "x"}, bool
        ),
        "evaluation.check.CheckTask": Row(CheckTask, {"name": "one", "descriptions": ["do"], "examples": [("a", "A")]}),
        "evaluation.report.EvalReport": Row(
            EvalReport, dict(vars(report)), lambda made: bool(made.to_json()) and bool(made.to_markdown())
        ),
        "evaluation.report.EvalReport.summary": Row(report.summary),
        "evaluation.report.EvalReport.to_json": Row(report.to_json),
        "evaluation.report.EvalReport.to_markdown": Row(
            report.to_markdown, {"adapter": "x"}, lambda text: text.startswith("| task |")
        ),
        "training.engine.EngineConfig": settings_of(EngineConfig),
        "training.fit.FitConfig": settings_of(FitConfig),
        "training.recon.ReconConfig": settings_of(ReconConfig),
        "training.average.AverageRecipe": settings_of(AverageRecipe, checkpoints=["nano", "nano"]),
        "training.runs.LoraRecipe": settings_of(LoraRecipe, **recipe),
        "training.runs.ReconRecipe": settings_of(ReconRecipe),
        "training.runs.SftRecipe": settings_of(SftRecipe, **recipe),
        "training.sft.SftConfig": settings_of(SftConfig),
        "training.tasks.Task": Row(
            Task,
            {"name": "one", "descriptions": ["do"], "examples": [example], "held_out_descriptions": ["make"],
             "held_out_examples": [example], "weight": 2},
            lambda made: not (made.descriptions and made.examples) or drawn(TaskSet([made])),
        ),
        "training.tasks.TaskExample": Row(
            TaskExample,
            {"prompt": "a", "response": "A", "definition": "do", "answer": "A"},
            lambda made: isinstance(made.with_definition()[1], str),
        ),
        "training.tasks.TaskExample.with_definition": Row(example.with_definition),
        "training.tasks.TaskExample.without_definition": Row(example.without_definition),
        "training.tasks.TaskSet": Row(TaskSet, {"tasks": [task], "definition_dropout": 0.5}, drawn),
        "training.tasks.TaskSet.draw": Row(tasks.draw, {"rng": random.Random(0), "examples": 2}),
    }  # fmt: skip


def test_every_documented_class_and_parameter_is_in_the_table(class_rows: dict[str, Row]) -> None:
    assert set(RESULTS) <= set(documented())
    assert {name: sorted(row.good) for name, row in class_rows.items()} == {
        name: sorted(each) for name, each in surface().items()
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(surface()))
def test_odd_arguments_give_a_right_object_or_an_error_of_ours(
    name: str, class_rows: dict[str, Row], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder)
    check_row(name, class_rows[name])


def test_settings_are_checked_when_they_are_set_too() -> None:
    from text2lora import TrainingError

    split = SplitConfig()
    for name, value in (("examples", True), ("held_out_descriptions", float("nan")), ("seed", 1.5)):
        with pytest.raises(TrainingError, match=f"{name} is {value}: expected"):
            setattr(split, name, value)
