"""The exceptions of text2lora. Every message says what was given, what was expected and what to do."""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Iterator


class _Short(reprlib.Repr):
    def repr_instance(self, x: object, level: int) -> str:
        """An object whose own text has several lines, such as a model, is shown by its class."""
        text = super().repr_instance(x, level)
        return type(x).__name__ if "\n" in text else text


def shown(value: object) -> str:
    """A value in an error message: one short line."""
    return " ".join(_Short().repr(value).split())[:100]


class Text2LoraError(Exception):
    """The root of all errors that text2lora raises on purpose. What it says is one line."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


def causes(error: BaseException, contexts: bool = False) -> Iterator[BaseException]:
    """An error and what caused it, one after another, each once: the causes of an error may be a circle.

    Args:
        error: the error.
        contexts: whether an error without a cause was caused by the one that was handled when it was raised.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (found.__context__ if contexts else None)


@contextlib.contextmanager
def about(what: str, number: int, count: int = 0) -> Iterator[None]:
    """Lets an error of the block begin with which of several things it is about.

    Args:
        what: what they are, such as `example`.
        number: which of them it is, from 1.
        count: how many there are, which is shown, too; a single one needs no number. 0 shows the number alone.
    """
    try:
        yield
    except Text2LoraError as error:
        if count == 1:
            raise
        raise type(error)(f"{what} {number}{f' of {count}' if count else ''}: {error}") from error


class DescriptionWarning(UserWarning):
    """A task description is far from all training descriptions, so its adapter may do something else."""


class InvalidDescriptionError(Text2LoraError, ValueError):
    """A task description that cannot be used: not a string, empty, or with control characters."""


class InvalidInputError(Text2LoraError, ValueError):
    """An input for the base model that cannot be used: empty, or too long."""


class InvalidArgumentError(Text2LoraError, ValueError):
    """An argument that cannot be used: of another type, out of range, or not together with the others."""


class CheckpointError(Text2LoraError, ValueError):
    """A checkpoint or adapter that is missing, incomplete or does not fit."""


class MissingExtraError(Text2LoraError, ImportError):
    """A package of an optional extra is not installed."""


class OutputError(Text2LoraError, OSError):
    """A target that cannot be written, or that contains something else."""


class ServerError(Text2LoraError, OSError):
    """A chat server that cannot be reached, or that answers with something else.

    Attributes:
        status: the HTTP status of its refusal; None if it did not refuse.
    """

    status: int | None = None


class HubError(Text2LoraError, OSError):
    """A push to the Hub that is not possible, for example without a login or permission, or without an answer."""


class TaskError(Text2LoraError, ValueError):
    """Tasks to train or to evaluate on that cannot be read or used."""


class TrainingError(Text2LoraError, RuntimeError):
    """A training run that cannot go on, or a recipe that cannot be read."""


class TrainingInterrupted(TrainingError):
    """A training run that was stopped by Ctrl-C or SIGTERM; its state is saved."""


class EvaluationError(Text2LoraError, RuntimeError):
    """An evaluation that cannot be run: an unknown task, data that cannot be read, a server that does not answer."""


class ServingError(Text2LoraError, RuntimeError):
    """Adapters that a server cannot make: a setting cannot be used, or the base model is another one."""


class LimitError(ServingError):
    """An adapter that a server does not make now: there are too many new ones in this minute, or there is no room."""
