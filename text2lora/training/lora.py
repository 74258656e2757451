"""Baselines without a hypernetwork: one LoRA per task (oracles), or one for all tasks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.arguments import checked
from text2lora.configuration import Text2LoraConfig
from text2lora.errors import TrainingError
from text2lora.injection import LoraInjector
from text2lora.language import Example, answer_loss, prompt_batch
from text2lora.lora import LoraWeights
from text2lora.training.engine import EngineConfig, prepare_base, start_engine
from text2lora.training.fit import FitConfig, fit, step_rng, summed


class LoraTable(nn.Module):
    """Independently trained LoRAs with the layout of a checkpoint, initialised as in PEFT (B is zero).

    Args:
        config: The layout: target modules, shapes, layers and rank.
        count: The number of LoRAs.
    """

    def __init__(self, config: Text2LoraConfig, count: int):
        super().__init__()
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for name in config.target_modules:
            d_in, d_out = config.module_shapes[name]
            bound = 1 / math.sqrt(d_in)
            self.a[name] = torch.empty(count, config.num_layers, config.lora_r, d_in).uniform_(-bound, bound)
            self.b[name] = torch.zeros(count, config.num_layers, d_out, config.lora_r)

    def forward(self, rows: Sequence[int]) -> LoraWeights:
        """Return the LoRAs of these rows: A [n, layers, r, in] and B [n, layers, out, r] by module."""
        index = torch.tensor(rows)
        return {name: (self.a[name][index], self.b[name][index]) for name in self.a}


@checked(TrainingError)
def train_loras(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: Text2LoraConfig,
    draws: Sequence[Callable[[random.Random], Sequence[Example]]],
    fit_config: FitConfig,
    output_dir: Path,
    report: Callable[[str], None] = print,
    resume: bool = False,
    engine: EngineConfig | None = None,
    max_length: int | None = None,
    pack: int = 1,
    settings: object = None,
    save: Callable[[LoraTable], None] | None = None,
) -> LoraTable:
    """Train one LoRA for each entry of `draws`, all of them in every step, through one frozen base.

    Args:
        base: The base model, which this function freezes.
        tokenizer: The tokenizer of the base.
        config: The layout of the LoRAs.
        draws: For each LoRA, a function that draws the examples of a step; all must draw the same number.
        fit_config: How to optimise.
        output_dir: The folder for `metrics.jsonl`.
        report: A function that receives progress, line by line.
        resume: Whether to continue an interrupted run in `output_dir`.
        engine: Where to train; in one process only.
        max_length: The maximum length of a prompt and its response; see `prompt_batch`.
        pack: The number of a LoRA's examples that share a row; see `prompt_batch`.
        settings: A dataclass that the trackers show as hyper-parameters; None for `fit_config`.
        save: Saves the trained LoRAs; the states of the run are removed afterwards.

    Raises:
        TrainingError: there are several processes, or training fails (see `fit`).
    """
    torch.manual_seed(fit_config.seed)
    engine = engine or EngineConfig()
    output_dir.mkdir(parents=True, exist_ok=True)
    accelerator = start_engine(engine, output_dir, settings or fit_config)
    if accelerator.num_processes > 1:
        raise TrainingError(
            f"LoRAs are trained in one process, got {accelerator.num_processes}: give each process its own tasks"
        )
    base = prepare_base(base, engine, accelerator)
    table, injector = LoraTable(config, len(draws)).to(accelerator.device), LoraInjector(base, config)

    def losses(step: int) -> Iterator[torch.Tensor]:
        rng = step_rng(fit_config.seed, step)
        examples = [example for draw in draws for example in draw(rng)]
        batch = prompt_batch(tokenizer, examples, max_length, pack, base).to(accelerator.device)
        with injector.inject(table(range(len(draws)))), accelerator.autocast():
            yield answer_loss(base, batch) / len(batch.targets) * len(draws)

    end = None if save is None else lambda figures: save(table)
    fit(table, summed(losses), fit_config, output_dir, None, report, save=end, resume=resume, accelerator=accelerator)
    accelerator.end_training()
    return table.eval()
