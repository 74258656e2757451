"""What the script on confidence measures, on known numbers and on a few answers of nano."""

from __future__ import annotations

import sys

import confidence
import pytest

from text2lora import Text2LoraModel
from text2lora.confidence import Calibration
from text2lora.functions import call_many


def test_error_at_coverage_leaves_out_the_least_certain_and_shares_ties() -> None:
    right = [True, True, False, True, False]
    assert confidence.error_at([5, 4, 1, 3, 2], right, 1) == pytest.approx(0.4)
    assert confidence.error_at([5, 4, 1, 3, 2], right, 0.8) == pytest.approx(0.25)
    assert confidence.error_at([5, 4, 1, 3, 2], right, 0.6) == 0
    assert confidence.error_at([1] * 5, right, 0.8) == pytest.approx(0.4)


def test_calibration_error_is_the_distance_of_confidence_and_accuracy() -> None:
    assert confidence.calibration_error([1.0, 1.0, 0.0], [True, True, False]) == 0
    assert confidence.calibration_error([0.91, 0.99, 0.2, 0.2], [True, False, False, False]) == pytest.approx(
        (2 * 0.45 + 2 * 0.2) / 4
    )


def test_the_table_judges_the_answers_of_functions(monkeypatch, capsys, tmp_path) -> None:
    cases = confidence.read_cases("dev", 2, 2)
    chosen = [*cases[:3], *cases[-3:]]
    model = Text2LoraModel.from_pretrained("nano")
    judged = confidence.judge(model, chosen)
    functions = {case.description: model.function(case.description, max_new_tokens=48) for case in chosen}
    asked = [(case, text, answer) for case in chosen for text, answer in case.examples]
    found = call_many([(functions[case.description], text) for case, text, _ in asked], with_confidence=True)
    assert [one.right for one in judged] == [f.text == answer for f, (*_, answer) in zip(found, asked, strict=True)]
    carried = [model.calibration.confidence(one.log_probs) for one in judged]
    assert [one.confidence for one in found] == pytest.approx(carried, rel=1e-3)
    monkeypatch.setattr(confidence, "read_cases", lambda *args: chosen)
    monkeypatch.setattr(confidence, "judge", lambda *args: judged)
    tuned = confidence.judge_tuned(model, chosen)
    assert len(tuned) == len(judged)
    monkeypatch.setattr(confidence, "judge_tuned", lambda *args: tuned)
    monkeypatch.setattr(sys, "argv", ["confidence", "--write", str(tmp_path)])
    confidence.main()
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == (2 + 13) + (2 + 5)
    assert len({line.count("|") for line in table}) == 1
    fitted = Calibration.load(tmp_path / "confidence.json")
    assert fitted.after_tuning(1).bias == pytest.approx(fitted.bias + fitted.tuned + fitted.left_out, rel=1e-4)
