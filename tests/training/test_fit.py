"""The training loop, its schedule and its optimisers."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from text2lora import TrainingError
from text2lora.errors import TrainingInterrupted
from text2lora.training import fit as fit_module
from text2lora.training.fit import FitConfig, fit, summed
from text2lora.training.journal import span
from text2lora.training.optim import Muon, build_optimizers, orthogonalise, schedule, set_learning_rate


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
    figures = fit(
        net, summed(lambda step: [net()]), config, tmp_path / "run", lambda: {"value": net().item()}, lines.append
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "loss" in row]
    assert [row["step"] for row in logged] == [10, 20, 30, 40]
    assert [row["step"] for row in rows if "value" in row] == [20, 40]
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert figures == {"value": rows[-1]["value"]}
    assert any("step 40/40" in line for line in lines)
    assert not net.frozen.any()


def test_the_first_step_says_how_long_it_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, clock, lines = Net(), [0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def losses(step: int) -> list[torch.Tensor]:
        clock[0] += 40
        return [net()]

    fit(net, summed(losses), FitConfig(steps=31), tmp_path / "a", report=lines.append)
    assert lines[0] == "step 1/31 took 40 s: about 20 min to go, without validation"
    assert not any(line.startswith(("step 1/", "step 2/")) for line in lines[1:])
    del lines[:]
    fit(net, summed(losses), FitConfig(steps=31, minutes=2), tmp_path / "b", report=lines.append)
    assert lines[0] == "step 1/31 took 40 s: about 80 s to go, without validation"


def test_times_are_for_people() -> None:
    assert [span(t) for t in (-1, 0.123, 9.96, 89, 90, 3600, 5400, 90_000)] == [
        "0.0 s", "0.1 s", "10.0 s", "89 s", "2 min", "60 min", "1.5 h", "25.0 h"
    ]  # fmt: skip


def test_gradients_of_micro_batches_add_up(tmp_path: Path) -> None:
    nets = []
    for parts in (1, 4):
        torch.manual_seed(0)
        net = Net()
        config = FitConfig(steps=3, lr=0, adamw_lr=0.01, clip=1e9)
        fit(
            net,
            summed(lambda step, net=net, parts=parts: (net() / parts for _ in range(parts))),
            config,
            tmp_path / str(parts),
        )
        nets.append(net)
    for one, four in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(one, four, rtol=1e-4, atol=1e-5)


def test_validation_is_in_eval_mode_without_gradients(tmp_path: Path) -> None:
    net, seen = Net(), []

    def validate() -> dict[str, float]:
        seen.append((net.training, torch.is_grad_enabled()))
        return {}

    fit(net, summed(lambda step: [net()]), FitConfig(steps=2), tmp_path, validate, lambda line: None)
    assert seen == [(False, False)]


def test_noise_depends_on_the_seed_and_on_the_step(tmp_path: Path) -> None:
    drawn: dict[int, list[float]] = {}
    for seed in (0, 1, 2**40, -1):
        net = Net()

        def losses(step: int, seed: int = seed, net: Net = net) -> list[torch.Tensor]:
            drawn.setdefault(seed, []).append(torch.rand(()).item())
            return [net()]

        fit(net, summed(losses), FitConfig(steps=2, seed=seed), tmp_path / str(seed), report=lambda line: None)
    assert len({value for values in drawn.values() for value in values}) == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, value: float) -> None:
    net = Net()
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step 0: lower `lr` \(0.006\)"):
        fit(net, summed(lambda step: [net() * value]), FitConfig(steps=2), tmp_path)


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_spoils_the_weights(tmp_path: Path) -> None:
    net = Net()

    def losses(step: int) -> list[torch.Tensor]:
        loss = net()
        if step == 2:
            loss = loss + (0 * net.linear.bias).sum().sqrt()  # 0, with a slope of infinity
        return [loss]

    with pytest.raises(TrainingError, match=r"the gradient's norm is (nan|inf) at step 2: .*last good state is"):
        fit(net, summed(losses), FitConfig(steps=4, save_every=1), tmp_path, report=lambda line: None)
    assert all(p.isfinite().all() for p in net.parameters())


def test_a_run_of_given_minutes_ends_with_them_and_with_its_learning_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, clock, shares = Net(), [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(
        fit_module,
        "set_learning_rate",
        lambda optimizers, share: shares.append(share) or set_learning_rate(optimizers, share),
    )

    def losses(step: int) -> list[torch.Tensor]:
        clock[0] += 6
        return [net()]

    config = FitConfig(steps=1000, minutes=1.0, warmup=0.1, eval_every=1000)
    figures = fit(net, summed(losses), config, tmp_path, lambda: {"value": 1.0}, lambda line: None)
    assert len(shares) == 11  # six seconds each: the last one begins when the minute is over
    assert shares[2:] == sorted(shares[2:], reverse=True)
    assert shares[-1] < 0.12
    assert figures == {"value": 1.0}


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
    assert isinstance(muon, Muon)
    assert [p is net.linear.weight for p in muon.param_groups[0]["params"]] == [True]
    rest = {id(p) for p in adamw.param_groups[0]["params"]}
    assert rest == {id(net.embedding.weight), id(net.linear.bias), id(net.norm.weight), id(net.norm.bias)}
    assert (muon.param_groups[0]["weight_decay"], adamw.param_groups[0]["weight_decay"]) == (0.3, 0.0)


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (5, 5)])
def test_muon_is_pytorchs_where_bfloat16_is_native(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    monkeypatch.setattr("text2lora.training.optim.is_slow", lambda dtype, device: False)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    optimizers = [
        Muon([ours], lr=0.02, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(shape)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(ours, theirs)
    optimizers[0].load_state_dict(optimizers[1].state_dict())  # states of earlier versions are read
    assert set(optimizers[0].state[ours]) == {"momentum_buffer"}


def test_muon_computes_in_float32_where_bfloat16_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.randn(24, 40)
    for slow, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        monkeypatch.setattr("text2lora.training.optim.is_slow", lambda dtype, device, slow=slow: slow)
        update = orthogonalise(matrix)
        assert update.dtype == dtype
        assert torch.linalg.svdvals(update.float()).min() > 0.5
        assert torch.linalg.svdvals(update.float()).max() < 1.5


def test_learning_rate_zero_leaves_everything_to_adamw() -> None:
    (only,) = build_optimizers(Net(), lr=0, adamw_lr=0.2)
    assert isinstance(only, torch.optim.AdamW)
    assert len(only.param_groups[0]["params"]) == 5


def test_learning_rates_are_shares_of_the_first_one() -> None:
    optimizers = build_optimizers(Net(), lr=0.1, adamw_lr=0.2)
    for share in (0.5, 0.1, 1.0):
        set_learning_rate(optimizers, share)
        assert [o.param_groups[0]["lr"] for o in optimizers] == pytest.approx([0.1 * share, 0.2 * share])


# -- runs that are broken off -----------------------------------------------------------------------------------------

NOISY = """
import sys, torch
from pathlib import Path
from torch import nn
from text2lora.training.fit import FitConfig, fit, step_rng, summed

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.linear = nn.Embedding(5, 4), nn.Linear(4, 4)

