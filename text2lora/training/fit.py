"""The training loop that all objectives share."""

from __future__ import annotations

import json
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from tqdm.auto import tqdm

from text2lora.errors import TrainingError, TrainingInterrupted
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
    state_path,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


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
        resume: Whether to continue from the newest state in `output_dir`; without one, training starts anew.
        accelerator: The accelerator, with its processes and trackers; None trains in this process alone. The first
            process writes the files and all read them, so all machines must share `output_dir`.

    Raises:
        TrainingError: the loss is not finite, `output_dir` holds an unfinished run, or a state cannot be written.
        TrainingInterrupted: Ctrl-C was pressed; the state is saved.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    main = accelerator is None or accelerator.is_main_process
    optimizers = build_optimizers(module, config.lr, config.adamw_lr, config.weight_decay)
    parameters = [p for p in module.parameters() if p.requires_grad]
    settings = {key: value for key, value in asdict(config).items() if key not in ("log_every", "save_every", "keep")}
    run = _begin(module, optimizers, settings, output_dir, resume, main)
    if accelerator:
        accelerator.wait_for_everyone()
    save_every = config.save_every or config.eval_every
    figures = dict(run.figures)
    begin, running, top, tokens = time.monotonic() - run.seconds, run.loss, run.best, 0
    here = time.monotonic()

    def save(step: int) -> Path:
        state = RunState(step, running, time.monotonic() - begin, top, settings, figures)
        return save_state(output_dir, state, module, optimizers, config.keep) if main else state_path(output_dir, step)

    with ExitStack() as stack:
        log = stack.enter_context((output_dir / "metrics.jsonl").open("a")) if main else None
        interrupted = stack.enter_context(_interruptions())
        bar = stack.enter_context(
            tqdm(total=config.steps, initial=run.step, unit="step", disable=None if main else True, leave=False)
        )

        def write(row: dict[str, float]) -> None:
            if log:
                log.write(json.dumps(row) + "\n")
                log.flush()
            if accelerator:
                accelerator.log({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))

        def say(line: str) -> None:
            if main:
                with tqdm.external_write_mode():
                    report(line)

        used = 0.0  # share of the time limit
        for step in range(run.step, config.steps):
            torch.manual_seed(config.seed * 2**32 + step)
            module.train()
            set_learning_rate(optimizers, schedule(max(step, used * config.steps), config.steps, config.warmup))
            spent = (time.monotonic() - begin) / 60 / config.minutes if config.minutes else 0.0
            total, seen, stop, used = _over_processes(accelerator, *backward(step), interrupted(), spent)
            tokens += int(seen)
            norm = float(nn.utils.clip_grad_norm_(parameters, config.clip or math.inf))
            if not (math.isfinite(total) and math.isfinite(norm)):
                saved = find_state(output_dir)
                kept = f"; the last good state is {saved}" if saved else ""
                what = f"loss is {total}" if not math.isfinite(total) else f"gradient's norm is {norm}"
                raise TrainingError(f"the {what} at step {step}: lower `lr` ({config.lr}) or `adamw_lr`{kept}")
            running = total if math.isnan(running) else 0.95 * running + 0.05 * total
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            done = step + 1
            last = done == config.steps or used >= 1
            speed = tokens / (time.monotonic() - here)
            bar.set_postfix_str(f"loss {running:.4f}, {speed:,.0f} tokens/s", refresh=False)
            bar.update()
            if bar.disable and step == run.step and not last and done % config.log_every:
                took = time.monotonic() - here
                left = took * (config.steps - done)
                left = min(left, 60 * config.minutes) if config.minutes else left
                say(f"step {done}/{config.steps} took {span(took)}: about {span(left)} to go, without validation")
            if done % config.log_every == 0 or last:
                seconds = time.monotonic() - begin
                row = {"step": done, "loss": running, "grad_norm": norm, "seconds": seconds}
                write(row | ({"tokens_per_second": speed} if tokens else {}))
                if bar.disable:
                    rate = f"  {speed:,.0f} tokens/s" if tokens else ""
                    left = seconds / done * (config.steps - done)
                    left = min(left, 60 * config.minutes - seconds) if config.minutes else left
                    say(f"step {done}/{config.steps}  loss {running:.4f}{rate}{'' if last else f'  {span(left)} left'}")
            if validate and (last or (config.eval_every and done % config.eval_every == 0)):
                module.eval()
                with torch.no_grad():
                    found = validate()
                write({"step": done} | found)
                say(_summary(found))
                if best is None or top is None or found[best] > top:
                    figures = found
                    if best is not None:
                        top = found[best]
                        if main:
                            save_best(output_dir, module)
            if stop and not last:
                saved = save(done)
                if accelerator:
                    accelerator.wait_for_everyone()  # a launcher stops all processes when the first one exits
                raise TrainingInterrupted(f"stopped at step {done} of {config.steps}, saved to {saved}: resume it")
            if last:
                break
            if save_every and done % save_every == 0:
                save(done)
    if accelerator:
        accelerator.wait_for_everyone()
    if best is not None:
        load_best(output_dir, module)
    if accelerator:
        accelerator.wait_for_everyone()
    if main:
        remove_states(output_dir)
    return figures


def span(seconds: float) -> str:
    """Format a time for people: 4.2 s, 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(seconds, 0):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _summary(figures: dict[str, float]) -> str:
    """One line for each split and metric, with conditions other than matched descriptions in parentheses."""
    lines: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        place, slash, metric = name.rpartition("/")
        split, _, condition = place.partition(" (")
        lines.setdefault(f"{split}{slash}{metric}", {})[condition.rstrip(")")] = value
    texts = []
    for name, values in lines.items():
        more = ", ".join(f"{condition} {value:.3f}" for condition, value in values.items() if condition)
        own = [f"{values['']:.3f}"] if "" in values else []
        texts.append(" ".join([name, *own, *([f"({more})"] if more else [])]))
    return "\n".join(texts)


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
    optimizers: list[torch.optim.Optimizer],
    settings: dict[str, object],
    output_dir: Path,
    resume: bool,
    main: bool,
) -> RunState:
    """Start a run: from its newest state, or else at step 0 with an empty `metrics.jsonl`."""
    path, metrics = find_state(output_dir), output_dir / "metrics.jsonl"
    if path is None:
        if main:
            remove_states(output_dir)  # a best state may remain without a run
            metrics.write_text("")
        return RunState(0, math.nan, 0.0, None, settings)
    if not resume:
        raise TrainingError(
            f"{output_dir} holds an unfinished run ({path.name}): resume it, choose another folder, or delete "
            f"{output_dir / FOLDER}"
        )
    run = load_state(path, module, optimizers)
    if changed := [key for key in settings if run.settings.get(key) != settings[key]]:
        was = ", ".join(f"{key} {run.settings.get(key)!r} (now {settings[key]!r})" for key in changed)
        raise TrainingError(f"{path} was made with other settings: {was}")
    if main:
        lines = metrics.read_text().splitlines() if metrics.is_file() else []
        metrics.write_text("".join(f"{line}\n" for line in lines if _step_of(line) <= run.step))
    return run


def _step_of(line: str) -> float:
    """The step of a line of `metrics.jsonl`; infinity if a full disk or a crash truncated the line."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


@contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Within the block, the first Ctrl-C is only recorded; the next one acts as usual."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return
    usual = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: object) -> None:
        noted.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGINT, usual)
