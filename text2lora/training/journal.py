"""The progress of a training run: figures for files and trackers, lines and a progress bar for people."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from text2lora.training.state import RunState

if TYPE_CHECKING:
    from accelerate import Accelerator


class Journal(AbstractContextManager["Journal"]):
    """Reports the steps and validations of a run, and keeps its time.

    Args:
        path: The file that gets one JSON object for each logged step or validation.
        report: A function that receives lines for people.
        accelerator: The accelerator, whose trackers get the figures, too; only its first process writes and reports.
        run: The state that the run starts from, which may be that of an earlier run.
        steps: The number of steps of the run.
        minutes: Its time limit; 0 for none.
        log_every: The number of steps between logged ones.
    """

    def __init__(
        self,
        path: Path,
        report: Callable[[str], None],
        accelerator: Accelerator | None,
        run: RunState,
        steps: int,
        minutes: float,
        log_every: int,
    ):
        self._main = accelerator is None or accelerator.is_main_process
        self._report, self._accelerator = report, accelerator
        self._steps, self._minutes, self._log_every = steps, minutes, log_every
        self._first, self._seconds_before = run.step, run.seconds
        self._started, self._tokens = time.monotonic(), 0
        self._file = path.open("a") if self._main else None
        self._bar = tqdm(total=steps, initial=run.step, unit="step", disable=None if self._main else True, leave=False)

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._file:
            self._file.close()

    @property
    def seconds(self) -> float:
        """The time spent so far, including that of a run that this one resumes."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def time_used(self) -> float:
        """The share of the time limit that is used; 0 if there is no limit."""
        return self.seconds / 60 / self._minutes if self._minutes else 0.0

    def step(self, done: int, loss: float, grad_norm: float, tokens: int, last: bool) -> None:
        """Report a step, of which `last` says whether it ends the run.

        `done` counts all steps so far, `loss` is the running mean of the loss, and `tokens` are those of this step.
        """
        self._tokens += tokens
        took = time.monotonic() - self._started
        speed = self._tokens / took
        self._bar.set_postfix_str(f"loss {loss:.4f}, {speed:,.0f} tokens/s", refresh=False)
        self._bar.update()
        if done % self._log_every == 0 or last:
            row = {"step": done, "loss": loss, "grad_norm": grad_norm, "seconds": self.seconds}
            self._write(row | ({"tokens_per_second": speed} if self._tokens else {}))
            if self._bar.disable:
                rate = f"  {speed:,.0f} tokens/s" if self._tokens else ""
                left = "" if last else f"  {span(self._left(done, self.seconds / done))} left"
                self._say(f"step {done}/{self._steps}  loss {loss:.4f}{rate}{left}")
        elif self._bar.disable and done == self._first + 1:
            left = span(self._left(done, took))
            self._say(f"step {done}/{self._steps} took {span(took)}: about {left} to go, without validation")

    def validation(self, done: int, figures: Mapping[str, float]) -> None:
        """Report the figures of a validation after so many steps."""
        self._write({"step": done, **figures})
        self._say(_summary(figures))

    def _left(self, done: int, seconds_per_step: float) -> float:
        left = seconds_per_step * (self._steps - done)
        return min(left, 60 * self._minutes - self.seconds) if self._minutes else left

    def _write(self, row: Mapping[str, float]) -> None:
        if self._file:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._accelerator:
            self._accelerator.log({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))

    def _say(self, line: str) -> None:
        if self._main:
            with tqdm.external_write_mode():
                self._report(line)


def span(seconds: float) -> str:
    """Format a time for people: 4.2 s, 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(seconds, 0):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _summary(figures: Mapping[str, float]) -> str:
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
