"""What the page does, without the page: loaded checkpoints, visitors' adapters and streamed answers."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from text2lora import samples
from text2lora.adapter import LoraAdapter
from text2lora.arithmetic import cosine_matrix, cosine_range
from text2lora.attach import input_device
from text2lora.base import context_length
from text2lora.bundled import CHECKPOINTS
from text2lora.cards import quoted
from text2lora.encoder import check_descriptions
from text2lora.errors import CheckpointError, HubError, InvalidDescriptionError, InvalidInputError
from text2lora.inference import generate, pad_left, without_loop
from text2lora.injection import factors_of, inject_rows, stack_factors
from text2lora.modeling import Text2LoraModel
from text2lora.novelty import Novelty
from text2lora.turns import FittedPrompt, Stops, fit_turns, keeps_turns


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for.

    Attributes:
        description: The maximum length of a description, in characters.
        examples: The maximum number of examples to tune an adapter on.
        message: The maximum length of a message, in characters.
        turns: The number of earlier turns that a conversation includes.
        descriptions: The maximum number of descriptions to compare.
        new_tokens: The maximum length of an answer, in tokens; never more than half of the base's context.
        seconds: The time limit for an answer.
    """

    description: int = 1000
    examples: int = 16
    message: int = 4000
    turns: int = 20
    descriptions: int = 4
    new_tokens: int = 128
    seconds: float = 120.0


@dataclass(frozen=True, eq=False)  # compared by identity: weights cannot be hashed
class VisitorAdapter:
    """An adapter that a visitor has made; it is kept only in the visitor's session.

    Attributes:
        adapter: The adapter, at a scale of 1.
        novelty: How close its description is to those seen in training; None if the checkpoint has no statistics.
        seconds: The time it took to make.
        examples: The examples that it was tuned on.
    """

    adapter: LoraAdapter
    novelty: Novelty | None
    seconds: float
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def description(self) -> str:
        """The description that it was made from."""
        return self.adapter.metadata["description"]


@dataclass(frozen=True)
class Exchange:
    """A message and the answers of the base model and of the adapter so far."""

    message: str
    base: str = ""
    adapted: str = ""


@dataclass(frozen=True)
class ComparedAnswers:
    """Several descriptions, side by side.

    Attributes:
        cosines: The cosine between the delta W of each pair of adapters.
        unrelated: The smallest and largest cosine between adapters for different tasks, as a scale for `cosines`.
        answers: The answers so far, the base's first.
    """

    made: list[VisitorAdapter]
    cosines: list[list[float]]
    unrelated: tuple[float, float]
    answers: list[str]


