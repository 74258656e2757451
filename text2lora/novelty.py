"""How close a description is to those that a checkpoint was trained on."""

from __future__ import annotations

import json
import os
import random
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from text2lora.arguments import checked
from text2lora.encoder import TextEncoder
from text2lora.errors import CheckpointError, DescriptionWarning, InvalidArgumentError
from text2lora.files import atomic_file

FILE_NAME = "novelty.safetensors"
RANK = 64
"""Directions that are kept of the embeddings: those in which training tasks differ most."""
MAX_TASKS = 2048
MAX_WORDINGS = 16
FAR = 0.003
"""The share of training descriptions that are as far from every other task as a text that gets a warning. It was chosen
on nano's development descriptions, of which one in 257 gets one."""
EDGE = 2.0
"""The percentile below which a description is called unusual, though it gets no warning."""


class Neighbour(NamedTuple):
    """A training task, and the cosine between its descriptions' centre and a description."""

    task: str
    similarity: float


@dataclass(frozen=True)
class Novelty:
    """How close a description is to the training descriptions.

    Attributes:
        description: the text of the description.
        nearest: the nearest training tasks, the nearest first.
        percentile: how many of 100 training descriptions are less similar to the nearest task other than their own.
        threshold: the similarity below which there is a warning: three in a thousand training descriptions have less.
    """

    description: str
    nearest: list[Neighbour]
    percentile: float
    threshold: float

    @property
    def similarity(self) -> float:
        """The similarity to the nearest training task, at most 1."""
        return self.nearest[0].similarity

    @property
    def warning(self) -> str | None:
        """A warning for a text that is far from all training descriptions; None for any other."""
        if self.similarity >= self.threshold:
            return None
        own, usual = _apart(self.similarity, self.threshold)
        return (
            f"{_short(self.description)!r} is unlike what this checkpoint was trained on, so its adapter may do "
            f"something else: its similarity to the nearest training task, {self.nearest[0].task!r}, is {own}, and "
            f"{100 * (1 - FAR):g} % of the training descriptions have {usual} or more; try the adapter on an input, or "
            "say in plain words what to do with an input"
        )

    @property
    def verdict(self) -> str:
        """What its similarity to the training descriptions means for its adapter."""
        if self.warning:
            return "outside what training covers"
        if self.percentile < EDGE:
            return (
                f"at the edge of what training covers ({self.percentile:.2g} % of its descriptions are further off): "
                "try it on an input"
            )
        return f"within what training covers ({self.percentile:.0f} % of its descriptions are further off)"

    def __str__(self) -> str:
        tasks = ", ".join(f"{task} {similarity:.2f}" for task, similarity in self.nearest)
        return f"Nearest training tasks: {tasks}; {self.verdict}"

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them."""
        nearest = [neighbour._asdict() for neighbour in self.nearest]
        return {
            "description": self.description,
            "nearest": nearest,
            "percentile": self.percentile,
            "threshold": self.threshold,
            "warning": self.warning,
        }


@dataclass(frozen=True)
class DescriptionStatistics:
    """Statistics of a checkpoint's training descriptions: the centre of each task, and how far tasks are apart.

    Attributes:
        names: the names of the tasks.
        basis: [d, k], the directions that are kept.
        centroids: [tasks, k], the mean of each task's descriptions, of length 1 before it was projected.
        quantiles: [1001], quantiles of the similarity between a training description and the nearest other task.
    """

    names: list[str]
    basis: torch.Tensor
    centroids: torch.Tensor
    quantiles: torch.Tensor

    def place(self, description: str, task_emb: torch.Tensor, count: int = 3) -> Novelty:
        """Compare a description with the training descriptions.

        Args:
            description: the text of the description.
            task_emb: its embedding [d], or token states [tokens, d].
            count: how many of the nearest tasks to name.

        Raises:
            InvalidArgumentError: the embedding does not have the size of those in training.
        """
        vector = mean_over_tokens(task_emb[None].float().cpu())
        if vector.shape[1] != len(self.basis):
            raise InvalidArgumentError(
                f"a task embedding of {vector.shape[1]} features: expected {len(self.basis)}, as in training"
            )
        similarities = (_project(vector, self.basis.float()) @ self.centroids.float().T)[0]
        found = similarities.topk(min(count, len(self.names)))
        nearest = [
            Neighbour(self.names[i], s) for s, i in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        ]
        below = torch.searchsorted(self.quantiles, found.values[:1]).item() / (len(self.quantiles) - 1)
        return Novelty(description, nearest, 100 * min(1.0, below), self.threshold)

    @property
    def threshold(self) -> float:
        """The similarity below which a text is far off."""
        return float(self.quantiles[round(FAR * (len(self.quantiles) - 1))])

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the statistics into a checkpoint's folder, with the centres in half precision.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = Path(folder, FILE_NAME)
        tensors = {"basis": self.basis.half(), "centroids": self.centroids.half(), "quantiles": self.quantiles.float()}
        metadata = {"tasks": json.dumps(self.names, ensure_ascii=False)}
        with atomic_file(path) as temporary:
            temporary.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))
        return path

    @classmethod
    def load(cls, path: Path) -> DescriptionStatistics:
        """Read the statistics from a file.

        Raises:
            CheckpointError: the file has no statistics, or cannot be read.
        """
        try:
            with safe_open(path, "pt") as file:
                names = json.loads((file.metadata() or {})["tasks"])
                return cls(names, *(file.get_tensor(name) for name in ("basis", "centroids", "quantiles")))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path} has no readable statistics of descriptions ({error}): download it "
                "again, or write it with `t2l convert --tasks`"
            ) from error


def choose_descriptions(tasks: Sequence[str]) -> list[int]:
    """Choose the descriptions for the statistics: at most 16 of each task, of 2,048 tasks at most, drawn at random.

    Args:
        tasks: the task of each description.
    """
    rows: dict[str, list[int]] = {}
    for row, task in enumerate(tasks):
        rows.setdefault(task, []).append(row)
    rng = random.Random("standing 0")
    names = rng.sample(sorted(rows), min(len(rows), MAX_TASKS))
    return [row for task in names for row in sorted(rng.sample(rows[task], min(len(rows[task]), MAX_WORDINGS)))]


@checked(CheckpointError)
def measure_descriptions(
    encoder: TextEncoder, descriptions: Sequence[str], tasks: Sequence[str]
) -> DescriptionStatistics | None:
    """Compute the statistics of training descriptions, for a checkpoint that was trained without them.

    Args:
        encoder: the text encoder of the checkpoint.
        descriptions: the training descriptions.
        tasks: the task of each description.

    Returns:
        The statistics, or None if there are fewer than two tasks.
    """
    if len(descriptions) != len(tasks):
        raise CheckpointError(f"{len(descriptions)} descriptions have {len(tasks)} tasks: expected one task for each")
    if len(set(tasks)) < 2:
        return None
    return summarise_some(lambda rows: encoder.encode([descriptions[row] for row in rows]), tasks)


def summarise_some(
    embed: Callable[[Sequence[int]], torch.Tensor], tasks: Sequence[str]
) -> DescriptionStatistics | None:
    """`summarise` the descriptions that `choose_descriptions` chooses; `embed` returns their embeddings by number."""
    rows = choose_descriptions(tasks)
    vectors = [mean_over_tokens(embed(rows[i : i + 256])).cpu() for i in range(0, len(rows), 256)]
    return summarise(torch.cat(vectors), [tasks[row] for row in rows])


def summarise(vectors: torch.Tensor, tasks: Sequence[str]) -> DescriptionStatistics | None:
    """Compute the statistics of training descriptions; None if there are fewer than two tasks.

    Args:
        vectors: the embedding of each description, [n, d]; for token states, their means.
        tasks: the task of each description.
    """
    names = sorted(set(tasks))
    if len(names) < 2:
        return None
    number = {name: i for i, name in enumerate(names)}
    owner = torch.tensor([number[task] for task in tasks])
    units = F.normalize(vectors.float(), dim=-1)
    centroids = F.normalize(torch.zeros(len(names), units.shape[1]).index_add_(0, owner, units), dim=-1)
    basis = torch.linalg.svd(centroids, full_matrices=False).Vh[:RANK].T
    basis, projected = basis.half(), (centroids @ basis).half()  # as it is saved, so that saving changes nothing
    similarities = _project(units, basis.float()) @ projected.float().T
    similarities[torch.arange(len(units)), owner] = -1
    nearest = similarities.max(1).values.double()
    quantiles = torch.quantile(nearest, torch.linspace(0, 1, 1001, dtype=torch.double)).float()
    return DescriptionStatistics(names, basis, projected, quantiles)


def mean_over_tokens(task_emb: torch.Tensor) -> torch.Tensor:
    """One vector for each description, [n, d], of vectors or of token states padded with rows of zeros."""
    if task_emb.ndim == 2:
        return task_emb
    is_token = task_emb.ne(0).any(-1, keepdim=True)
    return task_emb.sum(1) / is_token.sum(1).clamp_min(1)


def _project(vectors: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Of length 1 before, so that the product with a centre is their cosine."""
    return F.normalize(vectors, dim=-1) @ basis


def _apart(one: float, two: float) -> tuple[str, str]:
    """Two numbers with as many digits as show that they differ; two digits at least."""
    shown = ((f"{one:.{digits}f}", f"{two:.{digits}f}") for digits in range(2, 18))
    return next((pair for pair in shown if pair[0] != pair[1]), (repr(one), repr(two)))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"


def warn_caller(found: Sequence[str]) -> None:
    """Show the first of some warnings, if there are any, as of the line outside of text2lora and torch."""
    if not found:
        return
    others = len(found) - 1
    more = f" (the same holds for {others} more description{'s' * (others > 1)})" if others else ""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("text2lora", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(found[0] + more, DescriptionWarning, stacklevel=level)
