"""Adapters as functions from text to text, over one base model in memory."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NoReturn, Self, overload
from weakref import WeakValueDictionary

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.adapter import LoraAdapter
from text2lora.arguments import check_count, fits
from text2lora.attach import fit_modules, input_device
from text2lora.base import context_length
from text2lora.confidence import carried_calibration, confidence
from text2lora.errors import CheckpointError, InvalidInputError, about, shown
from text2lora.inference import complete_ids
from text2lora.injection import factors_of, inject_rows, stack_factors
from text2lora.language import answer_logits, check_text, fit_answers, prompt_batch
from text2lora.sharing import fingerprint, is_changed
from text2lora.together import Together
from text2lora.turns import AnswerForm, FittedPrompt, batches_by_length, fit_turns

TARGETS = 1024
"""Labels that are scored in one pass, over all of its texts."""

_RUNNERS: WeakValueDictionary[tuple[str, ...], Runner] = WeakValueDictionary()
_LOADING = threading.Lock()


@dataclass(frozen=True)
class Answer:
    """An answer, and how far it can be trusted.

    Attributes:
        text: the answer.
        confidence: how likely the answer is to be right, from 0 to 1, estimated from the probabilities of its tokens;
            with labels, the probability of the chosen one among them.
        probabilities: the probability of each label, most likely first; None for a function without labels.
    """

    text: str
    confidence: float
    probabilities: dict[str, float] | None = None


class Function:
    """An adapter as a function from text to text. `Text2LoraModel.function` and `text2lora.function` make one.

    All functions of a base model share its weights in memory. Several threads may call them, and each call uses only
    its own adapter. Like `t2l run`, a function answers greedily, in the chat format of the base model.

    ```python
    fn("one text")  # the answer
    fn.many(["one text", "another"])  # answers in this order, computed in batches
    await fn.acall("one text")  # for servers: calls that wait at the same time share a batch
    fn("one text", with_confidence=True)  # an `Answer` with its confidence
    fn.scores("one text")  # with labels: the probability of each
    ```

    Attributes:
        adapter: the adapter; to keep it, use `fn.adapter.save_pretrained("folder")`.
        labels: the only answers that the function may give, or None.
        max_new_tokens: the longest answer, in tokens.
        stop: texts that end an answer.
        calibration: what the confidence of answers is computed with; adapters carry that of their
            checkpoint. None if there is none: then it is the probability that the model gives to the answer.
    """

    def __init__(
        self,
        runner: Runner,
        adapter: LoraAdapter,
        labels: Sequence[str] | None = None,
        max_new_tokens: int = 64,
        stop: str | Sequence[str] = (),
    ):
        self.adapter = adapter
        if not isinstance(runner, Runner) or not isinstance(adapter, LoraAdapter):
            raise InvalidInputError(
                f"expected a Runner and a LoraAdapter, got {shown(runner)} and {shown(adapter)}: make a function with "
                "Text2LoraModel.function or text2lora.function"
            )
        self.labels, self.max_new_tokens, self.stop = check_settings(labels, max_new_tokens, stop)
        self.calibration = carried_calibration(adapter.metadata)
        self._runner = runner
        self._factors = factors_of(fit_modules(adapter, runner.model), input_device(runner.model))
        if self.labels and not AnswerForm.of(runner.tokenizer).end:
            raise InvalidInputError(
                "labels need a token that ends an answer, but the base model's tokenizer has none: give it an "
                "eos_token, or leave out labels"
            )

    @overload
    def __call__(self, text: str, with_confidence: Literal[False] = False) -> str: ...

    @overload
    def __call__(self, text: str, with_confidence: Literal[True]) -> Answer: ...

    def __call__(self, text: str, with_confidence: bool = False) -> str | Answer:
        """The answer to a text.

        Args:
            text: the text.
            with_confidence: whether to return an `Answer` with its confidence instead of a string.

        Raises:
            InvalidInputError: the text is empty, not a string, or longer than the base model can read.
        """
        return self.many([text], 1, with_confidence)[0]  # type: ignore[call-overload]

    @overload
    def many(
        self, texts: Sequence[str], batch_size: int = 32, with_confidence: Literal[False] = False
    ) -> list[str]: ...

    @overload
    def many(self, texts: Sequence[str], batch_size: int = 32, *, with_confidence: Literal[True]) -> list[Answer]: ...

    def many(
        self, texts: Sequence[str], batch_size: int = 32, with_confidence: bool = False
    ) -> list[str] | list[Answer]:
        """The answers to many texts, in their order, as if each were asked alone.

        Args:
            texts: the texts to answer.
            batch_size: the number of texts to answer at a time; texts of similar length share a batch.
            with_confidence: see `__call__`.

        Raises:
            InvalidInputError: see `__call__`; nothing is answered then.
        """
        if isinstance(texts, str | bytes):
            raise InvalidInputError("many takes a list of texts, got one text: call the function itself on it")
        calls = [(self, text) for text in _as_tuple(texts, "texts")]
        return call_many(calls, batch_size, with_confidence)  # type: ignore[call-overload]

    @overload
    async def acall(self, text: str, with_confidence: Literal[False] = False) -> str: ...

    @overload
    async def acall(self, text: str, with_confidence: Literal[True]) -> Answer: ...

    async def acall(self, text: str, with_confidence: bool = False) -> str | Answer:
        """The answer to a text, without blocking the event loop.

        Calls of this function and of others on the same base model share a batch if they wait at the same time.

        Args:
            text: the text.
            with_confidence: see `__call__`.

        Raises:
            InvalidInputError: see `__call__`.
        """
        _check_flag(with_confidence)
        found = await asyncio.wrap_future(self._runner.together.submit(self._ask(text)))
        return found if with_confidence else found.text

    @overload
    def scores(self, text: str) -> dict[str, float]: ...

    @overload
    def scores(self, text: list[str] | tuple[str, ...], batch_size: int = 32) -> list[dict[str, float]]: ...

    def scores(self, text: str | Sequence[str], batch_size: int = 32) -> dict[str, float] | list[dict[str, float]]:
        """The probability of each label, most likely first; they add up to 1.

        They come from the log probability that the model gives to the whole label and the end of the answer.

        Args:
            text: a text, or a list of texts, which gives a list.
            batch_size: the number of texts to score at a time.

        Raises:
            InvalidInputError: the function has no labels, or see `__call__`.
        """
        if self.labels is None:
            raise InvalidInputError('this function has no labels to score: make it with labels=["...", "..."]')
        single = isinstance(text, str)
        questions = [self._ask(one) for one in ([text] if isinstance(text, str) else _as_tuple(text, "text"))]
        answers = self._runner.score(questions, check_count(batch_size, "batch_size"))
        found = [answer.probabilities or {} for answer in answers]
        return found[0] if single else found

    def check(self, text: str) -> None:
        """Check that a text can be answered, without answering it.

        Raises:
            InvalidInputError: see `__call__`.
        """
        self._ask(text)

    def __repr__(self) -> str:
        noted = self.adapter.metadata
        made = repr(noted.get("description") or self.adapter.spec.base_model_name_or_path)
        if "description" not in noted and (count := noted.get("examples")):
            made = f"from {count} example{'s' * (count != '1')}"
        return f"Function({made}{f', labels={list(self.labels)}' if self.labels else ''})"

    def __copy__(self) -> Self:
        made = object.__new__(type(self))
        vars(made).update(vars(self))
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy uses the same base model, as all functions do."""
        made = copy.copy(self)
        made.adapter = copy.deepcopy(self.adapter, memo)
        return made

    def __reduce__(self) -> NoReturn:
        raise InvalidInputError(
            "a function cannot be pickled, because its base model stays in this process: send fn.adapter, and call "
            "text2lora.function(adapter) in the other process"
        )

    def _ask(self, text: str) -> Question:
        """A text as the base model reads it."""
        text = check_text(text)
        tokenizer, context = self._runner.tokenizer, context_length(self._runner.model)
        if self.labels:
            return Question(self, text, fit_answers(tokenizer, text, self.labels, context))
        turn = {"role": "user", "content": text}
        return Question(self, text, fit_turns(tokenizer, [turn], context, self.max_new_tokens))


