"""The benchmark runs and measures what it says; its figures are not tested here."""

from __future__ import annotations

import pytest
import torch

from text2lora import LoraAdapter, LoraSpec
from text2lora.evaluation import bench, memory
from text2lora.evaluation.bench import (
    SHAPES,
    relative_error,
    shape_config,
    time_generation,
    time_replacement,
    time_start,
)


@pytest.mark.parametrize("task_encoder", ["pooled", "tokens"])
def test_times_both_dtypes(make_config, task_encoder: str) -> None:
    pooling = "none" if task_encoder == "tokens" else "mean"
    config = make_config(task_encoder=task_encoder, encoder_pooling=pooling, head="small", offset=False)
    exact, half = time_generation(config, batch=3, repeat=2)
    assert (exact.dtype, half.dtype) == ("float32", "bfloat16")
    assert exact.error == 0
    assert 0 < half.error < 0.1
    assert min(exact.products, exact.one, exact.batched, half.products, half.one, half.batched) > 0


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
    made, imported = time_start(repeat=1)
    assert made > 0
    assert imported > 0


def test_memory_counts_the_weights_and_the_whole_process(monkeypatch: pytest.MonkeyPatch, forked) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setattr(memory, "GTE_LARGE", memory.GTE_LARGE | small | {"max_position_embeddings": 64})
    sizes = {"task_emb_size": 32, "latent_size": 16, "head_input_size": 16}
    monkeypatch.setattr(bench, "UPSTREAM", bench.UPSTREAM | sizes)
    use = memory.measure_memory("gemma-2b", torch.bfloat16)
    assert 4 * 30528 * 32 < use.weights < 2 * 4 * 30528 * 32
    assert use.imports < use.peak
    assert use.base == 2 * 2_614_341_888
