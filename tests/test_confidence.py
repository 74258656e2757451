"""How likely an answer is right: a logistic regression on the probabilities of its tokens."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from text2lora.confidence import Calibration, carried_calibration, confidence, features, fit_logistic
from text2lora.errors import CheckpointError, InvalidInputError


def test_features_are_sum_mean_and_least() -> None:
    assert features([-1.0, -3.0, -2.0]) == (-6.0, -2.0, -3.0)
    assert features([]) == (0.0, 0.0, 0.0)


def test_confidence_is_the_logistic_function_of_the_weighted_features() -> None:
    calibration = Calibration(total=0.5, mean=1.0, least=2.0, bias=4.0)
    score = 4 + 0.5 * -4 + 1.0 * -2 + 2.0 * -3
    assert confidence([-1.0, -3.0], calibration) == pytest.approx(1 / (1 + math.exp(-score)))
    assert confidence([-1.0, -3.0], None) == pytest.approx(math.exp(-4))
    assert confidence([-1e300], calibration) == pytest.approx(0, abs=1e-300)


def test_fitting_finds_the_probabilities_that_the_answers_were_drawn_with() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20_000, 2, generator=generator) * torch.tensor([1.0, 100.0])
    right = torch.rand(len(inputs), generator=generator) < (inputs @ torch.tensor([1.5, -0.01]) + 0.5).sigmoid()
    weights, bias = fit_logistic(inputs, right)
    assert weights.tolist() == pytest.approx([1.5, -0.01], rel=0.1)
    assert bias == pytest.approx(0.5, abs=0.1)


def test_a_fitted_calibration_is_surer_of_likely_answers() -> None:
    calibration = Calibration.fit([[-0.1, -0.1], [-0.2], [-4.0], [-3.0, -0.1]], [True, True, False, False])
    assert calibration.confidence([-0.1]) > 0.5 > calibration.confidence([-3.5])


def test_an_adapter_that_answers_left_out_examples_is_trusted_more() -> None:
    answers, right = 10 * [[-0.4], [-0.4], [-0.6], [-0.6]], 10 * [True, False] + 10 * [True] + 10 * [False]
    fitted = Calibration.fit(answers, right, 20 * [None] + 10 * [1.0] + 10 * [0.0])
    untuned, all_right, none_right = fitted, fitted.after_tuning(1), fitted.after_tuning(0)
    assert none_right.confidence([-0.5]) < untuned.confidence([-0.5]) < all_right.confidence([-0.5])
    assert untuned.confidence([-0.5]) == pytest.approx(0.5, abs=0.05)
    assert all_right == all_right.after_tuning(0.5)  # nothing is added twice
    with pytest.raises(InvalidInputError, match="the share is 2: expected a number from 0 to 1"):
        fitted.after_tuning(2)


def test_without_tuned_adapters_a_calibration_has_four_numbers() -> None:
    calibration = Calibration.fit([[-0.1], [-4.0]], [True, False])
    assert set(json.loads(str(calibration))) == {"total", "mean", "least", "bias"}
    assert calibration.after_tuning(1) == calibration


def test_a_calibration_is_the_same_after_it_was_written(tmp_path: Path) -> None:
    calibration = Calibration(total=0.1, mean=-2.5, least=3.0, bias=1e-9)
    assert Calibration.load(calibration.save(tmp_path)) == calibration
    assert carried_calibration({"confidence": str(calibration)}) == calibration
    more = Calibration(total=0.1, mean=-2.5, least=3.0, bias=1e-9, tuned=-1.0, left_out=2.0)
    assert Calibration.load(more.save(tmp_path)) == more
    assert carried_calibration({"description": "x"}) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"total": 1, "mean": 1, "least": 1, "bias": NaN, "more": 2}', "{"])
def test_what_is_no_calibration_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "confidence.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"confidence\.json does not contain a calibration of answers"):
        Calibration.load(tmp_path / "confidence.json")
    with pytest.raises(CheckpointError, match="has a damaged `confidence`"):
        carried_calibration({"confidence": text})
