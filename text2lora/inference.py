"""Answers of a model, with and without an adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer


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
    return [text.strip() for text in complete(model, tokenizer, texts, max_new_tokens, batch_size)]


@torch.inference_mode()
def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_new_tokens: int = 64,
    batch_size: int = 32,
    stop: Sequence[str] = (),
    on_text: Callable[[str], None] | None = None,
) -> list[str]:
    """Greedy continuations of texts that are already in the form that the model reads.

    Args:
        model: a causal language model, or a PeftModel with its active adapter.
        tokenizer: of the base.
        texts: with the marks of the chat template, where the tokenizer has one.
        max_new_tokens: longest continuation.
        batch_size: texts at a time; those of similar length share a batch, padded on the left.
        stop: a continuation ends before the first of these.
        on_text: receives a single text's continuation piece by piece, as it is written.

    Returns:
        The continuations in the order of the texts, without special tokens.
    """
    answers = [""] * len(texts)
    ids = [tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"] for text in texts]
    order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ends = {"stop_strings": list(stop), "tokenizer": tokenizer} if stop else {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = max(len(ids[i]) for i in rows)
        input_ids = torch.tensor([[pad] * (width - len(ids[i])) + ids[i] for i in rows], device=model.device)
        mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in rows], device=model.device)
        output = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            streamer=_Pieces(tokenizer, on_text) if on_text else None,
            **ends,
        )
        for i, text in zip(rows, tokenizer.batch_decode(output[:, width:], skip_special_tokens=True), strict=True):
            answers[i] = text[: min((at for end in stop if (at := text.find(end)) >= 0), default=len(text))]
    return answers


class _Pieces(TextStreamer):
    """Hands on what is written, where transformers' own class prints it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.on_text(text)


def as_turn(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[dict[str, str]]) -> str:
    """A prompt, or chat messages, as the tokenizer's chat template writes it before an answer.

    Without a template a prompt stays as it is, and messages stand below each other. Models that can think before they
    answer are told not to, in training as in use.
    """
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not tokenizer.chat_template:
        return "\n".join(turn["content"] for turn in turns)
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
