"""The training loop, its schedule and its optimisers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from text2lora import TrainingError
from text2lora.training.fit import FitConfig, fit
from text2lora.training.optim import build_optimizers, schedule, set_learning_rate


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear, self.norm = nn.Embedding(3, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)

    def forward(self) -> torch.Tensor:
        return (self.norm(self.linear(self.embedding.weight)) - 1).square().mean()


def test_fit_lowers_the_loss_and_writes_it_down(tmp_path: Path) -> None:
    net, lines = Net(), []
    config = FitConfig(steps=40, lr=0.02, adamw_lr=0.02, log_every=10, eval_every=20)
    figures = fit(net, lambda step: [net()], config, tmp_path / "run", lambda: {"value": net().item()}, lines.append)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "loss" in row]
    assert [row["step"] for row in logged] == [10, 20, 30, 40]
    assert [row["step"] for row in rows if "value" in row] == [20, 40]
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert figures == {"value": rows[-1]["value"]}
    assert any("step 40/40" in line for line in lines)
    assert not net.frozen.any()


def test_gradients_of_micro_batches_add_up(tmp_path: Path) -> None:
    nets = []
    for parts in (1, 4):
        torch.manual_seed(0)
        net = Net()
        config = FitConfig(steps=3, lr=0, adamw_lr=0.01, clip=1e9)
        fit(
            net, lambda step, net=net, parts=parts: (net() / parts for _ in range(parts)), config, tmp_path / str(parts)
        )
        nets.append(net)
    for one, four in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(one, four, rtol=1e-4, atol=1e-5)


def test_validation_is_in_eval_mode_without_gradients(tmp_path: Path) -> None:
    net, seen = Net(), []

    def validate() -> dict[str, float]:
        seen.append((net.training, torch.is_grad_enabled()))
        return {}

    fit(net, lambda step: [net()], FitConfig(steps=2), tmp_path, validate, lambda line: None)
    assert seen == [(False, False)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, value: float) -> None:
    net = Net()
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step 0: lower `lr` \(0.006\)"):
        fit(net, lambda step: [net() * value], FitConfig(steps=2), tmp_path)


def test_schedule_rises_then_falls_to_nearly_zero() -> None:
    shares = [schedule(step, 100, 0.1) for step in range(100)]
    assert shares[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert shares[10:] == pytest.approx([(100 - step) / 90 for step in range(10, 100)])
    assert max(shares) == 1.0
    assert min(shares) > 0


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 1.0), (2, 0.5), (10, 0.0), (10, 1.0)])
def test_schedule_of_short_runs_stays_in_range(steps: int, warmup: float) -> None:
    assert all(0 < schedule(step, steps, warmup) <= 1 for step in range(steps))


def test_matrices_go_to_muon_and_the_rest_to_adamw() -> None:
    net = Net()
    muon, adamw = build_optimizers(net, lr=0.1, adamw_lr=0.2, weight_decay=0.3)
    assert isinstance(muon, torch.optim.Muon)
    assert [p is net.linear.weight for p in muon.param_groups[0]["params"]] == [True]
    rest = {id(p) for p in adamw.param_groups[0]["params"]}
    assert rest == {id(net.embedding.weight), id(net.linear.bias), id(net.norm.weight), id(net.norm.bias)}
    assert (muon.param_groups[0]["weight_decay"], adamw.param_groups[0]["weight_decay"]) == (0.3, 0.0)


def test_learning_rate_zero_leaves_everything_to_adamw() -> None:
    (only,) = build_optimizers(Net(), lr=0, adamw_lr=0.2)
    assert isinstance(only, torch.optim.AdamW)
    assert len(only.param_groups[0]["params"]) == 5


def test_learning_rates_are_shares_of_the_first_one() -> None:
    optimizers = build_optimizers(Net(), lr=0.1, adamw_lr=0.2)
    for share in (0.5, 0.1, 1.0):
        set_learning_rate(optimizers, share)
        assert [o.param_groups[0]["lr"] for o in optimizers] == pytest.approx([0.1 * share, 0.2 * share])
