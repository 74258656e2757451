"""The scripts of examples/benchmarks run and measure what they say; their figures are not tested here."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import generation
import memory
import pytest
import recon
import serving
import torch
from generation import SHAPES, relative_error, shape_config, time_generation, time_replacement
from measuring import medians, rounds, show
from separation import roc_auc
from start import time_start
from step import StepShape, make_batch, make_step

from text2lora import LoraAdapter, LoraSpec, Text2LoraModel

SCRIPTS = Path(__file__).parents[1] / "examples" / "benchmarks"
TINY = StepShape(batch=3, tokens=5, hidden=64, layers=2, r=4)


@pytest.mark.parametrize("task_encoder", ["pooled", "tokens"])
def test_times_both_dtypes(make_config, task_encoder: str) -> None:
    pooling = "none" if task_encoder == "tokens" else "mean"
    config = make_config(task_encoder=task_encoder, encoder_pooling=pooling, head="small", offset=False)
    exact, half = time_generation(config, batch=3, repeat=2)
    assert (exact.dtype, half.dtype) == ("float32", "bfloat16")
    assert exact.error == 0
    assert 0 < half.error < 0.1
    assert min(exact.products, exact.one, exact.batched, half.products, half.one, half.batched) > 0


def test_a_slow_machine_takes_fewer_turns_and_is_still_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("measuring.time.perf_counter", lambda: now[0])

    def take(seconds: float) -> Callable[[], None]:
        return lambda: now.__setitem__(0, now[0] + seconds)

    assert rounds([take(1), take(3)], repeat=100, limit=10) == [[1, 3], [1, 3]]
    assert now == [12]
    assert rounds([take(20)], repeat=100, limit=10) == [[20]]
    assert now == [32]
    assert rounds([take(1)], repeat=2) == [[1], [1]]
    assert now == [35]
    assert medians([[1, 5], [3, 5], [2, 6]]) == [2, 5]


def test_the_shapes_are_measured_within_a_budget(make_config, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that takes a second for each adapter, and twenty for the products."""
    now, inner = [0.0], Text2LoraModel.generate_lora

    def generate(self: Text2LoraModel, *, task_emb: torch.Tensor) -> list[LoraAdapter]:
        now[0] += len(task_emb)
        return inner(self, task_emb=task_emb)

    monkeypatch.setattr("measuring.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(Text2LoraModel, "generate_lora", generate)
    monkeypatch.setattr("generation._products", lambda model: lambda: now.__setitem__(0, now[0] + 20))
    rows = list(time_generation(make_config(head="small", offset=False), batch=64, repeat=20))
    assert [(row.products, row.one, row.batched, row.batch, row.repeats) for row in rows] == [(20, 1, 1, 8, (1, 1))] * 2
    assert now[0] < 120


def test_a_table_is_printed_row_by_row(capsys) -> None:
    printed = []

    def rows() -> Iterator[list[str]]:
        for row in (["a", "b"], ["1", "2"], ["3", "4"]):
            yield row
            printed.append(capsys.readouterr().out)

    show(rows())
    assert printed == ["| a | b |\n| --- | --- |\n", "| 1 | 2 |\n", "| 3 | 4 |\n"]


def test_times_replacement() -> None:
    assert time_replacement(layers=1, hidden=64, repeat=2) > 0


def test_shapes_are_those_of_the_models() -> None:
    assert shape_config("nano").base_model_name_or_path == "nano"
    for name in SHAPES:
        config = shape_config(name)
        assert (config.lora_r, config.head, config.offset) == (8, "large", False)


def test_error_is_relative_to_the_exact_weights() -> None:
    spec = LoraSpec(r=1, lora_alpha=1.0, target_modules=("q_proj",))
    exact = LoraAdapter({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, spec)
    assert relative_error(LoraAdapter({"a": torch.tensor([3.0]), "b": torch.tensor([4.5])}, spec), exact) == 0.1


def test_times_a_whole_make_beside_the_imports(forked) -> None:
    assert min(time_start(repeat=1)) >= 0  # a fork of the test's process takes hardly any time


def test_memory_counts_the_weights_and_the_whole_process(monkeypatch: pytest.MonkeyPatch, forked) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setattr(memory, "GTE_LARGE", memory.GTE_LARGE | small | {"max_position_embeddings": 64})
    sizes = {"task_emb_size": 32, "latent_size": 16, "head_input_size": 16}
    monkeypatch.setattr(generation, "UPSTREAM", generation.UPSTREAM | sizes)
    use = memory.measure_memory("gemma-2b", torch.bfloat16)
    assert 4 * 30528 * 32 < use.weights < 2 * 4 * 30528 * 32
    assert use.imports < use.peak
    assert use.base == 2 * 2_614_341_888


def test_both_ways_of_a_step_give_the_same_loss_and_another_than_the_base() -> None:
    step = make_step(TINY)
    torch.testing.assert_close(step("ours"), step("per token"), rtol=1e-5, atol=1e-6)
    assert step("base") != step("ours")


def test_the_data_has_the_shape_of_the_step() -> None:
    assert make_batch(TINY)().ids.shape == (3, 5)


def test_both_ways_of_reconstruction_give_the_same_error() -> None:
    calls = recon.make_recon(2, 2, 16, 4)
    torch.testing.assert_close(calls["ours"](), calls["naive"](), rtol=1e-4, atol=1e-4)


class _Upper:
    """A client whose server answers in capitals."""

    def __init__(self) -> None:
        self.unloaded: list[str] = []

    def ask(self, model: str, record: str) -> serving.Ask:
        return serving.Ask(model, record, record.upper(), 0.5)

    def unload(self, name: str) -> None:
        self.unloaded.append(name)


def test_a_load_on_a_server_counts_the_wrong_answers() -> None:
    client, names = _Upper(), [f"t2l:{i}" for i in range(5)]
    visits, _ = serving.run_load(client, names, clients=3, unload=True)
    assert [[ask.model for ask in visit] for visit in visits] == [[name] * len(serving.RECORDS) for name in names]
    assert sorted(client.unloaded) == names
    right = lambda model, records: [record.upper() if model != "t2l:2" else "?" for record in records]  # noqa: E731
    assert [ask.model for ask in serving.wrong_answers(visits, right)] == ["t2l:2"] * len(serving.RECORDS)
    assert serving.percentiles([float(n) for n in range(101)]) == ["50.00 s", "95.00 s", "99.00 s"]


def test_a_load_has_different_descriptions() -> None:
    assert len(set(serving.descriptions(1024))) == 1024
    with pytest.raises(ValueError, match="expected at most"):
        serving.descriptions(10_000)


def test_area_under_the_curve_on_known_numbers() -> None:
    assert roc_auc(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])) == 1
    assert roc_auc(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 2.0])) == pytest.approx((1 + 0 + 1 + 0.5) / 4)


