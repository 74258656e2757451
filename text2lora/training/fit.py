"""The one training loop, shared by every objective."""

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
        steps: optimiser steps.
        minutes: longest time, validations included; 0 for no limit. The learning rate then decays with the time that is
            used up, so that a run that ends early has ended as a shorter one would; such a run is not the same twice.
        lr: peak learning rate of Muon on matrices; 0 leaves everything to AdamW.
        adamw_lr: peak learning rate of AdamW on the rest.
        warmup: share of the steps with a rising learning rate; it decays linearly to zero after that.
        weight_decay: on matrices.
        clip: largest gradient norm; 0 for no limit.
        seed: of initial weights and data.
        log_every: steps between lines of `metrics.jsonl`.
        eval_every: steps between validations; 0 for one at the end only.
        save_every: steps between saved states, from which a broken run goes on; 0 for as often as validations.
        keep: how many of them are kept.
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
    """What the backward pass of a step found.

    Attributes:
        loss: the mean, or this process's share of it.
        tokens: that passed through the base, all padding left out.
    """

    loss: float
    tokens: int = 0


def summed(losses: Callable[[int], Iterable[torch.Tensor]]) -> Callable[[int], StepResult]:
    """The backward pass of a step whose loss is a sum, one micro-batch at a time."""

    def backward(step: int) -> StepResult:
        total = 0.0
        for loss in losses(step):
            loss.backward()
            total += loss.item()
        return StepResult(total)

    return backward


def step_rng(seed: int, step: int) -> random.Random:
    """What a step draws its data with. It depends on the step alone, so that a resumed run draws the same."""
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
    """Train `module` and return the last validation, or the best one.

    A run that is resumed takes the same steps as one that was never stopped, bit for bit on the CPU: torch's random
    numbers of a step are seeded by the step, and `backward` draws with `step_rng`.

    Args:
        module: what is trained; its parameters that require a gradient.
        backward: adds up the gradients of a step, which are the same in every process when it returns; see `summed`.
        config: see `FitConfig`.
        output_dir: gets `metrics.jsonl`, one JSON object a logged step or validation, and, until the run ends, its
            states.
        validate: figures to record now and then, run without gradients and in eval mode.
        report: receives one line of text per logged step.
        best: the figure that decides which weights the module has at the end, the higher the better; None for the
            last ones.
        resume: go on from the newest state in `output_dir`; begin anew where there is none.
        accelerator: of the processes that train together, and of its trackers; None for this one alone. Files are
            written by the first one, and read by all: `output_dir` is one folder for all machines.

    Raises:
        TrainingError: the loss is not finite, an unfinished run is in `output_dir`, or a state cannot be written.
        TrainingInterrupted: Ctrl-C; the state is saved.
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

        used = 0.0  # share of the minutes
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
                say(f"step {done}/{config.steps} took {span(took)}: about {span(left)} to go, validations aside")
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
                    accelerator.wait_for_everyone()  # a launcher ends all processes when the first one ends
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
    """A time for people: 4.2 s, 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(seconds, 0):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _summary(figures: dict[str, float]) -> str:
    """A line for each split and metric, with other conditions than matched descriptions in brackets."""
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
    """Sums of losses and tokens, whether any process was interrupted, and the mean of the times: all go on, or none."""
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
    """Where the run starts: at step 0 with an empty `metrics.jsonl`, or where a state says."""
    path, metrics = find_state(output_dir), output_dir / "metrics.jsonl"
    if path is None:
        if main:
            remove_states(output_dir)  # a best state without a run
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
    """The step of a line of `metrics.jsonl`; infinity of a line that a full disk or a crash cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


@contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Within the block, the first Ctrl-C is only noted, and the next one acts as usual."""
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