class Engine:
    """A checkpoint and its base model, shared by all visitors.

    The base is never changed: in each pass every row of the batch gets its own adapter, or none. One pass runs at a
    time.

    Raises:
        CheckpointError: the base model cannot be loaded.
    """

    def __init__(self, model: Text2LoraModel, limits: Limits):
        self.model, self.limits = model.eval(), limits
        self._base: PreTrainedModel = model.load_base_model().eval()
        self._tokenizer = model.base_tokenizer
        known = samples.BY_BASE.get(model.config.base_model_name_or_path or "")
        self._remembers = keeps_turns(self._tokenizer) and not (known and known.single)
        self.samples = known or samples.for_any_text(context_length(self._base), self._remembers)
        self._lock = threading.Lock()
        model.encoder  # noqa: B018 - loaded now rather than for the first visitor

    def make(
        self, descriptions: Sequence[str], examples: Sequence[Sequence[tuple[str, str]]] | None = None
    ) -> list[VisitorAdapter]:
        """Make adapters from descriptions, in one pass, and tune those that have examples: inputs with right answers.

        Raises:
            InvalidDescriptionError: a description is empty, too long or not a text.
            InvalidInputError: there are too many examples, or one has no input or no answer.
        """
        if (most := max(map(len, examples or []), default=0)) > self.limits.examples:
            raise InvalidInputError(
                f"{most} examples are too many for this page: expected at most {self.limits.examples}"
            )
        for text in descriptions:
            if len(text) > self.limits.description:
                raise InvalidDescriptionError(
                    f"the description has {len(text):,} characters: expected {self.limits.description:,} at most; "
                    "say in a sentence or two what the adapter should do"
                )
        with self._lock:
            begin = time.perf_counter()
            texts = check_descriptions(descriptions)
            task_emb = self.model.encoder.encode(texts)
            adapters = self.model.generate_lora(texts, task_emb, examples=examples, base_model=self._base)
            seconds = time.perf_counter() - begin
            novelties = self.model.novelty(texts, task_emb) or [None] * len(adapters)
        given = examples or [()] * len(adapters)
        return [
            VisitorAdapter(adapter, novelty, seconds, tuple(pairs))
            for adapter, novelty, pairs in zip(adapters, novelties, given, strict=True)
        ]

    def chat(self, adapter: LoraAdapter, turns: Sequence[Exchange], message: str) -> Iterator[Exchange]:
        """Yield the next turn as it grows, for the base and the adapter at once; each sees only its own answers.

        Raises:
            InvalidInputError: the message is empty or too long.
        """
        self._check_message(message)
        kept = turns[-self.limits.turns :] if self._remembers else ()
        said = [[(turn.message, turn.base) for turn in kept], [(turn.message, turn.adapted) for turn in kept]]
        for base, adapted in self._stream([None, adapter], said, message):
            yield Exchange(message, base, adapted)

    def compare(self, descriptions: Sequence[str], message: str) -> Iterator[ComparedAnswers]:
        """Answer one message under several descriptions, and yield the answers as they grow.

        Raises:
            InvalidDescriptionError: a description is invalid (see `make`).
            InvalidInputError: there are too few or too many descriptions, or the message is invalid (see `chat`).
        """
        if len(descriptions) < 2:
            raise InvalidInputError("there is nothing to compare: fill in at least two descriptions")
        if len(descriptions) > self.limits.descriptions:
            raise InvalidInputError(
                f"{len(descriptions)} descriptions to compare: expected at most {self.limits.descriptions}"
            )
        self._check_message(message)
        made = self.make(descriptions)
        adapters = [one.adapter for one in made]
        cosines, unrelated = cosine_matrix(adapters).tolist(), self._unrelated
        rows = [None, *adapters]
        for answers in self._stream(rows, [[]] * len(rows), message):
            yield ComparedAnswers(made, cosines, unrelated, answers)

    @functools.cached_property
    def _unrelated(self) -> tuple[float, float]:
        """The smallest and largest cosine between the adapters of the sample descriptions, all different tasks."""
        return cosine_range([made.adapter for made in self.make(self.samples.descriptions)])

    def _check_message(self, message: str) -> None:
        if not message.strip():
            raise InvalidInputError("the input is empty: type something for the model to read")
        if len(message) > self.limits.message:
            raise InvalidInputError(
                f"the input has {len(message):,} characters: expected {self.limits.message:,} at most"
            )

    def _stream(
        self, adapters: Sequence[LoraAdapter | None], said: Sequence[Sequence[tuple[str, str]]], message: str
    ) -> Iterator[list[str]]:
        """Yield greedy answers to a message as they grow: one batch with an adapter and a history for each row.

        The pass runs in a thread, which ends and releases the model when this iterator is closed.
        """
        steps: SimpleQueue[torch.Tensor | Exception | None] = SimpleQueue()
        gone, stops = threading.Event(), Stops.of(self._tokenizer, self._base)

        def answer() -> None:
            try:
                device = input_device(self._base)
                factors = stack_factors([factors_of(adapter, device) if adapter else {} for adapter in adapters])
                with self._lock, torch.inference_mode(), inject_rows(self._base, factors):
                    prompts = [self._prompt(before, message) for before in said]
                    if not gone.is_set():
                        generate(
                            self._base,
                            self._tokenizer,
                            pad_left(self._tokenizer, [prompt.ids for prompt in prompts], device),
                            stops,
                            max_new_tokens=min(prompt.room for prompt in prompts),
                            max_time=self.limits.seconds,
                            streamer=_Steps(steps),
                            stopping_criteria=StoppingCriteriaList([_Gone(gone)]),
                        )
            except Exception as error:  # raised again where the answer is read
                steps.put(error)
            steps.put(None)

        threading.Thread(target=answer, daemon=True).start()
        tokens: list[torch.Tensor] = []
        try:
            while new := _take(steps):
                tokens += new
                rows = torch.stack(tokens, 1).tolist()
                texts = [stops.read(self._tokenizer, row) for row in rows]
                yield [text.strip().rstrip("\ufffd") for text in texts]  # a character may span several tokens
                if all(
                    len(stops.cut(row)) < len(row) or (adapter is None and without_loop(text) != text)
                    for adapter, row, text in zip(adapters, rows, texts, strict=True)
                ):
                    return
        finally:
            gone.set()

    def _prompt(self, said: Sequence[tuple[str, str]], message: str) -> FittedPrompt:
        """The message with its history, without the oldest turns if they exceed the base's context."""
        turns = []
        for asked, answered in said:
            turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        turns.append({"role": "user", "content": message})
        return fit_turns(self._tokenizer, turns, context_length(self._base), self.limits.new_tokens)


