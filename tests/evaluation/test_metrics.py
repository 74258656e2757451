"""Figures and their uncertainty."""

from __future__ import annotations

import pytest
import torch

from text2lora.evaluation.metrics import bootstrap


def test_mean_is_over_tasks_and_not_over_samples() -> None:
    estimate = bootstrap([torch.tensor([1, 1, 1, 1]), torch.tensor([0])])
    assert estimate.mean == 0.5
    assert (estimate.tasks, estimate.samples) == (2, 5)


def test_interval_is_that_of_resampled_tasks() -> None:
    scores = [torch.full((3,), float(i % 4 == 0)) for i in range(100)]
    estimate = bootstrap(scores)
    error = (0.25 * 0.75 / 100) ** 0.5
    assert estimate.mean == pytest.approx(0.25)
    assert estimate.low == pytest.approx(0.25 - 1.96 * error, abs=0.02)
    assert estimate.high == pytest.approx(0.25 + 1.96 * error, abs=0.02)


def test_equal_tasks_have_no_spread() -> None:
    estimate = bootstrap([torch.tensor([True, False])] * 5)
    assert (estimate.mean, estimate.low, estimate.high) == (0.5, 0.5, 0.5)


def test_interval_is_repeatable_and_follows_the_seed() -> None:
    scores = [torch.rand(4) for _ in range(7)]
    assert bootstrap(scores) == bootstrap(scores)
    assert bootstrap(scores, seed=1) != bootstrap(scores)