def run(folder, resume=False, after_step=lambda step: None, steps=12, eval_every=0, **more):
    net = Net()
    def losses(step):
        rng = step_rng(3, step)
        rows = torch.tensor([rng.randrange(5) for _ in range(3)])
        yield (net.linear(net.embedding(rows) + 0.1 * torch.randn(3, 4)) - 1).square().mean()
        after_step(step)
    config = FitConfig(steps=steps, lr=0.02, adamw_lr=0.02, log_every=1, save_every=2, seed=3, eval_every=eval_every)
    net.figures = fit(net, summed(losses), config, Path(folder), report=lambda line: None, resume=resume, **more)
    return net
"""


def noisy() -> dict:
    names: dict = {}
    exec(NOISY, names)
    return names


def losses_of(folder: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


@pytest.mark.parametrize("killed_at", [1, 2, 5, 11])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, killed_at: int) -> None:
    run = noisy()["run"]
    whole = run(tmp_path / "whole")
    pid = os.fork()
    if pid == 0:
        run(tmp_path / "killed", after_step=lambda step: step == killed_at and os.kill(os.getpid(), signal.SIGKILL))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    resumed = run(tmp_path / "killed", resume=True)
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM]])
def test_ctrl_c_and_sigterm_save_and_say_how_to_go_on(tmp_path: Path, signals: list[signal.Signals]) -> None:
    """A scheduler sends SIGTERM to all processes, so that one gets another from its launcher."""
    usual = signal.getsignal(signal.SIGTERM)
    run = noisy()["run"]
    whole = run(tmp_path / "whole")
    with pytest.raises(TrainingInterrupted, match=r"stopped at step 4 of 12 and saved: continue .*--resume"):
        run(tmp_path / "stopped", after_step=lambda step: step == 3 and [*map(signal.raise_signal, signals)])
    assert (tmp_path / "stopped/state/step-00000004.pt").is_file()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is usual
    resumed = run(tmp_path / "stopped", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def stop_at_six(step: int) -> None:
    if step == 6:
        raise RuntimeError("power cut")


def test_an_unfinished_run_is_not_thrown_away(tmp_path: Path) -> None:
    run = noisy()["run"]
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, after_step=stop_at_six)
    with pytest.raises(TrainingError, match=r"unfinished run \(step-00000006\.pt\): continue it with --resume"):
        run(tmp_path)
    with pytest.raises(TrainingError, match=r"made with other settings: steps 12 \(now 13\)"):
        run(tmp_path, resume=True, steps=13)
    state = tmp_path / "state" / "step-00000006.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(TrainingError, match=r"step-00000006\.pt cannot be resumed"):
        run(tmp_path, resume=True)


def test_a_line_that_was_cut_off_is_no_hindrance(tmp_path: Path) -> None:
    run = noisy()["run"]
    whole = run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", after_step=stop_at_six)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 7, "lo')
    resumed = run(tmp_path / "cut", resume=True)
    assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, save, calls = noisy()["run"], torch.save, []

    def full(content: object, path: Path) -> None:
        calls.append(path)
        if len(calls) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(content, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"step-00000006\.pt cannot be written \(No space left on device\)"):
        run(tmp_path)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000004.pt"]


def test_the_best_weights_are_kept_where_asked(tmp_path: Path) -> None:
    net, scores = Net(), iter([0.1, 0.9, 0.5, 0.7])
    kept: list[torch.Tensor] = []

    def validate() -> dict[str, float]:
        kept.append(net.linear.weight.detach().clone())
        return {"unseen": next(scores)}

    config = FitConfig(steps=8, lr=0.02, adamw_lr=0.02, eval_every=2)
    figures = fit(net, summed(lambda step: [net()]), config, tmp_path, validate, lambda line: None, best="unseen")
    assert figures == {"unseen": 0.9}
    assert torch.equal(net.linear.weight, kept[1])
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_the_best_figures_survive_a_resumption(tmp_path: Path) -> None:
    run, scores = noisy()["run"], {2: 0.1, 4: 0.9, 6: 0.5, 8: 0.7, 10: 0.2, 12: 0.3}
    done: list[int] = []

    def validate() -> dict[str, float]:
        done.append(max(step for step, _ in losses_of(tmp_path)))
        return {"unseen": scores[done[-1]]}

    more = {"best": "unseen", "validate": validate}
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, after_step=stop_at_six, eval_every=2, **more)
    figures = run(tmp_path, resume=True, eval_every=2, **more).figures
    assert done == [2, 4, 6, 8, 10, 12]
    assert figures == {"unseen": 0.9}
