"""The model in the package: what it can do, how large it is, and that it does it everywhere alike."""

import json
from pathlib import Path

import pytest
import torch
from catalogue import TASKS, UNSEEN
from peft import PeftModel
from prepare import write_tasks
from results import as_markdown, write_results
from source import evaluation_examples, read_split
from table import NanoEvaluation
from transformers import AutoModelForCausalLM, AutoTokenizer

import text2lora
from text2lora import LoraAdapter, Text2LoraModel
from text2lora.bundled import TASKS as TASK_FILES
from text2lora.inference import generate_answers
from text2lora.training.task_files import read_tasks

PACKAGE = Path(text2lora.__file__).parent


@pytest.fixture(scope="module")
def t2l():
    return Text2LoraModel.from_pretrained("nano")


@pytest.fixture
def base():
    return AutoModelForCausalLM.from_pretrained(text2lora.base_model_path("nano"))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(text2lora.base_model_path("nano"))


def test_it_fits_into_twenty_megabytes():
    assert sum(f.stat().st_size for f in (PACKAGE / "nano").rglob("*") if f.is_file() and f.suffix != ".pyc") <= 20e6


@pytest.mark.parametrize("task", ["city/upper", "name/initials", "price+item/json", "whole_dollars/plain"])
def test_a_sentence_makes_an_adapter_that_works_and_the_base_alone_does_not(t2l, base, tokenizer, task):
    description = {
        "city/upper": "Where does it ship to? Answer in capital letters.",
        "name/initials": "Who placed the order? Just the initials.",
        "price+item/json": "Give me the price and the item as one JSON object.",
        "whole_dollars/plain": "The price without the cents.",
    }[task]
    examples = evaluation_examples(TASKS[task], 24, 9000)
    prompts, gold = [x for x, _ in examples], [y for _, y in examples]
    before = generate_answers(base, tokenizer, prompts)
    after = generate_answers(t2l.generate_adapter(description, base), tokenizer, prompts)
    assert sum(a == b for a, b in zip(before, gold, strict=True)) <= 3
    assert sum(a == b for a, b in zip(after, gold, strict=True)) >= 18


def test_saved_adapter_gives_the_same_logits_with_peft_alone(t2l, base, tokenizer, tmp_path):
    live = t2l.generate_adapter("the city in brackets", base)
    inputs = tokenizer(evaluation_examples(TASKS["city/plain"], 1)[0][0], return_tensors="pt")
    expected = live(**inputs).logits
    t2l.generate_lora("the city in brackets").save_pretrained(tmp_path / "a")
    fresh = AutoModelForCausalLM.from_pretrained(text2lora.base_model_path("nano"))
    assert torch.equal(PeftModel.from_pretrained(fresh, tmp_path / "a")(**inputs).logits, expected)
    assert torch.equal(LoraAdapter.from_pretrained(tmp_path / "a").apply_to(base)(**inputs).logits, expected)


def test_two_adapters_serve_one_mixed_batch(t2l, base, tokenizer):
    model = t2l.generate_adapter("the city in upper case", base, adapter_name="city")
    model = t2l.generate_adapter("the initials of the customer", model, adapter_name="who")
    line = "order A1234: 2 x tent for Ada Berg, ship to Oslo, total $80.00, 2024-05-01"
    inputs = tokenizer([line, line], return_tensors="pt")
    output = model.generate(**inputs, adapter_names=["city", "who"])
    answers = tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    assert answers == ["OSLO", "A.B."]


def test_one_pass_over_the_gold_answer_judges_as_generation_does(t2l, base, tokenizer):
    task, description = read_split("dev_unseen")[0]
    run = NanoEvaluation(t2l, records=8, base=base, tokenizer=tokenizer)
    row = run.with_descriptions("x", [(task, description)])
    examples = evaluation_examples(TASKS[task], 8, 5000)
    answers = generate_answers(t2l.generate_adapter(description, base), tokenizer, [x for x, _ in examples])
    assert row.details[0].exact_match == sum(a == y for a, (_, y) in zip(answers, examples, strict=True)) / 8


def test_results_are_written_as_markdown_json_csv_and_a_picture(t2l, base, tokenizer, tmp_path):
    pytest.importorskip("matplotlib")
    row = NanoEvaluation(t2l, 2, base, tokenizer).with_descriptions("two tasks", read_split("dev_seen")[:3])
    write_results([row], tmp_path / "out")
    assert (tmp_path / "out/table.md").read_text() == as_markdown([row]) + "\n"
    assert json.loads((tmp_path / "out/results.json").read_text())["two tasks"]["samples"] == 6
    assert len((tmp_path / "out/tasks.csv").read_text().splitlines()) == 4
    assert (tmp_path / "out/table.png").read_bytes().startswith(b"\x89PNG")


def test_base_with_the_description_in_its_prompt_is_scored(t2l, base, tokenizer):
    row = NanoEvaluation(t2l, 2, base, tokenizer).with_prompts("told", read_split("dev_seen")[:4])
    assert (row.estimate.tasks, row.estimate.samples) == (2, 8)
    assert row.estimate.mean < 0.5


def test_results_hold_every_row_that_the_adapters_are_held_against():
    rows = json.loads((PACKAGE / "nano/results/results.json").read_text())
    for part in (
        "base, zero-shot", "base, 3 demonstrations", "base, description in the prompt", "one LoRA for all tasks",
        "text2lora, seen tasks, training-style wording", "text2lora, seen tasks, unseen wording",
        "text2lora, unseen tasks", "a LoRA trained per task", "another task's description", "junk", "free-form",
    ):  # fmt: skip
        assert any(name.startswith(part) for name in rows), part


def test_descriptions_of_other_tasks_do_not_help(t2l, base, tokenizer):
    pairs = read_split("dev_seen")[:24:2]
    run = NanoEvaluation(t2l, 8, base, tokenizer)
    matched = run.with_descriptions("matched", pairs).estimate.mean
    moved = [(task, pairs[(i + 6) % 12][1]) for i, (task, _) in enumerate(pairs)]
    assert matched > 0.4
    assert run.with_descriptions("shuffled", moved).estimate.mean < 0.1


def test_the_tasks_in_the_package_are_those_of_the_test_split(tmp_path):
    write_tasks("test_unseen", tmp_path / "tasks.jsonl", 16)
    assert TASK_FILES["nano"].read_text(encoding="utf-8") == (tmp_path / "tasks.jsonl").read_text(encoding="utf-8")
    tasks = read_tasks(TASK_FILES["nano"])
    assert {task.name for task in tasks} == {task for task, _ in read_split("test_unseen")} <= UNSEEN