@dataclass(frozen=True)
class Question:
    """A text for a function, and what the base model reads of it."""

    function: Function
    text: str
    prompt: FittedPrompt


@overload
def call_many(
    calls: Sequence[tuple[Function, str]], batch_size: int = 32, with_confidence: Literal[False] = False
) -> list[str]: ...


@overload
def call_many(
    calls: Sequence[tuple[Function, str]], batch_size: int = 32, *, with_confidence: Literal[True]
) -> list[Answer]: ...


def call_many(
    calls: Sequence[tuple[Function, str]], batch_size: int = 32, with_confidence: bool = False
) -> list[str] | list[Answer]:
    """Answer calls of several functions, in their order; a batch may mix functions of the same base model.

    Args:
        calls: functions, each with a text.
        batch_size: the number of texts to answer at a time.
        with_confidence: whether to return `Answer`s with their confidence instead of strings.

    Raises:
        InvalidInputError: see `Function.__call__`; nothing is answered then.
    """
    if not fits(calls, Sequence[tuple[Function, Any]]):
        raise InvalidInputError(f"calls is {shown(calls)}: expected pairs of a function and a text")
    size = check_count(batch_size, "batch_size")
    _check_flag(with_confidence)
    questions = []
    for number, (function, text) in enumerate(calls, 1):
        with about("text", number, len(calls)):
            questions.append(function._ask(text))
    found: list[Answer] = _in_groups(questions, lambda q: id(q.function._runner), partial(_answer, batch_size=size))
    return found if with_confidence else [answer.text for answer in found]


