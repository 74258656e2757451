"""Language-model losses on the answers of a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.errors import CheckpointError, InvalidArgumentError, InvalidInputError, TaskError
from text2lora.turns import AnswerForm, FittedPrompt, as_turn, fit_turns, padding_id

Prompt = str | list[dict[str, str]]
"""What the user says, or chat messages with `role` and `content`."""

Example = tuple[Prompt, str]
"""A prompt and its response."""


@dataclass
class AnswerBatch:
    """Token ids [batch, tokens], right-padded, and which of them are predicted [batch, tokens - 1].

    What is derived from them is computed once, and on the CPU for a batch that goes to a GPU, which would otherwise
    have to finish all of its work before each of these results is known.

    Attributes:
        ids: token ids.
        is_target: whether the token after this one is part of an answer.
        examples: [batch, tokens], for rows that hold several examples: the example that a token belongs to, from 1;
            0 is what all examples of the row begin with, and -1 is padding. None where a row is one text.
    """

    ids: torch.Tensor
    is_target: torch.Tensor
    examples: torch.Tensor | None = None

    def inputs(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """What the model reads: all tokens but the last, and where a row holds several examples, what sees what.

        A token sees the common beginning and its own example, and its position is counted from these alone, so that
        every example is read as if it stood by itself.

        Args:
            dtype: the model's dtype; the mask is added to the attention scores.
        """
        ids = self.ids[:, :-1]
        if self.examples is None:
            return {"input_ids": ids}
        own = self.examples[:, :-1]
        visible = own[:, :, None] == own[:, None]  # [batch, tokens, tokens]
        visible = (visible | (own == 0)[:, None]).tril()
        mask = torch.zeros(visible.shape, dtype=dtype, device=ids.device).masked_fill(~visible, torch.finfo(dtype).min)
        return {"input_ids": ids, "attention_mask": mask[:, None], "position_ids": visible.sum(-1) - 1}

    @property
    def starts(self) -> torch.Tensor:
        """[batch, tokens - 1]: where an answer begins; its `cumsum(1)` numbers the answers of a row from 1."""
        return self.is_target & ~F.pad(self.is_target, (1, 0))[:, :-1]

    @cached_property
    def targets(self) -> torch.Tensor:
        """[targets]: the position of each token that predicts an answer token, in rows of tokens - 1."""
        return self.is_target.flatten().nonzero()[:, 0]

    @cached_property
    def owners(self) -> torch.Tensor:
        """[targets]: the answer of each answer token, as its number from 0 in reading order over the whole batch."""
        return self.starts.flatten().cumsum(0)[self.targets] - 1

    @cached_property
    def lengths(self) -> torch.Tensor:
        """[answers]: the number of tokens of each answer."""
        return self.owners.bincount()

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """The sums [answers] of values of the answer tokens [targets], over each answer."""
        return values.new_zeros(len(self.lengths)).index_add(0, self.owners, values)

    @property
    def labels(self) -> torch.Tensor:
        """[targets]: the answer tokens."""
        return self.ids[:, 1:].flatten()[self.targets]

    @property
    def num_tokens(self) -> int:
        """Tokens that are read or predicted, padding left out: what comes after a row's last answer is padding."""
        return int((self.is_target.flip(1).cumsum(1) > 0).sum())

    def to(self, device: torch.device) -> AnswerBatch:
        """The batch on another device."""
        ids = self.ids.to(device)
        if ids.device == self.ids.device:
            return self
        examples = None if self.examples is None else self.examples.to(device)
        moved = AnswerBatch(ids, self.is_target.to(device), examples)
        for name in ("targets", "owners", "lengths"):
            moved.__dict__[name] = getattr(self, name).to(device)
        return moved

    def repeat(self, times: int, groups: int) -> AnswerBatch:
        """The batch with each of its groups of neighbouring rows several times, one after the other."""

        def repeated(rows: torch.Tensor) -> torch.Tensor:
            return rows.unflatten(0, (groups, -1)).repeat_interleave(times, 0).flatten(0, 1)

        examples = None if self.examples is None else repeated(self.examples)
        return AnswerBatch(repeated(self.ids), repeated(self.is_target), examples)

    def units(self, weighting: str) -> int:
        """How many answer tokens there are, or answers: what a loss with this weighting is divided by for a mean."""
        if weighting not in ("token", "answer"):
            raise InvalidArgumentError(f"the weighting is {weighting!r}: expected 'token' or 'answer'")
        return len(self.targets if weighting == "token" else self.lengths)


def answer_logits(model: PreTrainedModel, batch: AnswerBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [targets, vocabulary] and labels [targets] of all answer tokens of the batch.

    Right padding under causal attention needs no mask. The output layer runs on the answers only. The model is called
    as a whole, for some change their logits after that layer: Gemma caps them, Granite and Cohere scale them.
    """

    def pick(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (args[0].flatten(0, 1)[batch.targets][None],)

    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        logits = model(**batch.inputs(model.dtype), use_cache=False).logits[0]
    finally:
        handle.remove()
    return logits, batch.labels


def answer_loss(
    model: PreTrainedModel, batch: AnswerBatch, weighting: str = "token", label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy, summed over the answer tokens (`token`) or over the means of the answers (`answer`).

    With `answer`, a yes or no counts as much as a line of text. Label smoothing is the share of each label that is
    spread over the vocabulary (Szegedy et al. 2016).
    """
    logits, labels = answer_logits(model, batch)
    losses = F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)
    if weighting == "token":
        return losses.sum()
    return (losses / batch.lengths[batch.owners]).sum()


