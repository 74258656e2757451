"""The training loop that all objectives share."""

from __future__ import annotations

import json
import math
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from text2lora.errors import TrainingError, TrainingInterrupted
from text2lora.training.journal import Journal
from text2lora.training.optim import build_optimizers, schedule, set_learning_rate
from text2lora.training.recipe import at_least, settings, share
from text2lora.training.state import (
    FOLDER,
    RunState,
    find_state,
    load_best,
    load_state,
    remove_states,
    save_best,
    save_state,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

METRICS = "metrics.jsonl"
FREE = ("log_every", "save_every", "keep")
"""Settings that may change when a run is resumed: its steps stay the same."""


@settings
class FitConfig:
    """How to optimise, whatever the objective.

    Attributes:
        steps: The number of optimiser steps.
        minutes: The time limit, including validation; 0 for none. With a limit, the learning rate decays with the time
            used, so that a run that ends early still ends at a low rate. Such a run is not reproducible.
        lr: The peak learning rate of Muon, for matrices; 0 trains all parameters with AdamW.
        adamw_lr: The peak learning rate of AdamW, for all other parameters.
        warmup: The share of the steps in which the learning rate rises; afterwards it decays linearly to zero.
        weight_decay: The weight decay of the matrices.
        clip: The maximum gradient norm; 0 for no limit.
        seed: The seed for initial weights and data.
        log_every: The number of steps between lines of `metrics.jsonl`.
        eval_every: The number of steps between validations; 0 validates only at the end.
        save_every: The number of steps between saved states, from which an interrupted run can resume; 0 saves
            whenever it validates.
        keep: The number of saved states to keep.
    """

    steps: int = at_least(1, default=1000)
    minutes: float = at_least(0, default=0.0)
    lr: float = at_least(0, default=0.006)
    adamw_lr: float = at_least(0, default=0.003)
    warmup: float = share(default=0.03)
    weight_decay: float = at_least(0, default=0.0)
    clip: float = at_least(0, default=1.0)
    seed: int = 0
    log_every: int = at_least(1, default=20)
    eval_every: int = at_least(0, default=0)
    save_every: int = at_least(0, default=0)
    keep: int = at_least(1, default=1)


class StepResult(NamedTuple):
    """What the backward pass of a step returns.

    Attributes:
        loss: The mean loss, or this process's share of it.
        tokens: The number of tokens that passed through the base, without padding.
    """

    loss: float
    tokens: int = 0


def summed(losses: Callable[[int], Iterable[torch.Tensor]]) -> Callable[[int], StepResult]:
    """Make the backward pass of a step whose loss is a sum, one micro-batch at a time."""

    def backward(step: int) -> StepResult:
        total = 0.0
        for loss in losses(step):
            loss.backward()
            total += loss.item()
        return StepResult(total)

    return backward


def step_rng(seed: int, step: int) -> random.Random:
    """The random generator for a step's data. It depends only on the step, so a resumed run draws the same data."""
    return random.Random(f"{seed} {step}")


def fit(
    module: nn.Module,
    backward: Callable[[int], StepResult],
    config: FitConfig,
    output_dir: Path,
    validate: Callable[[], dict[str, float]] | None = None,
    report: Callable[[str], None] = print,
    *,
    best: str | None = None,
    save: Callable[[Mapping[str, float]], None] | None = None,
    resume: bool = False,
    accelerator: Accelerator | None = None,
) -> dict[str, float]:
    """Train `module` and return the figures of the last validation, or of the best one.

    On the CPU, a resumed run takes the same steps as an uninterrupted one, bit for bit: each step seeds torch's random
    numbers, and `backward` draws with `step_rng`.

    Args:
        module: The module to train: its parameters that require a gradient.
        backward: Accumulates the gradients of a step, which must be the same in every process when it returns; see
            `summed`.
        config: How to optimise.
        output_dir: The folder for `metrics.jsonl`, with one JSON object for each logged step or validation, and for
            the states of the run until it ends.
        validate: Computes the figures of a validation; it runs without gradients and in eval mode.
        report: A function that receives one line of text for each logged step.
        best: The figure, higher being better, that selects the weights to keep at the end; None keeps the last ones.
        save: Saves the trained module, given the figures of its weights; the states of the run are removed afterwards.
        resume: Whether to continue from the newest state in `output_dir`; without one, training starts anew.
        accelerator: The accelerator, with its processes and trackers; None trains in this process alone. The first
            process writes the files and all read them, so all machines must share `output_dir`.

    Raises:
        TrainingError: the loss is not finite, `output_dir` holds an unfinished run, or a state cannot be written.
        TrainingInterrupted: Ctrl-C was pressed, or the process got SIGTERM; the state is saved.
    """
    fitting = _begin(module, config, output_dir, best, resume, accelerator)
    run, save_every, used = fitting.run, config.save_every or config.eval_every, 0.0
    journal = Journal(output_dir / METRICS, report, accelerator, run, config.steps, config.minutes, config.log_every)
    with journal, _interruptions() as interrupted:
        while run.step < config.steps and used < 1:
            torch.manual_seed(step_rng(config.seed, run.step).getrandbits(63))  # of which the CPU reads 32 bits
            module.train()
            rate = schedule(max(run.step, used * config.steps), config.steps, config.warmup)
            begun = journal.time_used
            loss, tokens, stop, used = _over_processes(accelerator, *backward(run.step), interrupted(), begun)
            norm = fitting.update(loss, rate)
            last = run.step == config.steps or used >= 1
            journal.step(run.step, run.loss, norm, int(tokens), last)
            if validate and (last or (config.eval_every and run.step % config.eval_every == 0)):
                journal.validation(run.step, fitting.validate(validate))
            if not last and (stop or (save_every and run.step % save_every == 0)):
                fitting.save(journal.seconds)
            if not last and stop:
                wait_for_all(accelerator)  # a launcher stops all processes when the first one exits
                done = f"stopped at step {run.step} of {config.steps} and saved"
                raise TrainingInterrupted(f"{done}: continue with the same command and --resume (resume=True)")
    _finish(fitting, save, accelerator)
    return dict(run.figures)


@dataclass(frozen=True)
class _Fitting:
    """A run while it goes: what its steps change, and what they need for that."""

    module: nn.Module
    optimizers: list[torch.optim.Optimizer]
    config: FitConfig
    output_dir: Path
    best: str | None
    main: bool
    run: RunState

    def update(self, loss: float, rate: float) -> float:
        """Apply the gradients at a share of the peak learning rate, and return their norm.

        Raises:
            TrainingError: the loss or the norm is not finite.
        """
        run = self.run
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.config.clip or math.inf))
        _check_finite(loss, norm, run.step, self.config, self.output_dir)
        set_learning_rate(self.optimizers, rate)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        run.step += 1
        run.loss = loss if math.isnan(run.loss) else 0.95 * run.loss + 0.05 * loss
        return norm

    def validate(self, figures_of: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Compute the figures of a validation, and keep the weights if they are the best so far."""
        self.module.eval()
        with torch.no_grad():
            figures = figures_of()
        run, best = self.run, self.best
        if best is None or run.best is None or figures[best] > run.best:
            run.figures, run.best = figures, None if best is None else figures[best]
            if best is not None and self.main:
                save_best(self.output_dir, self.module)
        return figures

    def save(self, seconds: float) -> None:
        """Save the state, in the first process."""
        self.run.seconds = seconds
        if self.main:
            save_state(self.output_dir, self.run, self.module, self.optimizers, self.config.keep)


def wait_for_all(accelerator: Accelerator | None) -> None:
    """Wait until every process of the run is here."""
    if accelerator:
        accelerator.wait_for_everyone()


def _finish(
    fitting: _Fitting, save: Callable[[Mapping[str, float]], None] | None, accelerator: Accelerator | None
) -> None:
    """Restore the best weights, save what was trained, and only then remove what an unfinished run needs."""
    wait_for_all(accelerator)
    if fitting.best is not None:
        load_best(fitting.output_dir, fitting.module)
    wait_for_all(accelerator)
    if fitting.main:
        if save:
            save(fitting.run.figures)
        remove_states(fitting.output_dir)


def _check_finite(loss: float, norm: float, step: int, config: FitConfig, output_dir: Path) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    saved = find_state(output_dir)
    kept = f"; the last good state is {saved}" if saved else ""
    what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient's norm is {norm}"
    raise TrainingError(f"the {what} at step {step}: lower `lr` ({config.lr}) or `adamw_lr`{kept}")


def _over_processes(
    accelerator: Accelerator | None, loss: float, tokens: int, interrupted: bool, used: float
) -> tuple[float, float, bool, float]:
    """Loss, tokens, interruption and time over all processes: the first two are sums, and the time is a mean."""
    if accelerator is None or accelerator.num_processes == 1:
        return loss, tokens, interrupted, used
    sums = torch.tensor([loss, tokens, interrupted, used], dtype=torch.float32, device=accelerator.device)
    total, seen, stop, times = accelerator.reduce(sums, "sum").tolist()
    return total, seen, stop > 0, times / accelerator.num_processes


def _begin(
    module: nn.Module,
    config: FitConfig,
    output_dir: Path,
    best: str | None,
    resume: bool,
    accelerator: Accelerator | None,
) -> _Fitting:
    """Start a run: from its newest state, or else at step 0 with an empty `metrics.jsonl`."""
    output_dir.mkdir(parents=True, exist_ok=True)
    main = accelerator is None or accelerator.is_main_process
    optimizers = build_optimizers(module, config.lr, config.adamw_lr, config.weight_decay)
    settings = {key: value for key, value in asdict(config).items() if key not in FREE}
    path, metrics = find_state(output_dir), output_dir / METRICS
    if path is None:
        run = RunState(0, math.nan, 0.0, None, settings)
        if main:
            remove_states(output_dir)  # a best state may remain without a run
            metrics.write_text("")
    elif not resume:
        raise TrainingError(
            f"{output_dir} holds an unfinished run ({path.name}): continue it with --resume (resume=True), choose "
            f"another folder, or delete {output_dir / FOLDER}"
        )
    else:
        run = load_state(path, module, optimizers)
        if changed := [key for key in settings if run.settings.get(key) != settings[key]]:
            was = ", ".join(f"{key} {run.settings.get(key)!r} (now {settings[key]!r})" for key in changed)
            raise TrainingError(f"{path} was made with other settings: {was}")
        if main:
            lines = metrics.read_text().splitlines() if metrics.is_file() else []
            metrics.write_text("".join(f"{line}\n" for line in lines if _step_of(line) <= run.step))
    wait_for_all(accelerator)
    return _Fitting(module, optimizers, config, output_dir, best, main, run)


def _step_of(line: str) -> float:
    """The step of a line of `metrics.jsonl`; infinity if a full disk or a crash truncated the line."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


@contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Within the block, SIGTERM and the first Ctrl-C are only recorded; the next Ctrl-C acts as usual.

    Of SIGTERM, which schedulers send, each is only recorded: a process gets a second one from its launcher.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        """Record the interruption, and let the next one act as usual."""
        noted.set()
        if number == signal.SIGINT:
            signal.signal(number, usual[signal.SIGINT])

    for number in usual:
        signal.signal(number, note)
    try:
        yield noted.is_set
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
