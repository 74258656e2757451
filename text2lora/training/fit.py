"""The one training loop, shared by every objective."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from text2lora.errors import TrainingError
from text2lora.training.optim import build_optimizers, schedule, set_learning_rate


@dataclass(frozen=True)
class FitConfig:
    """How to optimise, whatever the objective.

    Attributes:
        steps: optimiser steps.
        lr: peak learning rate of Muon on matrices; 0 leaves everything to AdamW.
        adamw_lr: peak learning rate of AdamW on the rest.
        warmup: share of the steps with a rising learning rate; it decays linearly to zero after that.
        weight_decay: on matrices.
        clip: largest gradient norm.
        seed: of initial weights and data.
        log_every: steps between lines of `metrics.jsonl`.
        eval_every: steps between validations; 0 for one at the end only.
    """

    steps: int = 1000
    lr: float = 0.006
    adamw_lr: float = 0.003
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    log_every: int = 20
    eval_every: int = 0


def fit(
    module: nn.Module,
    losses: Callable[[int], Iterable[torch.Tensor]],
    config: FitConfig,
    output_dir: Path,
    validate: Callable[[], dict[str, float]] | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train `module` and return the last validation.

    Args:
        module: what is trained; its parameters that require a gradient.
        losses: gives, for a step, the scalar losses of its micro-batches, whose gradients add up.
        config: see `FitConfig`.
        output_dir: gets `metrics.jsonl`, one JSON object a logged step or validation.
        validate: figures to record now and then, run without gradients and in eval mode.
        report: receives one line of text per logged step.

    Raises:
        TrainingError: the loss is not finite.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    optimizers = build_optimizers(module, config.lr, config.adamw_lr, config.weight_decay)
    parameters = [p for p in module.parameters() if p.requires_grad]
    figures: dict[str, float] = {}
    begin, running = time.monotonic(), math.nan
    with (output_dir / "metrics.jsonl").open("w") as log:
        for step in range(config.steps):
            module.train()
            set_learning_rate(optimizers, schedule(step, config.steps, config.warmup))
            total = 0.0
            for loss in losses(step):
                loss.backward()
                total += loss.item()
            if not math.isfinite(total):
                raise TrainingError(f"the loss is {total} at step {step}: lower `lr` ({config.lr}) or `adamw_lr`")
            running = total if math.isnan(running) else 0.95 * running + 0.05 * total
            norm = nn.utils.clip_grad_norm_(parameters, config.clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            last = step + 1 == config.steps
            if (step + 1) % config.log_every == 0 or last:
                row = {"step": step + 1, "loss": running, "grad_norm": float(norm), "seconds": time.monotonic() - begin}
                log.write(json.dumps(row) + "\n")
                log.flush()
                left = row["seconds"] / (step + 1) * (config.steps - step - 1)
                report(f"step {step + 1}/{config.steps}  loss {running:.4f}  {left / 60:.0f} min left")
            if validate and (last or (config.eval_every and (step + 1) % config.eval_every == 0)):
                module.eval()
                with torch.no_grad():
                    figures = validate()
                log.write(json.dumps({"step": step + 1} | figures) + "\n")
                log.flush()
                report("  ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    return figures
