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


@checked_class(CheckpointError)
@dataclass(frozen=True)
class Calibration:
    """A logistic regression on the log probabilities of an answer's tokens: 1 / (1 + exp(-score)).

    Attributes:
        total: the weight of their sum, which is the log probability of the whole answer.
        mean: the weight of their mean.
        least: the weight of the least of them.
        bias: the score of an answer that the model is sure of.
    """

    total: float
    mean: float
    least: float
    bias: float

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
        return json.dumps(asdict(self))

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
    def fit(cls, log_probs: Sequence[Sequence[float]], right: Sequence[bool]) -> Calibration:
        """Fit a calibration to answers that are known to be right or wrong.

        Args:
            log_probs: the log probabilities of the tokens of each answer.
            right: whether each answer is right.

        Raises:
            InvalidInputError: there are fewer than two answers, or not one of them for each of the others.
            CheckpointError: no calibration fits them.
        """
        if len(log_probs) != len(right) or len(right) < 2:
            raise InvalidInputError(
                f"{len(log_probs)} answers, of which {len(right)} are known to be right or wrong: expected two or more"
            )
        weights, bias = fit_logistic(torch.tensor([features(values) for values in log_probs]), torch.tensor(right))
        return cls(*(float(f"{value:.6g}") for value in (*weights.tolist(), bias)))


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
