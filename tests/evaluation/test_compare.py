"""Wordings side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from text2lora.cli import app
from text2lora.errors import InvalidInputError
from text2lora.evaluation.check import CheckTask
from text2lora.evaluation.compare import compare_descriptions
from text2lora.inference import generate_answers

TEXTS = ["the city", "city", "upper case"]
TASKS = [CheckTask("a", ["x"], [("x", "A"), ("y", "B")]), CheckTask("b", ["x"], [("z", "12")])]


def test_answers_are_those_of_the_adapters_through_peft(make_model, load_base, tokenizer) -> None:
    model = make_model()
    found = compare_descriptions(model, load_base(), tokenizer, TEXTS, ["x", "yy"], TASKS, max_new_tokens=6)
    assert found.base.answers == generate_answers(load_base(), tokenizer, ["x", "yy"], 6)
    for text, wording in zip(TEXTS, found.wordings, strict=True):
        adapted = model.generate_adapter(text, load_base())
        assert wording.answers == generate_answers(adapted, tokenizer, ["x", "yy"], 6)
    assert torch.tensor(found.cosines).shape == (3, 3)
    assert torch.tensor(found.cosines).diagonal().tolist() == [1, 1, 1]
    assert json.loads(json.dumps(found.as_dict()))["wordings"][1]["description"] == "city"


def test_scores_are_means_over_tasks(make_model, base, tokenizer) -> None:
    model = make_model()
    both = compare_descriptions(model, base, tokenizer, TEXTS, tasks=TASKS)
    single = [compare_descriptions(model, base, tokenizer, TEXTS, tasks=[task]) for task in TASKS]
    for i in range(3):
        parts = [one.wordings[i].loss for one in single]
        assert both.wordings[i].loss == pytest.approx(sum(parts) / 2)
    assert both.base.loss != pytest.approx(both.wordings[0].loss)
    assert both.wordings[0].answers == []
    assert compare_descriptions(model, base, tokenizer, TEXTS).wordings[0].exact_match is None


def test_command_shows_outputs_scores_and_cosines(tmp_path: Path) -> None:
    record = "order A1234: 2 x tent for Ada Berg, ship to Oslo, total $80.00, 2024-05-01"
    task = {"name": "city", "descriptions": ["x"], "examples": [[record, "OSLO"]]}
    (tmp_path / "t.jsonl").write_text(json.dumps(task))
    wordings = ["Return the city in upper case.", "the city in capitals", "Return the price."]
    given = ["-m", "nano", "--prompt", record, "--tasks", str(tmp_path / "t.jsonl")]
    result = CliRunner().invoke(app, ["compare", *wordings, *given, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["answers"] for row in found["wordings"][:2]] == [["OSLO"], ["OSLO"]]
    assert [row["exact_match"] for row in found["wordings"]] == [1, 1, 0]
    assert found["cosines"][0][1] > found["cosines"][0][2]
    shown = CliRunner().invoke(app, ["compare", *wordings, *given], env={"COLUMNS": "200"})
    assert "exact match" in shown.output
    assert "cosine" in shown.output


def test_an_empty_prompt_is_refused(make_model, base, tokenizer) -> None:
    with pytest.raises(InvalidInputError, match="a prompt is empty: pass the text to answer"):
        compare_descriptions(make_model(), base, tokenizer, TEXTS, ["x", " "])


def test_one_wording_is_nothing_to_compare() -> None:
    assert CliRunner().invoke(app, ["compare", "city"]).exit_code == 2
