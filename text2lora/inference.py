"""Answers of a model, with and without an adapter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.inference_mode()
def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int = 64,
    batch_size: int = 32,
) -> list[str]:
    """Greedy answers to prompts, each as one user turn where the tokenizer has a chat template.

    Args:
        model: a causal language model, or a PeftModel with its active adapter.
        tokenizer: of the base.
        prompts: what the user says; prompts of similar length share a batch, padded on the left.
        max_new_tokens: longest answer.
        batch_size: prompts at a time.

    Returns:
        The answers in the order of the prompts, without special tokens and surrounding white space.
    """
    texts = [as_turn(tokenizer, prompt) for prompt in prompts]
    answers = [""] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids = [tokenizer(texts[i], add_special_tokens=not tokenizer.chat_template)["input_ids"] for i in rows]
        width = max(map(len, ids))
        input_ids = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
        output = model.generate(
            input_ids=input_ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad
        )
        for i, text in zip(rows, tokenizer.batch_decode(output[:, width:], skip_special_tokens=True), strict=True):
            answers[i] = text.strip()
    return answers


def as_turn(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[dict[str, str]]) -> str:
    """A prompt, or chat messages, as the tokenizer's chat template writes it before an answer.

    Without a template a prompt stays as it is, and messages stand below each other.
    """
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not tokenizer.chat_template:
        return "\n".join(turn["content"] for turn in turns)
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
