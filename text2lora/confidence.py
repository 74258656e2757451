"""How likely an answer is to be right, from the probabilities of its tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from text2lora.arguments import checked, checked_class
from text2lora.errors import CheckpointError, InvalidInputError, OutputError, shown
from text2lora.files import first_line, read_text, write_atomically

FILE_NAME = "confidence.json"

AFTER_TUNING = ("tuned", "left_out")
"""The numbers that only adapters tuned on examples need; without them, such an adapter is judged as any other."""


@checked_class(CheckpointError)
@dataclass(frozen=True)
class Calibration:
    """A logistic regression on the log probabilities of an answer's tokens: 1 / (1 + exp(-score)).

    Attributes:
        total: the weight of their sum, which is the log probability of the whole answer.
        mean: the weight of their mean.
        least: the weight of the least of them.
        bias: the score of an answer that the model is sure of.
        tuned: what is added to the score for an adapter that was tuned on examples.
        left_out: the weight of the share of left-out examples that such an adapter answers right.
    """

    total: float
    mean: float
    least: float
    bias: float
    tuned: float = 0.0
    left_out: float = 0.0

    @checked(InvalidInputError)
    def after_tuning(self, share: float) -> Calibration:
        """The calibration of an adapter that was tuned on examples, which has nothing left to add.

        Args:
            share: the share of the left-out examples that the adapter answers right, from 0 to 1.

        Raises:
            InvalidInputError: the share is not such a number.
        """
        if not 0 <= share <= 1:
            raise InvalidInputError(f"the share is {shown(share)}: expected a number from 0 to 1")
        bias = self.bias + self.tuned + self.left_out * share
        return Calibration(self.total, self.mean, self.least, float(f"{bias:.6g}"))

    def confidence(self, log_probs: Sequence[float]) -> float:
        """How likely an answer is to be right, from 0 to 1.

        Args:
            log_probs: the log probabilities of the answer's tokens, including the end.

        Raises:
            InvalidInputError: they are not numbers.
        """
        if not isinstance(log_probs, Sequence) or not all(isinstance(v, int | float) and v == v for v in log_probs):
            raise InvalidInputError(f"log_probs are {shown(log_probs)}: expected numbers")
        total, mean, least = features(log_probs)
        score = self.bias + self.total * total + self.mean * mean + self.least * least
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, score))))

    def __str__(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value or name not in AFTER_TUNING})

    @classmethod
    def parse(cls, text: str) -> Calibration:
        """Read what `str` wrote.

        Raises:
            CheckpointError: the text is not a calibration.
        """
        try:
            values = json.loads(text)
            if not isinstance(values, dict) or not all(isinstance(v, int | float) for v in values.values()):
                raise ValueError("not an object of numbers")
            return cls(**{name: float(value) for name, value in values.items()})
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{shown(text)} is not a calibration ({first_line(error)})") from error

    @checked(OutputError)
    def save(self, folder: Path) -> Path:
        """Write the calibration into a checkpoint's folder.

        Raises:
            OutputError: the folder cannot be written.
        """
        write_atomically(folder / FILE_NAME, f"{self}\n")
        return folder / FILE_NAME

    @classmethod
    @checked(CheckpointError)
    def load(cls, path: Path) -> Calibration:
        """Read a calibration from a file.

        Raises:
            CheckpointError: the file does not contain a calibration.
        """
        try:
            return cls.parse(read_text(path, CheckpointError))
        except CheckpointError as error:
            raise CheckpointError(
                f"{path} does not contain a calibration of answers ({error}): download it again, or delete it"
            ) from error

    @classmethod
    @checked(InvalidInputError)
    def fit(
        cls,
        log_probs: Sequence[Sequence[float]],
        right: Sequence[bool],
        left_out: Sequence[float | None] | None = None,
    ) -> Calibration:
        """Fit a calibration to answers that are known to be right or wrong.

        Args:
            log_probs: the log probabilities of the tokens of each answer.
            right: whether each answer is right.
            left_out: for each answer, the share of left-out examples that its adapter answers right; None for an
                adapter that was not tuned on examples. Without it, none was.

        Raises:
            InvalidInputError: there are fewer than two answers, or not one of them for each of the others.
            CheckpointError: no calibration fits them.
        """
        shares = [None] * len(right) if left_out is None else left_out
        if not len(log_probs) == len(right) == len(shares) or len(right) < 2:
            raise InvalidInputError(
                f"{len(log_probs)} answers, of which {len(right)} are known to be right or wrong, and {len(shares)} "
                "shares of left-out examples: expected two or more, and as many of each"
            )
        rows = [
            (*features(values), float(share is not None), share or 0.0)
            for values, share in zip(log_probs, shares, strict=True)
        ]
        used = slice(None) if any(row[3] for row in rows) else slice(3)
        weights, bias = fit_logistic(torch.tensor(rows, dtype=torch.float64)[:, used], torch.tensor(right))
        total, mean, least, *after = weights.tolist()
        return cls(*(float(f"{value:.6g}") for value in (total, mean, least, bias, *after)))


def fit_logistic(inputs: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Weights [k] and bias of a logistic regression of `right` [n] on the inputs [n, k].

    There is a little weight decay on the standardised inputs.
    """
    targets, scale = right.double(), inputs.double().std(0).clamp_min(1e-6)
    standard = inputs.double() / scale
    weights = torch.zeros(inputs.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = standard @ weights[:-1] + weights[-1]
        value = F.binary_cross_entropy_with_logits(scores, targets) + 1e-3 * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = weights.detach()
    return found[:-1] / scale, float(found[-1])


def features(log_probs: Sequence[float]) -> tuple[float, float, float]:
    """Sum, mean and least of the log probabilities of an answer's tokens."""
    total = math.fsum(log_probs)
    return total, total / max(1, len(log_probs)), min(log_probs, default=0.0)


def confidence(log_probs: Sequence[float], calibration: Calibration | None) -> float:
    """How likely an answer is to be right; without a calibration, the probability that the model gives to it."""
    return calibration.confidence(log_probs) if calibration else math.exp(math.fsum(log_probs))


def carried_calibration(metadata: Mapping[str, str]) -> Calibration | None:
    """The calibration of its checkpoint that an adapter carries, if any.

    Raises:
        CheckpointError: it is damaged.
    """
    if "confidence" not in metadata:
        return None
    try:
        return Calibration.parse(metadata["confidence"])
    except ValueError as error:
        raise CheckpointError(
            f"the adapter's card has a damaged `confidence` ({error}): make the adapter again, or delete that line"
        ) from error
