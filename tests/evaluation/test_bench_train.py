"""The two ways of per-sample LoRA that the benchmark compares are the same function."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from text2lora.cli import app
from text2lora.evaluation.bench_train import StepShape, make_batch, make_step

TINY = StepShape(batch=3, tokens=5, hidden=64, layers=2, r=4)


def test_both_ways_give_the_same_loss_and_another_than_the_base() -> None:
    step = make_step(TINY)
    torch.testing.assert_close(step("ours"), step("per token"), rtol=1e-5, atol=1e-6)
    assert step("base") != step("ours")


def test_the_data_has_the_shape_of_the_step() -> None:
    assert make_batch(TINY)().ids.shape == (3, 5)


@pytest.mark.slow
def test_the_command_reports_costs(forked) -> None:
    command = ["bench", "train", "--batch", "2", "--tokens", "9", "--hidden", "64", "--layers", "1", "--repeat", "1"]
    done = CliRunner().invoke(app, [*command, "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    costs = json.loads(done.stdout)["costs"]
    assert {"base", "ours", "per_token", "data", "overhead", "speedup", "flops"} < costs.keys()
    refused = CliRunner().invoke(app, ["bench", "train", "--hidden", "100"])
    assert refused.exit_code == 2
