"""Scores of answers to examples, by the base model alone or with a different adapter for every task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.attach import input_device
from text2lora.injection import LoraInjector
from text2lora.language import Example, answer_logits, count_matches, prompt_batch
from text2lora.lora import LoraWeights

JUNK = ("asdf qwer zxcv", "!!! ??? ...", "lorem ipsum dolor sit amet", "0 0 0 0 0 0", "the the of of and and")
"""Texts that describe no task."""


class TaskScore(NamedTuple):
    """A task's score under one adapter: which examples are exact matches, [k], and the mean loss per answer token."""

    matches: torch.Tensor
    loss: float


@torch.no_grad()
def score_examples(
    model: Callable[[torch.Tensor], LoraWeights] | None,
    task_emb: torch.Tensor | None,
    examples: Sequence[Sequence[Example]],
    injector: LoraInjector,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: int = 64,
    max_length: int | None = None,
    pack: bool = False,
) -> list[TaskScore]:
    """Score the answers to each task's examples under its own adapter, or by the base alone.

    Args:
        model: Generates the adapters from the embeddings; None for the base alone.
        task_emb: One embedding for each task, [n, d] or [n, tokens, d]; None for the base alone.
        examples: The examples of each task. Tasks with the same number of them share batches.
        injector: Puts the adapters onto the base.
        base: The base model.
        tokenizer: The base model's tokenizer.
        rows: The number of examples in a batch; a batch holds at least the examples of one task.
        max_length: The maximum length of a prompt and its response; see `prompt_batch`.
        pack: Whether to put the examples of a task into one row; see `text2lora.training.sft.SftConfig`.
    """
    results: dict[int, TaskScore] = {}
    for count in sorted({len(group) for group in examples}):
        alike = [i for i, group in enumerate(examples) if len(group) == count]
        size = max(1, rows // count)
        for chosen in (alike[start : start + size] for start in range(0, len(alike), size)):
            flat = [example for i in chosen for example in examples[i]]
            batch = prompt_batch(tokenizer, flat, max_length, count if pack else 1, base).to(input_device(base))
            weights = model(task_emb[chosen]) if model is not None and task_emb is not None else {}
            with injector.inject(weights):
                logits, labels = answer_logits(base, batch)
            matches = count_matches(logits, batch).view(len(chosen), -1)
            sums = batch.sums(F.cross_entropy(logits.float(), labels, reduction="none")).view(len(chosen), -1)
            losses = sums.sum(1) / batch.lengths.view(len(chosen), -1).sum(1)
            results |= zip(chosen, map(TaskScore, matches.cpu(), losses.tolist()), strict=True)
    return [results[i] for i in range(len(examples))]
