"""Supervised fine-tuning of the hypernetwork, end to end through the frozen base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.modeling import Text2LoraModel
from text2lora.training.data import DescriptionBank, Example, TaskSource, perturb
from text2lora.training.fit import FitConfig, fit, step_rng
from text2lora.training.injection import LoraInjector
from text2lora.training.language import answer_loss, exact_match, prompt_batch


@dataclass(frozen=True)
class SftConfig:
    """What one step of SFT looks at.

    Attributes:
        tasks: tasks per step, each with its own adapter.
        examples: examples per task and step.
        noise: standard deviation of the noise on task embeddings, whose entries are near one.
        token_dropout: share of description tokens left out; of token states only.
        buckets: parts of a step, by length.
        weighting: what counts the same in the loss, each answer `token` or each `answer`.
        fit: how to optimise.
    """

    tasks: int = 64
    examples: int = 1
    noise: float = 0.1
    token_dropout: float = 0.1
    buckets: int = 3
    weighting: str = "token"
    fit: FitConfig = field(default_factory=FitConfig)


class Probe(NamedTuple):
    """A description to validate with, and examples of what its adapter should do."""

    description: str
    examples: list[Example]


def train_sft(
    model: Text2LoraModel,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: TaskSource,
    config: SftConfig,
    output_dir: Path,
    probes: dict[str, Sequence[Probe]] | None = None,
    report: Callable[[str], None] = print,
    cache: Path | None = None,
    resume: bool = False,
) -> dict[str, float]:
    """Train a hypernetwork so that the adapter of a description makes the frozen base answer that task's examples.

    Args:
        model: trained in place and saved to `output_dir`.
        base: frozen here.
        tokenizer: of the base, with a chat template.
        tasks: see `TaskSource`.
        config: see `SftConfig`.
        output_dir: gets the checkpoint and `metrics.jsonl`.
        probes: by split, what to validate on.
        report: receives progress, line by line.
        cache: a file that keeps the embedded descriptions for the next run.
        resume: go on from where a run into `output_dir` was broken off.

    Returns:
        Exact match by split.
    """
    torch.manual_seed(config.fit.seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    base.requires_grad_(False).eval()
    injector = LoraInjector(base, model.config)
    report(f"embedding {len(tasks.descriptions)} descriptions")
    bank = DescriptionBank(model.encoder, tasks.descriptions, cache)

    def losses(step: int) -> Iterator[torch.Tensor]:
        rng = step_rng(config.fit.seed, step)
        draws = [tasks.draw(rng, config.examples) for _ in range(config.tasks)]
        draws.sort(key=lambda draw: max(len(prompt) + len(response) for prompt, response in draw.examples))
        task_emb = perturb(bank[[draw.description for draw in draws]], config.noise, config.token_dropout)
        weights = model(task_emb)
        total = torch.zeros(())
        count = 0
        for rows in torch.arange(len(draws)).chunk(config.buckets):  # of similar length, so that little is padding
            batch = prompt_batch(tokenizer, [example for i in rows.tolist() for example in draws[i].examples])
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            with injector.inject({name: (a[part], b[part]) for name, (a, b) in weights.items()}):
                total = total + answer_loss(base, batch, config.weighting)
            count += batch.units(config.weighting)
        yield total / count

    probe_embs = {
        split: model.encoder.encode([probe.description for probe in chosen]) for split, chosen in (probes or {}).items()
    }

    def validate() -> dict[str, float]:
        model.save_pretrained(output_dir)
        figures = {}
        for split, chosen in (probes or {}).items():
            matches = match_examples(model, injector, base, tokenizer, probe_embs[split], [p.examples for p in chosen])
            figures[split] = torch.stack([m.float().mean() for m in matches]).mean().item()
        return figures

    return fit(model, losses, config.fit, output_dir, validate, report, resume=resume)


@torch.no_grad()
def match_examples(
    model: Text2LoraModel,
    injector: LoraInjector,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task_emb: torch.Tensor,
    examples: Sequence[Sequence[Example]],
    batch_size: int = 32,
) -> list[torch.Tensor]:
    """Exact match of every task's examples under its own adapter.

    Args:
        task_emb: one embedding per task, [n, d] or [n, tokens, d].
        examples: equally many for each task.
        batch_size: tasks at a time.

    Returns:
        A boolean tensor per task.
    """
    results = []
    for start in range(0, len(examples), batch_size):
        chosen = examples[start : start + batch_size]
        batch = prompt_batch(tokenizer, [example for group in chosen for example in group])
        with injector.inject(model(task_emb[start : start + batch_size])):
            results += list(exact_match(base, batch).view(len(chosen), -1))
    return results
