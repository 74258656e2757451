"""Answers of a model, with and without an adapter."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TextStreamer,
)
from transformers.cache_utils import DynamicLayer

from text2lora.arguments import check_count, checked
from text2lora.attach import input_device
from text2lora.errors import InvalidInputError, about
from text2lora.turns import Stops, as_turn, batches_by_length, padding_id

if TYPE_CHECKING:
    from peft import PeftModel

KEPT = {
    "bos_token_id",
    "compile_config",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "eos_token_id",
    "low_memory",
    "max_length",
    "pad_token_id",
    "prefill_chunk_size",
    "transformers_version",
    "use_cache",
}
"""Fields of a generation config that change no greedy answer, or that are given with every call."""


LOOP = re.compile(r"(?s)((?!\d)(?:(?<!\w)|(?=\W)).{1,40}?)\1{3,}.*")
"""The same words four times, and what follows: base models that do not know a task often do not stop."""

SAVED = 64
"""The tokens that a shared beginning must save a batch; fewer do not pay for the pass that reads it."""


def greedy_settings() -> dict[str, Any]:
    """Settings of `generate` for the most likely token each time, whatever the model's generation config says.

    Penalties, forced and suppressed tokens, beams, sampling and the like would give other answers than those that the
    loss and the exact match of training measure.
    """
    fields = [name for name in vars(GenerationConfig()) if not name.startswith("_") and name not in KEPT]
    return dict.fromkeys(fields) | {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}


@checked(InvalidInputError)
def generate_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int = 64,
    batch_size: int = 32,
) -> list[str]:
    """Greedy answers to prompts, each as one user turn if the tokenizer has a chat template.

    Args:
        model: a causal language model, or a PeftModel with its active adapter.
        tokenizer: the base model's tokenizer.
        prompts: what the user says; prompts of similar length share a batch, padded on the left.
        max_new_tokens: the longest answer, in tokens.
        batch_size: the number of prompts to answer at a time.

    Returns:
        The answers in the order of the prompts, without special tokens and surrounding white space.
    """
    texts = [as_turn(tokenizer, prompt) for prompt in prompts]
    return [text.strip() for text in complete(model, tokenizer, texts, max_new_tokens, batch_size)]


@checked(InvalidInputError)
def complete(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_new_tokens: int = 64,
    batch_size: int = 32,
    stop: Sequence[str] = (),
    on_text: Callable[[str], None] | None = None,
) -> list[str]:
    """Greedy continuations of texts that are already in the form that the model reads.

    They end where training ends an answer, and where the model's generation config says so.

    Args:
        model: a causal language model, or a PeftModel with its active adapter.
        tokenizer: the base model's tokenizer.
        texts: the texts to continue, with the marks of the chat template if the tokenizer has one.
        max_new_tokens: the longest continuation, in tokens.
        batch_size: the number of texts at a time; texts of similar length share a batch, padded on the left.
        stop: texts before which a continuation ends.
        on_text: receives the continuation of a single text piece by piece, as it is written.

    Returns:
        The continuations in the order of the texts, without special tokens.
    """
    ids = [tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"] for text in texts]
    return [found.text for found in complete_ids(model, tokenizer, ids, max_new_tokens, batch_size, stop, on_text)]


class Continuation(NamedTuple):
    """What a model wrote.

    Attributes:
        text: without special tokens.
        log_probs: the log probability of each token that was written, including the one that ends the answer.
    """

    text: str
    log_probs: list[float]


@torch.inference_mode()
def complete_ids(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[list[int]],
    max_new_tokens: int = 64,
    batch_size: int = 32,
    stop: Sequence[str] = (),
    on_text: Callable[[str], None] | None = None,
    within: Callable[[Sequence[int]], AbstractContextManager[None]] | None = None,
    owners: Sequence[Hashable] | None = None,
) -> list[Continuation]:
    """`complete` of texts that are tokens already, with the probabilities of what is written.

    Texts of a batch that begin alike, for example with the same system message, have their beginning read once. A batch
    runs in `within`, given which of the texts are its rows: there, each can get an adapter of its own. `owners` has the
    adapter of each text, or what stands for it; None if all texts have the same.
    """
    check_count(max_new_tokens, "max_new_tokens")
    check_count(batch_size, "batch_size")
    for number, tokens in enumerate(ids, 1):
        with about("text", number, len(ids)):
            if not tokens:
                raise InvalidInputError("the text is empty: expected one of at least one token")
    answers = [Continuation("", [])] * len(ids)
    stops = Stops.of(tokenizer, model, stop)
    for rows in batches_by_length(ids, batch_size):
        context = within or (lambda rows: nullcontext())
        shared, cache = _read_beginning(model, ids, rows, owners, context)
        inputs = pad_left(tokenizer, [ids[i] for i in rows], input_device(model), shared)
        streamer = _Pieces(tokenizer, stops, on_text) if on_text else None
        watch = _LogProbs()
        with context(rows):
            output = generate(
                model,
                tokenizer,
                inputs,
                stops,
                max_new_tokens=max_new_tokens,
                streamer=streamer,
                logits_processor=LogitsProcessorList([watch]),
                **({"past_key_values": cache} if cache else {}),
            )
        new = output[:, inputs["input_ids"].shape[1] :].tolist()
        log_probs = torch.stack(watch.best, 1).tolist()
        for i, tokens, values in zip(rows, new, log_probs, strict=True):
            text, length = stops.read(tokenizer, tokens), len(stops.cut(tokens)) + 1
            if text != tokenizer.decode(tokens[: length - 1], skip_special_tokens=True):  # a stop text ended it
                length = max(n for n in range(length) if n == 0 or tokens[n - 1] != inputs["pad_token_id"])
            answers[i] = Continuation(text, values[:length])
    return answers


def _read_beginning(
    model: PreTrainedModel | PeftModel,
    ids: Sequence[list[int]],
    rows: Sequence[int],
    owners: Sequence[Hashable] | None,
    within: Callable[[Sequence[int]], AbstractContextManager[None]],
) -> tuple[int, DynamicCache | None]:
    """The number of tokens with which all rows of a batch begin, and the base's cache of them; 0 if it does not pay.

    The beginning is read once under each adapter. The padding of a batch then follows it. That is right for models of
    text alone whose layers all attend to every token, and which take positions as an argument.
    """
    texts = [ids[row] for row in rows]
    longest = min(map(len, texts)) - 1  # an answer needs a token to follow
    shared = next((at for at in range(longest) if len({text[at] for text in texts}) > 1), longest)
    first: dict[Hashable, int] = {}
    places = [first.setdefault(owners[row] if owners else None, len(first)) for row in rows]
    if shared * (len(rows) - len(first)) < SAVED or model.generation_config.use_cache is False:
        return 0, None
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    cache = DynamicCache(config=plain.config)
    options = inspect.signature(plain.forward).parameters
    usual = plain.config.get_text_config() is plain.config and "position_ids" in options
    if not (usual and cache.layers and all(type(layer) is DynamicLayer for layer in cache.layers)):
        return 0, None
    with within([rows[places.index(place)] for place in range(len(first))]):
        beginning = torch.tensor([texts[0][:shared]] * len(first), device=input_device(model))
        last = {"logits_to_keep": 1} if "logits_to_keep" in options else {}
        model(input_ids=beginning, past_key_values=cache, use_cache=True, **last)
    cache.batch_select_indices(torch.tensor(places, device=beginning.device))
    return shared, cache


def generate(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, inputs: Batch, stops: Stops, **options: Any
) -> torch.Tensor:
    """Greedy tokens [n, longest + new] of a batch, up to and with what ends each answer.

    The options are those of the model's `generate`, such as `max_new_tokens`.
    """
    ends: dict[str, Any] = {"eos_token_id": list(stops.ids) or None}
    ends |= {"stop_strings": list(stops.texts), "tokenizer": tokenizer} if stops.texts else {}
    found: torch.Tensor = model.generate(**inputs, **(greedy_settings() | ends | options))
    return found


class _LogProbs(LogitsProcessor):
    """Keeps the log probability of the most likely token, [n] at each step, and changes nothing."""

    def __init__(self) -> None:
        self.best: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        exact = scores.float()
        self.best.append(exact.amax(-1) - exact.logsumexp(-1))
        return scores


class _Pieces(TextStreamer):
    """Hands on what is written, where transformers' own class prints it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Stops, on_text: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.stops, self.on_text = stops, on_text

    def put(self, value: torch.Tensor) -> None:
        """Receive tokens of one row."""
        if self.next_tokens_are_prompt or value.item() not in self.stops.ids:  # an end need not be a special token
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass on text that no further token changes."""
        self.on_text(text)


def without_loop(answer: str) -> str:
    """An answer to show beside others, cut where it repeats the same again and again."""
    return LOOP.sub(lambda found: 3 * found[1] + "…", answer)


class Batch(TypedDict):
    """What `generate` takes: ids and mask [n, longest], and the padding token."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pad_token_id: int


def pad_left(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], device: torch.device, shared: int = 0
) -> Batch:
    """Token ids as a batch, padded on the left, or behind the `shared` tokens with which all rows begin.

    The tokenizer's own settings stay, since threads may share it.
    """
    pad = padding_id(tokenizer)
    width = max(len(row) for row in rows)
    gaps = [width - len(row) for row in rows]
    ids = [row[:shared] + gap * [pad] + row[shared:] for row, gap in zip(rows, gaps, strict=True)]
    mask = [shared * [1] + gap * [0] + (width - gap - shared) * [1] for gap in gaps]
    return Batch(
        input_ids=torch.tensor(ids, device=device), attention_mask=torch.tensor(mask, device=device), pad_token_id=pad
    )
