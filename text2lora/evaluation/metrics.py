"""Figures with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

DRAWS = 2000
"""The number of bootstrap samples."""


class Estimate(NamedTuple):
    """A mean with its 95 % bootstrap interval, and what it was taken over."""

    mean: float
    low: float
    high: float
    tasks: int
    samples: int


def bootstrap(scores: Sequence[torch.Tensor], seed: int = 0) -> Estimate:
    """Mean over tasks of the mean over a task's samples, with a percentile interval that resamples whole tasks."""
    return bootstrap_tasks(torch.stack([s.double().mean() for s in scores]), sum(len(s) for s in scores), seed)


def bootstrap_tasks(means: torch.Tensor, samples: int, seed: int = 0) -> Estimate:
    """`bootstrap` of the mean of each task's samples, [tasks]; nan stands for a task that was not measured."""
    low, high = percentile_interval(means[resample(len(means), seed)].nanmean(1))
    return Estimate(means.nanmean().item(), low, high, int((~means.isnan()).sum()), samples)


def resample(count: int, seed: int = 0) -> torch.Tensor:
    """The tasks, out of `count`, in each bootstrap sample, [DRAWS, count]; the same for the same arguments."""
    return torch.randint(count, (DRAWS, count), generator=torch.Generator().manual_seed(seed))


def percentile_interval(values: torch.Tensor) -> tuple[float, float]:
    """The middle 95 % of bootstrap values; without those that are not a number."""
    kept = values.double()[~values.isnan()]
    low, high = torch.quantile(kept, torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return low, high


def pearson(one: torch.Tensor, two: torch.Tensor) -> float:
    """The linear correlation of two lists of numbers; nan where one of them is constant."""
    one, two = one.double() - one.double().mean(), two.double() - two.double().mean()
    return float(one @ two / (one.norm() * two.norm()))


def spearman(one: torch.Tensor, two: torch.Tensor) -> float:
    """The correlation of the ranks of two lists of numbers; equal numbers share their mean rank."""
    return pearson(ranks(one), ranks(two))


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks from 1."""
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[which]


def bootstrap_samples(scores: Sequence[torch.Tensor], seed: int = 0) -> Estimate:
    """Mean over tasks of the mean over a task's samples, with a percentile interval that resamples within each task.

    Use it if the tasks themselves are of interest, such as those of a benchmark, and `bootstrap` if they are a sample.

    Args:
        scores: the scores of each task's samples, or the differences of two conditions sample by sample.
        seed: the random seed.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(DRAWS, dtype=torch.double)
    for sample in scores:
        values, rows = sample.double(), max(1, 2**22 // len(sample))
        for start in range(0, DRAWS, rows):
            picks = torch.randint(len(values), (min(rows, DRAWS - start), len(values)), generator=generator)
            drawn[start : start + rows] += values[picks].mean(1) / len(scores)
    low, high = percentile_interval(drawn)
    mean = torch.stack([sample.double().mean() for sample in scores]).mean().item()
    return Estimate(mean, low, high, len(scores), sum(len(sample) for sample in scores))
