"""Pre-training of the nano base model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import field
from pathlib import Path
from typing import Literal

import torch
from catalogue import TASKS, UNSEEN, header
from corpus import GROUP_WEIGHTS, PretrainingDocuments, sample_example
from documents import AnswerCollator, exact_match
from tokenizer import ANSWER, END, RECORD, build_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from text2lora.language import answer_loss
from text2lora.nano import sample_record
from text2lora.training.fit import FitConfig, fit, step_rng, summed
from text2lora.training.recipe import settings


@settings
class BaseConfig:
    """Sizes of the nano base, and the documents of one training step.

    Attributes:
        documents: how many documents of each style make one step.
        queries, headed, shots: answers per document of that style.
        groups: how often a task of each group is drawn, where it is not `GROUP_WEIGHTS`.
        weighting: what counts the same in the loss, each answer `token` or each `answer`.
        start_from: the folder of a base that is trained further, or empty.
    """

    hidden_size: int = 256
    intermediate_size: int = 512
    num_layers: int = 4
    head_dim: int = 64
    documents: dict[str, int] = field(default_factory=lambda: {"queries": 20, "headed": 6, "shots": 6})
    queries: int = 10
    headed: int = 3
    shots: int = 4
    groups: dict[str, float] = field(default_factory=dict)
    weighting: Literal["token", "answer"] = "token"
    start_from: str = ""
    fit: FitConfig = field(default_factory=FitConfig)


def build_base(config: BaseConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of the configured size with fresh weights."""
    heads = config.hidden_size // config.head_dim
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def headed_document(name: str, seed: int) -> str:
    """An evaluation record with its task announced by the header: a query about it."""
    task = TASKS[name]
    line, fields = sample_record(task.kinds[seed % len(task.kinds)], seed)
    return f"{RECORD}{line}{''.join(header(task))}{ANSWER}{task.answer(fields)}{END}"


def shots_document(name: str, seed: int, shots: int, rng: random.Random) -> str:
    """An evaluation record after demonstrations from training records; with none, the record alone."""
    task = TASKS[name]
    line, fields = sample_record(task.kinds[seed % len(task.kinds)], seed)
    pairs = [sample_example(task, rng) for _ in range(shots)] + [(line, task.answer(fields))]
    return "".join(f"{RECORD}{x}{ANSWER}{y}{END}" for x, y in pairs)


def pretrain_base(
    config: BaseConfig,
    output_dir: Path,
    report: Callable[[str], None] = print,
    model: LlamaForCausalLM | None = None,
    resume: bool = False,
) -> LlamaForCausalLM:
    """Train the nano base, a fresh one or `model`, and save it, with its tokenizer, to `output_dir`."""
    torch.manual_seed(config.fit.seed)
    tokenizer = build_tokenizer()
    model = model or build_base(config, tokenizer)
    collate = AnswerCollator(tokenizer, ANSWER, END)
    documents = PretrainingDocuments(config.queries, config.headed, config.shots, config.groups)

    def losses(step: int) -> Iterator[torch.Tensor]:
        rng = step_rng(config.fit.seed, step)
        batches = [
            collate([documents.document(style, rng) for _ in range(count)]) for style, count in config.documents.items()
        ]
        units = sum(batch.units(config.weighting) for batch in batches)
        for batch in batches:
            yield answer_loss(model, batch, config.weighting) / units

    def validate() -> dict[str, float]:
        save()
        picks = random.Random(1)
        figures = {}
        for split, names in (("seen", sorted(set(TASKS) - UNSEEN)), ("unseen", sorted(UNSEEN))):
            shown = [shots_document(picks.choice(names), seed, 3, picks) for seed in range(100)]
            figures[f"3-shot/{split}"] = exact_match(model, collate(shown), last_only=True).float().mean().item()
            for group in GROUP_WEIGHTS:
                inside = [name for name in names if TASKS[name].group == group]
                headed = [headed_document(picks.choice(inside), seed) for seed in range(80)]
                figures[f"header/{split}/{group}"] = exact_match(model, collate(headed)).float().mean().item()
        return figures

    def save() -> None:
        model.save_pretrained(output_dir)
        tokenizer.save_pretrained(output_dir)

    fit(model, summed(losses), config.fit, output_dir, validate, report, resume=resume)
    return model.eval()