def test_each_type_of_an_exported_adapter_is_compared() -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    from quantised import compare

    head, *rows = compare("nano", descriptions=1, inputs=1)
    assert [row[0] for row in rows] == ["`f32`", "`f16`", "`bf16`", "`q8_0`", "`q4_0`"]
    assert {row[2] for row in rows} == {"1 of 1 (100%)"}
    assert head[0] == "Type"


@pytest.mark.parametrize(
    ("script", "options", "head", "rows"),
    [
        ("generation", "--shape nano --batch 2 --repeat 1", "| Threads | Dtype | Products | One adapter |", 2),
        ("step", "--batch 2 --tokens 9 --hidden 64 --layers 1 --repeat 1", "| Step | Time | LoRA part |", 3),
        ("engine", "--model nano --ways plain int8 --rows 2 --repeat 1", "| Base | Forward and backward |", 2),
        ("many", "--count 3 --per-shard 2 --actors 0", "| Processes | Adapters per second |", 1),
        ("recon", "--hidden 16 --layers 1 --repeat 1", "| Method | Time | Memory |", 2),
        pytest.param("separation", "", "| unseen descriptions | real | junk |", 3, marks=pytest.mark.slow),
    ],
)
def test_a_script_prints_the_table_of_the_page(
    script: str, options: str, head: str, rows: int, monkeypatch: pytest.MonkeyPatch, capsys, forked
) -> None:
    monkeypatch.setattr(sys, "argv", [script, *options.split()])
    runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[0].startswith(head)
    assert len(table) == 2 + rows
    assert len({line.count("|") for line in table}) == 1
    pages = [SCRIPTS.parents[1] / "docs" / name for name in ("benchmarks.md", "how-to/descriptions.md")]
    shown = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert f"examples/benchmarks/{script}.py" in shown
    assert head.split(" |")[0] in shown