def count_matches(logits: torch.Tensor, batch: AnswerBatch) -> torch.Tensor:
    """Whether greedy decoding gives each answer, end token included; one boolean per answer, in reading order.

    One forward pass over the gold text gives the logits [targets, vocabulary], see `answer_logits`: greedy decoding
    gives the gold answer if and only if each of its tokens is the most likely one after the gold tokens before it.
    """
    wrong = logits.argmax(-1) != batch.labels
    return batch.sums(wrong.long()) == 0


def answer_form(tokenizer: PreTrainedTokenizerBase) -> AnswerForm:
    """How the tokenizer's base model writes an answer.

    Raises:
        CheckpointError: the tokenizer has no token that ends an answer.
    """
    form = AnswerForm.of(tokenizer)
    if not form.end:
        raise CheckpointError("the base model's tokenizer has no token that ends an answer: give it an eos_token")
    return form


def answer_ids(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> list[list[int]]:
    """What the base model writes for each answer, up to and with its end."""
    form = AnswerForm.of(tokenizer)
    texts = [form.space + answer + form.end for answer in answers]
    found: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return found


def check_text(text: object, what: str = "the input") -> str:
    """A text that a tokenizer can read.

    Raises:
        InvalidInputError: it is not a string, empty, or not valid Unicode; the message calls it `what`.
    """
    if not isinstance(text, str):
        raise InvalidInputError(f"{what} is {type(text).__name__}: expected a string")
    if not text.strip():
        raise InvalidInputError(f"{what} is empty: expected a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{what} is not valid text ({error.reason}): pass a Unicode string") from error
    return text


def fit_answers(
    tokenizer: PreTrainedTokenizerBase, text: str, answers: Sequence[str], context: int | None
) -> FittedPrompt:
    """A text as the base model reads it, with room for the longest of some answers.

    Raises:
        InvalidInputError: the text and that answer are longer than the context.
    """
    longest = max(map(len, answer_ids(tokenizer, answers)))
    fitted = fit_turns(tokenizer, [{"role": "user", "content": text}], context, longest)
    if context is not None and fitted.room < longest:
        raise InvalidInputError(
            f"the answer has {longest:,} tokens, but this base model's context of {context:,} tokens leaves only "
            f"{fitted.room:,} after the input"
        )
    return fitted


def prompt_batch(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    max_length: int | None = None,
    pack: int = 1,
    model: PreTrainedModel | None = None,
) -> AnswerBatch:
    """Prompts and responses in the tokenizer's chat format; the loss is on the response and its end, see `AnswerForm`.

    Args:
        tokenizer: the base model's tokenizer. Without a chat template, a prompt is followed by its response and the end
            token.
        examples: prompts, as texts or chat messages, and responses.
        max_length: the longest row, in tokens. The middle of a longer prompt is left out, so that both ends of the chat
            format stay; a response is never cut.
        pack: how many neighbouring examples share a row. What their prompts have in common at the beginning, such as
            the system turn of a chat template, is then read once for all of them.
        model: the base model, which decides whether they can share one: otherwise, each has its own. None lets them.

    Raises:
        TaskError: a response is longer than that.
        CheckpointError: the tokenizer has no token that ends an answer.
        InvalidInputError: the chat template does not take the messages of a prompt.
    """
    answer_form(tokenizer)
    prompts = [as_turn(tokenizer, prompt) for prompt, _ in examples]
    special = not tokenizer.chat_template  # a template writes its own
    ids = tokenizer(prompts, add_special_tokens=special)["input_ids"]
    pairs: list[tuple[list[int], list[int]]] = []
    for prompt, response in zip(ids, answer_ids(tokenizer, [answer for _, answer in examples]), strict=True):
        if max_length and len(prompt) + len(response) > max_length:
            room = max_length - len(response)
            if room < 1:
                raise TaskError(
                    f"a response has {len(response)} tokens: raise max_length ({max_length}), or leave the example out"
                )
            prompt = prompt[: room // 2] + prompt[len(prompt) - (room - room // 2) :]
        pairs.append((prompt, response))
    if model is not None and not _can_pack(model, max(len(prompt) + len(response) for prompt, response in pairs)):
        pack = 1
    rows = [_pack(pairs[start : start + pack]) for start in range(0, len(pairs), pack)]

    def padded(column: int, value: int) -> torch.Tensor:
        tensors = [torch.tensor(row[column]) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

    return AnswerBatch(
        padded(0, padding_id(tokenizer)), padded(1, 0)[:, 1:].bool(), padded(2, -1) if pack > 1 else None
    )


def _can_pack(model: PreTrainedModel, longest: int) -> bool:
    """Whether examples of this many tokens can share a row: our mask takes the place of a layer's own window."""
    config = model.config.get_text_config()
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    takes_mask = "flash" not in str(model.config._attn_implementation)
    stateful = getattr(model, "_is_stateful", False)  # a state would run from one example into the next
    return takes_mask and not stateful and all(longest <= window for window in windows if window)


def _pack(pairs: Sequence[tuple[list[int], list[int]]]) -> tuple[list[int], list[int], list[int]]:
    """Prompts and responses in one row: token ids, which of them are answers, and the example of each."""
    prompts = [prompt for prompt, _ in pairs]
    shortest = min(map(len, prompts)) - 1  # the last token of a prompt predicts the answer: it belongs to its example
    common = next((i for i in range(shortest) if len({prompt[i] for prompt in prompts}) > 1), shortest)
    common = max(0, common) if len(pairs) > 1 else 0
    ids, answer, examples = list(prompts[0][:common]), [0] * common, [0] * common
    for number, (prompt, response) in enumerate(pairs, 1):
        ids += prompt[common:] + response
        answer += [0] * (len(prompt) - common) + [1] * len(response)
        examples += [number] * (len(prompt) - common + len(response))
    return ids, answer, examples