class Runner:
    """A base model that answers under many adapters, a batch at a time; every row of a batch has its own adapter.

    Args:
        model: the base model, which nothing else runs or changes (see `sharing.share`).
        tokenizer: the base model's tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.model, self.tokenizer = model.eval(), tokenizer
        self._fingerprint = fingerprint(model)
        self._lock = threading.Lock()  # of the model: adapters are on it for a batch
        self.together = Together(_answer)  # which does not hold this runner, so that both go with the last function

    @property
    def is_changed(self) -> bool:
        """Whether a model that shares the weights has changed them."""
        return is_changed(self.model, self._fingerprint)

    @classmethod
    def shared(cls, key: tuple[str, ...], make: Callable[[], Runner]) -> Runner:
        """The runner that was made for a key, as long as a function uses it and it is unchanged; else a new one."""
        with _LOADING:
            runner = _RUNNERS.get(key)
            if runner is None or runner.is_changed:
                runner = _RUNNERS[key] = make()
            return runner

    def answer(self, questions: Sequence[Question], batch_size: int) -> list[Answer]:
        """The answers to questions, in their order."""

        def alike(some: Sequence[Question]) -> list[Answer]:
            function = some[0].function
            if function.labels:
                return self.score(some, batch_size)
            ids = [question.prompt.ids for question in some]
            answers = complete_ids(
                self.model,
                self.tokenizer,
                ids,
                some[0].prompt.room,
                batch_size,
                function.stop,
                within=lambda rows: self._adapted([some[row].function for row in rows]),
                owners=[id(question.function._factors) for question in some],
            )
            return [
                Answer(answer.text.strip(), confidence(answer.log_probs, question.function.calibration))
                for question, answer in zip(some, answers, strict=True)
            ]

        return _in_groups(
            questions, lambda q: (q.function.labels, q.function.stop, q.function.labels or q.prompt.room), alike
        )

    @torch.inference_mode()
    def score(self, questions: Sequence[Question], batch_size: int) -> list[Answer]:
        """The most likely label under each question, with the probability of each; all have the same labels."""
        if not questions:
            return []
        labels = questions[0].function.labels or ()
        at_a_time = min(batch_size, max(1, TARGETS // len(labels)))
        found = [Answer("", 0.0)] * len(questions)
        for rows in batches_by_length([question.prompt.ids for question in questions], at_a_time):
            examples = [(questions[i].text, label) for i in rows for label in labels]
            batch = prompt_batch(self.tokenizer, examples, pack=len(labels), model=self.model)
            batch = batch.to(input_device(self.model))
            with self._adapted([questions[i].function for i in rows]):
                logits, targets = answer_logits(self.model, batch)
            each = -torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").double()
            for i, values in zip(rows, batch.sums(each).view(len(rows), -1).softmax(1).tolist(), strict=True):
                ranked = sorted(zip(labels, values, strict=True), key=operator.itemgetter(1), reverse=True)
                found[i] = Answer(*ranked[0], dict(ranked))
        return found

    @contextlib.contextmanager
    def _adapted(self, functions: Sequence[Function]) -> Iterator[None]:
        """The model for one batch, each row under the adapter of its function."""
        if self.is_changed:
            raise CheckpointError(
                "the base model of this function was changed in place, through a model of generate_adapter that shares "
                "its weights: make the function again, and train a base from load_base_model() instead"
            )
        factors = stack_factors([function._factors for function in functions])
        with self._lock, inject_rows(self.model, factors):
            yield


def _answer(questions: Sequence[Question], batch_size: int = 32) -> list[Answer]:
    """The answers to questions for functions of one runner."""
    return questions[0].function._runner.answer(questions, batch_size)


def _in_groups(items: Sequence[Any], key: Callable[[Any], object], run: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """The results of `run` on the items of each key, in the order of the items."""
    groups: dict[object, list[int]] = {}
    for i, item in enumerate(items):
        groups.setdefault(key(item), []).append(i)
    results: list[Any] = [None] * len(items)
    for places in groups.values():
        for place, result in zip(places, run([items[i] for i in places]), strict=True):
            results[place] = result
    return results


def check_settings(
    labels: Sequence[str] | None, max_new_tokens: int, stop: str | Sequence[str]
) -> tuple[tuple[str, ...] | None, int, tuple[str, ...]]:
    """How a function answers, as it keeps it.

    Raises:
        InvalidInputError: labels, `max_new_tokens` or `stop` cannot be used.
    """
    checked = None if labels is None else _check_labels(labels)
    return checked, check_count(max_new_tokens, "max_new_tokens"), _check_stop(stop)


def _check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    given = () if isinstance(labels, str | bytes) else _as_tuple(labels, "labels")
    if len(given) < 2 or not all(isinstance(label, str) and label.strip() for label in given):
        raise InvalidInputError(
            f'labels are {shown(labels)}: expected two or more texts, none of them empty, such as ["urgent", "later"]'
        )
    if len(set(given)) < len(given):
        twice = next(label for label in given if given.count(label) > 1)
        raise InvalidInputError(f"labels contain {shown(twice)} more than once: give each label once")
    return given


def _check_stop(stop: str | Sequence[str]) -> tuple[str, ...]:
    given = (stop,) if isinstance(stop, str) else _as_tuple(stop, "stop")
    if not all(isinstance(text, str) and text for text in given):
        raise InvalidInputError(f"stop is {shown(stop)}: expected texts that end an answer, without empty ones")
    return given


def _as_tuple(values: Iterable[Any], name: str) -> tuple[Any, ...]:
    try:
        return tuple(values)
    except TypeError as error:
        raise InvalidInputError(f"{name} is {shown(values)}: expected a list of texts") from error


def _check_flag(with_confidence: bool) -> None:
    if not isinstance(with_confidence, bool):
        raise InvalidInputError(f"with_confidence is {shown(with_confidence)}: expected True or False")
