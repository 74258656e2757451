"""The benchmark runs and measures what it says; its figures are not tested here."""

from __future__ import annotations

import pytest
import torch

from text2lora import LoraAdapter, LoraSpec
from text2lora.evaluation.bench import SHAPES, relative_error, shape_config, time_generation, time_replacement


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
    assert 0 < time_replacement(layers=1, hidden=64, repeat=2) < 1


def test_shapes_are_those_of_the_models() -> None:
    assert shape_config("nano").base_model_name_or_path == "nano"
    for name in SHAPES:
        config = shape_config(name)
        assert (config.lora_r, config.head, config.offset) == (8, "large", False)


def test_error_is_relative_to_the_exact_weights() -> None:
    spec = LoraSpec(r=1, lora_alpha=1.0, target_modules=("q_proj",))
    exact = LoraAdapter({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, spec)
    assert relative_error(LoraAdapter({"a": torch.tensor([3.0]), "b": torch.tensor([4.5])}, spec), exact) == 0.1