class Service:
    """The checkpoints that visitors may choose from; each is loaded when first chosen, and stays in memory.

    Args:
        names: The checkpoints: `smol`, `nano`, folders or Hub ids. A folder inside a Hub repository follows its
            id, as in `SakanaAI/text-to-lora/trained_t2l/gemma_2b_t2l`.
        device: The device that they run on.
        limits: What each visitor may ask for.
        own_login: Whether to push with this machine's login when a visitor enters no token.
    """

    def __init__(
        self, names: Sequence[str], device: str = "cpu", limits: Limits | None = None, own_login: bool = False
    ):
        self.names, self.device, self.own_login = list(dict.fromkeys(names)), device, own_login
        self.limits = limits or Limits()
        self._engines: dict[str, Engine] = {}
        self._loading = threading.Lock()

    def is_loaded(self, name: str) -> bool:
        """Whether the checkpoint is loaded already."""
        return name in self._engines

    def engine(self, name: str) -> Engine:
        """Return one of the checkpoints, and load it if necessary.

        Raises:
            CheckpointError: the checkpoint is not offered or cannot be loaded.
        """
        if name not in self.names:
            raise CheckpointError(f"{name!r} is not offered here: expected one of {', '.join(self.names)}")
        if self.is_loaded(name):  # without waiting for another one that is being loaded
            return self._engines[name]
        with self._loading:
            if name not in self._engines:
                source, subfolder = split_name(name)
                model = Text2LoraModel.from_pretrained(source, subfolder=subfolder, device_map=self.device)
                self._engines[name] = Engine(model, self.limits)
            return self._engines[name]

    def push(self, adapter: LoraAdapter, repo_id: str, token: str, private: bool = False) -> str:
        """Push an adapter to the Hub and return its address.

        Raises:
            HubError: there is no token, it may not write, the repository holds something else, or the Hub cannot be
                reached.
        """
        token = token.strip()
        if not token and not self.own_login:
            raise HubError("no token was given: create one with write access at huggingface.co/settings/tokens")
        if not repo_id.strip():
            raise HubError("no repository was given: expected NAME or USER/NAME")
        commit = adapter.push_to_hub(repo_id.strip(), token=token or None, private=private or None)
        return str(commit.repo_url)


class _Steps(BaseStreamer):
    """Puts the tokens of each step [rows] into a queue, except those of the prompt."""

    def __init__(self, steps: SimpleQueue):
        self._steps, self._prompted = steps, False

    def put(self, value: torch.Tensor) -> None:
        """Receive the tokens of a step."""
        if self._prompted:
            self._steps.put(value)
        self._prompted = True

    def end(self) -> None:
        """Nothing is left to do at the end."""


class _Gone(StoppingCriteria):
    """Stops all rows when nobody reads them any more."""

    def __init__(self, gone: threading.Event):
        self._gone = gone

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._gone.is_set(), device=input_ids.device)


def _take(steps: SimpleQueue) -> list[torch.Tensor]:
    """All steps that have arrived, waiting for at least one; empty at the end. Raises an error that has arrived."""
    found = [steps.get()]
    while found[-1] is not None and not steps.empty():
        found.append(steps.get())
    for item in found:
        if isinstance(item, Exception):
            raise item
    if found[-1] is None and len(found) > 1:
        steps.put(None)  # for the next call
    return [item for item in found if item is not None]


def split_name(name: str) -> tuple[str, str]:
    """Split a checkpoint's name into a source and the folder inside it, which is whatever follows a Hub id."""
    parts = name.split("/")
    if name in CHECKPOINTS or len(parts) < 3 or parts[0] in ("", ".", "..", "~") or Path(name).is_dir():
        return name, ""
    return "/".join(parts[:2]), "/".join(parts[2:])


def snippet(name: str, description: str, scale: float, examples: Sequence[tuple[str, str]] = ()) -> str:
    """Python code that makes the same adapter."""
    source, subfolder = split_name(name)
    at = quoted(source) + (f", subfolder={quoted(subfolder)}" if subfolder else "")
    strength = f", scale={scale:g}" if scale != 1 else ""
    taught = ", examples=examples" if examples else ""
    pairs = "".join(f"    ({quoted(given)}, {quoted(answer)}),\n" for given, answer in examples)
    return (
        "from text2lora import Text2LoraModel\n"
        f"t2l = Text2LoraModel.from_pretrained({at})\n"
        + (f"examples = [\n{pairs}]\n" if pairs else "")
        + f"model = t2l.generate_adapter({quoted(description)}{strength}{taught})"
    )
