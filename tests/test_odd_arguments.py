"""Every public function, given None, nothing, another type, another shape, NaN: a right result or an error of ours.

The table is checked against the public names: a new function or parameter without a row fails.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from test_adapter import make_adapter

import text2lora
from text2lora import LoraAdapter, LoraSpec, Text2LoraConfig, Text2LoraError, Text2LoraModel, TextEncoder
from text2lora.confidence import Calibration
from text2lora.functions import Answer
from text2lora.novelty import DescriptionStatistics, Novelty

ODD: dict[str, Any] = {
    "None": None,
    "no text": "",
    "blank": " \n",
    "a word": "quux",
    "a NUL": "a\0b",
    "a surrogate": "\ud800",
    "bytes": b"quux",
    "a path": Path("no/such/folder"),
    "zero": 0,
    "minus one": -1,
    "2.5": 2.5,
    "a huge number": 10**400,
    "NaN": math.nan,
    "infinity": math.inf,
    "True": True,
    "an empty list": [],
    "a list of None": [None],
    "a list of numbers": [1, math.nan],
    "a list of words": ["quux", "x"],
    "nested": [["a"], ["b"]],
    "an empty dict": {},
    "a dict": {"quux": 1},
    "a set": {"quux"},
    "an object": object(),
    "a class": dict,
    "a function": len,
    "a scalar": torch.tensor(math.nan),
    "a tensor of NaN": torch.full((1, 24), math.nan),
    "a tensor of another shape": torch.zeros(2, 3, 5, 7),
    "an empty tensor": torch.zeros(0, 24),
    "a tensor of integers": torch.zeros(1, 24, dtype=torch.int64),
    "a dtype": torch.int8,
}


@dataclass(frozen=True)
class World:
    """What the rows are made of; `fresh` gives a new path at each call."""

    folder: Path
    checkpoint: Path
    base_dir: Path
    encoder_dir: Path
    t2l: Text2LoraModel
    load_base: Callable[..., Any]
    adapter: LoraAdapter

    def fresh(self) -> Path:
        return self.folder / f"path-{len(list(self.folder.iterdir()))}-{torch.randint(1 << 60, ()).item()}"


@dataclass(frozen=True)
class Row:
    """A call that works, and what may be said of every result of it.

    Attributes:
        call: the function.
        good: arguments; a callable under a name of `made` is called for each call.
        right: whether a result is a right one.
        made: names of the arguments that are made anew for each call.
        more: names that only odd values are given under.
    """

    call: Callable[..., Any]
    good: Mapping[str, Any] = field(default_factory=dict)
    right: Callable[[Any], bool] = lambda result: True
    made: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def arguments(self) -> dict[str, Any]:
        return {name: value() if name in self.made else value for name, value in self.good.items()}


def finite(adapter: object) -> bool:
    return isinstance(adapter, LoraAdapter) and all(w.isfinite().all() for w in adapter.weights.values())


def all_finite(adapters: object) -> bool:
    return all(map(finite, adapters)) if isinstance(adapters, list) else finite(adapters)


def works(model: Any) -> bool:
    return bool(model(torch.arange(5, 14)[None]).logits.isfinite().all())


def makes(model: Any) -> bool:
    model = model[0] if isinstance(model, tuple) else model
    return isinstance(model, Text2LoraModel) and finite(model.generate_lora("the city"))


def is_text(result: object) -> bool:
    return all(isinstance(text, str | Answer) for text in (result if isinstance(result, list) else [result]))


def are_probabilities(result: Any) -> bool:
    found = result if isinstance(result, list) else [result]
    return all(math.isclose(sum(scores.values()), 1) for scores in found)


def is_novelty(result: object) -> bool:
    found = result if isinstance(result, list) else [result]
    return all(isinstance(one, Novelty) for one in found)


def rows(world: World) -> dict[str, Row]:
    """By `Class.method`, or `Class` for a constructor."""
    t2l, adapter, spec, config = world.t2l, world.adapter, world.adapter.spec, world.t2l.config
    other = make_adapter(2)
    emb = t2l.encoder.encode(["the city"])
    hub = {"private": True, "token": "hf_x", "revision": "b", "create_pr": False, "commit_message": "m", "force": False}
    from_hub = {"subfolder": None, "revision": None, "token": None, "cache_dir": None, "local_files_only": True}
    encoder_args = {
        "model": t2l.encoder.model, "tokenizer": t2l.encoder.tokenizer, "pooling": "mean", "normalize": True,
        "normalize_layers": False, "layers": [-1], "max_length": 64, "instruction": None, "full_stop": False,
        "name": None,
    }  # fmt: skip
    saved = world.fresh()
    make_adapter().save_pretrained(saved)

    def copied() -> Text2LoraModel:
        return Text2LoraModel.from_pretrained(world.checkpoint)

    def set_encoder(value: Any) -> Text2LoraModel:
        model = copied()
        model.encoder = value
        return model

    def set_calibration(value: Any) -> Any:
        model = copied()
        model.calibration = value
        return model.calibration

    def set_statistics(value: Any) -> Any:
        model = copied()
        model.description_statistics = value
        return model.novelty("the city")

    statistics = t2l.description_statistics
    answers = {"labels": ["yes", "no"], "max_new_tokens": 4, "stop": ["."]}
    function = t2l.function("the city", **answers)
    pairs = [("x", "y")]

    def tuned(examples: Any) -> dict[str, Any]:
        return {"examples": examples, "on_step": lambda step, steps: None}

    in_memory = text2lora.function(do="the city", model=world.checkpoint, local_files_only=True)

    def answers_of(function: Callable[..., Any], **arguments: Any) -> Any:
        assert in_memory  # so that what functions share is loaded once
        return function(**arguments)("two words")

    def awaited(**arguments: Any) -> str:
        return asyncio.run(function.acall(**arguments))

    return {
        "Function": Row(
            lambda **arguments: answers_of(text2lora.Function, **arguments),
            {"runner": function._runner, "adapter": t2l.generate_lora("the city")} | answers,
            is_text,
        ),
        "Function.acall": Row(awaited, {"text": "two words", "with_confidence": True}, is_text),
        "Function.check": Row(function.check, {"text": "two words"}, lambda found: found is None),
        "Function.many": Row(
            function.many, {"texts": ["two words"], "batch_size": 2, "with_confidence": True}, is_text
        ),
        "Function.scores": Row(function.scores, {"text": ["two words"], "batch_size": 2}, are_probabilities),
        "function": Row(
            lambda **arguments: answers_of(text2lora.function, **arguments),
            {"adapter": None, "do": "the city", "examples": None, "on_step": None, "model": world.checkpoint,
             "subfolder": None, "base": None, "device": "cpu"} | from_hub | answers,
            is_text,
        ),
        "Text2LoraModel.function": Row(
            lambda **arguments: answers_of(t2l.function, **arguments),
            {"description": "the city", "scale": 1.0} | tuned(pairs) | answers,
            is_text,
        ),
        "base_model_path": Row(text2lora.base_model_path, {"name": "nano"}, lambda path: Path(path).is_dir()),
        "library_version": Row(text2lora.library_version),
        "combine": Row(text2lora.combine, {"adapters": [adapter, other], "weights": [1, 2], "method": "cat"}, finite),
        "LoraSpec": Row(LoraSpec, dict(vars(spec)), lambda made: made.to_peft().r == made.r),
        "LoraSpec.base": Row(spec.base, {"other": "folder"}, lambda found: len(found) == 2),
        "LoraSpec.from_json": Row(
            LoraSpec.from_json,
            {"config": spec.to_json(), "source": "x", "target_modules": None},
            lambda made: made.r == 2
        ),
        "LoraSpec.module_names": Row(lambda: spec.module_names),
        "LoraSpec.scaling": Row(lambda: spec.scaling),
        "LoraSpec.to_json": Row(spec.to_json),
        "LoraSpec.to_peft": Row(spec.to_peft),
        "LoraAdapter": Row(
            LoraAdapter,
            {"weights": adapter.weights, "spec": spec, "metadata": {}},
            lambda made: bool(repr(made)) and made.save_pretrained(world.fresh()).is_dir(),
        ),
        "LoraAdapter.num_bytes": Row(lambda: adapter.num_bytes),
        "LoraAdapter.module_paths": Row(lambda: adapter.module_paths),
        "LoraAdapter.pairs": Row(lambda: list(adapter.pairs())),
        "LoraAdapter.to": Row(adapter.to, {"dtype": torch.bfloat16, "device": "cpu"}, finite),
        "LoraAdapter.scaled": Row(adapter.scaled, {"scale": 0.5}, finite),
        "LoraAdapter.folded": Row(adapter.folded),
        "LoraAdapter.shareable": Row(adapter.shareable),
        "LoraAdapter.save_pretrained": Row(
            adapter.save_pretrained,
            {"save_directory": world.fresh, "dtype": torch.bfloat16, "fold_rslora": True},
            lambda path: finite(LoraAdapter.from_pretrained(path)),
            ("save_directory",),
        ),
        "LoraAdapter.push_to_hub": Row(adapter.push_to_hub, {"repo_id": "me/x"} | hub, lambda _: False),
        "LoraAdapter.from_pretrained": Row(LoraAdapter.from_pretrained, {"directory": saved} | from_hub, finite),
        "LoraAdapter.apply_to": Row(
            adapter.apply_to, {"model": world.load_base, "adapter_name": "city"}, works, ("model",)
        ),
        "Text2LoraConfig": Row(Text2LoraConfig, config_values(config), lambda made: makes_finite_weights(made)),
        "Text2LoraConfig.validate_target_modules": Row(config.validate_target_modules),
        "Text2LoraConfig.validate_sizes": Row(config.validate_sizes),
        "Text2LoraConfig.validate_encoder": Row(config.validate_encoder),
        "Text2LoraConfig.encoder_parts": Row(lambda: config.encoder_parts),
        "Text2LoraConfig.lora_scaling": Row(lambda: config.lora_scaling),
        "Text2LoraConfig.from_base_config": Row(
            Text2LoraConfig.from_base_config,
            {"base_config": world.load_base().config, "target_modules": ["q_proj"], "lora_r": 2},
            makes_finite_weights,
            more=("quux",),
        ),
        "TextEncoder": Row(TextEncoder, encoder_args, lambda made: is_text_embedding(made.encode(["the city"]))),
        "TextEncoder.digest": Row(lambda: t2l.encoder.digest),
        "TextEncoder.size": Row(lambda: t2l.encoder.size),
        "TextEncoder.from_config": Row(
            TextEncoder.from_config,
            {"config": config, "encoder": str(world.encoder_dir), "dtype": "float32", "device_map": "cpu",
             "token": None, "cache_dir": None, "local_files_only": True},
            lambda made: is_text_embedding(made.encode(["the city"])),
        ),
        "TextEncoder.encode": Row(
            t2l.encoder.encode, {"descriptions": ["the city", "case"], "batch_size": 64}, is_text_embedding
        ),
        "Text2LoraModel": Row(Text2LoraModel, {"config": config}),
        "Text2LoraModel.initialize_weights": Row(lambda: copied().initialize_weights()),
        "Text2LoraModel.from_pretrained": Row(
            Text2LoraModel.from_pretrained,
            {"pretrained_model_name_or_path": world.checkpoint, "encoder": str(world.encoder_dir),
             "base_model_kwargs": {}, "dtype": "float32", "device_map": "cpu", "output_loading_info": False}
            | from_hub,
            makes,
            more=("quux",),
        ),
        "Text2LoraModel.save_pretrained": Row(
            t2l.save_pretrained,
            {"save_directory": world.fresh, "is_main_process": True, "eval_results": {"a/b": 1.0},
             "max_shard_size": "1GB"},
            lambda _: True,
            ("save_directory",),
        ),
        "Text2LoraModel.push_to_hub": Row(
            t2l.push_to_hub,
            {"repo_id": "me/x", "max_shard_size": "1GB", "eval_results": None} | hub,
            lambda _: False,
        ),
        "Text2LoraModel.encoder": Row(set_encoder, {"value": t2l.encoder}, makes),
        "Text2LoraModel.calibration": Row(set_calibration, {"value": Calibration(1.0, 0.0, 0.0, 0.0)}, lambda _: True),
        "Text2LoraModel.description_statistics": Row(
            set_statistics, {"value": statistics}, lambda found: found is None or is_novelty(found)
        ),
        "Text2LoraModel.origin": Row(lambda: t2l.origin),
        "Text2LoraModel.digest": Row(lambda: t2l.digest),
        "Text2LoraModel.encoder_name": Row(lambda: t2l.encoder_name),
        "Text2LoraModel.adapter_bytes": Row(lambda: t2l.adapter_bytes),
        "Text2LoraModel.tasks_per_pass": Row(lambda: t2l.tasks_per_pass),
        "Text2LoraModel.load_base_model": Row(
            t2l.load_base_model, {"name": str(world.base_dir), "dtype": "float32", "device_map": "cpu"}, works
        ),
        "Text2LoraModel.base_tokenizer": Row(lambda: t2l.base_tokenizer),
        "Text2LoraModel.forward": Row(
            t2l, {"task_emb": emb}, lambda made: isinstance(made, dict)
        ),
        "Text2LoraModel.generate_lora": Row(
            t2l.generate_lora,
            {"description": ["the city"], "task_emb": emb, "scale": 1.0, "base_model": None} | tuned([pairs]),
            all_finite,
        ),
        "Text2LoraModel.generate_stacked": Row(
            lambda descriptions: list(t2l.generate_stacked(descriptions)),
            {"descriptions": ["the city"]},
            lambda made: all(isinstance(part, dict) for part in made),
        ),
        "Text2LoraModel.provenance": Row(t2l.provenance, {"scale": 1.0}, lambda made: "scale" in made),
        "Text2LoraModel.interpolate": Row(
            t2l.interpolate,
            {"descriptions": ["the city", "case"], "weights": [1, 2], "scale": 1.0, "task_emb": torch.cat([emb, emb])},
            finite,
        ),
        "Text2LoraModel.novelty": Row(t2l.novelty, {"description": ["the city"], "task_emb": emb}, is_novelty),
        "Text2LoraModel.generate_adapter": Row(
            t2l.generate_adapter,
            {"description": "the city", "base_model": world.load_base, "adapter_name": "city", "scale": 1.0}
            | tuned(None),
            works,
            ("base_model",),
        ),
    }  # fmt: skip


def is_text_embedding(result: object) -> bool:
    return isinstance(result, torch.Tensor) and bool(result.isfinite().all())


def makes_finite_weights(config: Text2LoraConfig) -> bool:
    with torch.device("cpu"):
        model = Text2LoraModel(config)
    tokens = (5,) if config.task_encoder == "tokens" else ()
    return all_finite(model.generate_lora(task_emb=torch.randn(1, *tokens, config.task_emb_size)))


def config_values(config: Text2LoraConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in Text2LoraConfig.__annotations__ if name != "model_type"}


def is_ours(member: object) -> bool:
    return getattr(member, "__module__", "").startswith("text2lora.")


def surface() -> dict[str, list[str]]:
    """The parameters of every public function and method, by name."""
    found: dict[str, list[str]] = {}
    for name in text2lora.__all__:
        value = getattr(text2lora, name)
        if isinstance(value, type) and issubclass(value, Text2LoraError | Warning):
            continue
        found |= surface_of_class(name, value) if isinstance(value, type) else {name: parameters(value)}
    return found


def surface_of_class(name: str, cls: type) -> dict[str, list[str]]:
    """The parameters of a class and of its public methods, by name."""
    inherited = {field for each in cls.__mro__ if not is_ours(each) for field in vars(each).get("__annotations__", {})}
    found = {name: [parameter for parameter in parameters(cls) if parameter not in inherited]}
    for owner in filter(is_ours, cls.__mro__):
        for attribute, member in vars(owner).items():
            if attribute.startswith("_"):
                continue
            if isinstance(member, property):
                found.setdefault(f"{name}.{attribute}", ["value"] if member.fset else [])
            elif is_ours(member) and not isinstance(member, type):
                found.setdefault(f"{name}.{attribute}", parameters(getattr(cls, attribute)))
    return found


def parameters(function: Callable[..., Any]) -> list[str]:
    kinds = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    named = [parameter for parameter in inspect.signature(function).parameters.values() if parameter.kind not in kinds]
    return [parameter.name for parameter in named if parameter.name != "self"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, checkpoint_dir: Path, base_dir: Path, encoder_dir: Path) -> World:
    from transformers import AutoModelForCausalLM

    from text2lora.novelty import measure_descriptions

    folder = tmp_path_factory.mktemp("odd")
    checkpoint = folder / "checkpoint"
    shutil.copytree(checkpoint_dir, checkpoint)
    encoder = Text2LoraModel.from_pretrained(checkpoint).encoder
    statistics = measure_descriptions(encoder, ["the city", "upper case", "a city"], ["city", "case", "city"])
    assert isinstance(statistics, DescriptionStatistics)
    statistics.save(checkpoint)

    base = AutoModelForCausalLM.from_pretrained(base_dir).eval()

    def load_base() -> Any:
        return copy.deepcopy(base)

    t2l = Text2LoraModel.from_pretrained(checkpoint)
    return World(folder, checkpoint, base_dir, encoder_dir, t2l, load_base, make_adapter())


@pytest.fixture(scope="module")
def table(world: World) -> dict[str, Row]:
    return rows(world)


def test_every_public_function_and_parameter_is_in_the_table(table: dict[str, Row]) -> None:
    assert set(table) == set(surface())
    assert {name: sorted(set(names) - set(table[name].good)) for name, names in surface().items()} == {
        name: [] for name in table
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(surface()))
def test_odd_arguments_give_a_right_result_or_an_error_of_ours(
    name: str, table: dict[str, Row], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder)  # for paths such as `quux`
    check_row(name, table[name])


def check_row(name: str, row: Row) -> None:
    """Call a function with each odd value in each place."""
    wrong = []
    for parameter, odd in [("", ""), *((parameter, odd) for parameter in (*row.good, *row.more) for odd in ODD)]:
        if parameter in ("report", "on_text") and callable(ODD[odd]):
            continue  # what it raises is its own
        arguments = row.arguments() | ({parameter: ODD[odd]} if parameter else {})
        if parameter == "on_step" and callable(ODD[odd]):
            continue  # an error of the caller's own function is the caller's
        try:
            result = row.call(**arguments)
            if not row.right(result):
                wrong.append(f"{parameter} is {odd}: {result!r:.100}")
        except Text2LoraError as error:
            if "\n" in str(error) or not str(error):
                wrong.append(f"{parameter} is {odd}: more than a line: {error!r:.300}")
            if not parameter and "push" not in name:
                wrong.append(f"good arguments are refused: {error!r:.300}")
        except Exception as error:
            wrong.append(f"{parameter} is {odd}: {type(error).__name__}: {str(error).strip()[:150]}")
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong)
