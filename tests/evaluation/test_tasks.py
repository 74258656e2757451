"""Prompts, parsing and verdicts: on rows in the columns of the data sets, and on real samples where they are."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from text2lora.errors import EvaluationError
from text2lora.evaluation.data import load_tasks
from text2lora.evaluation.tasks import BENCHMARKS, EvalItem, EvalTask, own_task

CHOICES = {"text": ["a dog", "a cat", "Vitamin A", "none"], "label": ["1", "2", "3", "4"]}
ROWS = {
    "arc_challenge": ({"question": "Which?", "choices": CHOICES, "answerKey": "3"}, "C"),
    "arc_easy": ({"question": "Which?", "choices": CHOICES | {"label": list("ABCD")}, "answerKey": "B"}, "B"),
    "boolq": ({"question": "is it so", "passage": "It is so.", "answer": True}, "true"),
    "gsm8k": ({"question": "How many?", "answer": "It is 1000+200=<<1000+200=1200>>1200.\n#### 1,200"}, "1200"),
    "hellaswag": ({"ctx": "He sits", "endings": ["down.", "up.", "on.", "off."], "label": "0"}, "A"),
    "openbookqa": (
        {"question_stem": "It is", "choices": CHOICES | {"label": list("ABCD")}, "answerKey": "D"},
        "D",
    ),
    "piqa": ({"goal": "To open", "sol1": "pull", "sol2": "push", "label": 1}, "B"),
    "winogrande": ({"sentence": "Ann saw Bea, so _ hid.", "option1": "Ann", "option2": "Bea", "answer": "2"}, "B"),
}
PROGRAMS = {
    "humaneval": {
        "prompt": 'def helper(x):\n    return x + 1\n\n\ndef twice(x: int) -> int:\n    """Twice x."""\n',
        "entry_point": "twice",
        "canonical_solution": "    return 2 * (helper(x) - 1)\n",
        "test": "def check(candidate):\n    assert candidate(3) == 6\n",
    },
    "mbpp": {
        "text": "Write a function that doubles.",
        "code": "def twice(x):\r\n  return 2 * x",
        "test_list": ["assert twice(3) == 6", "assert twice(0) == 0"],
        "test_setup_code": "",
    },
}


def correct(task: EvalTask, example: EvalItem, output: str) -> bool:
    return task.judge(output, example).correct


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_the_data_set_give_prompt_and_gold(name: str) -> None:
    row, gold = ROWS[name]
    task = BENCHMARKS[name]
    example = task.read(row)
    assert example.gold == gold
    assert correct(task, example, example.gold)
    assert correct(task, example, example.target)
    assert not correct(task, example, "")
    assert task.judge("I cannot say.", example).reason == "no answer found"
    for value in row.values():
        if isinstance(value, str) and name != "gsm8k" and len(value) > 1:
            assert value in example.prompt


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_run_with_their_tests(name: str) -> None:
    task = BENCHMARKS[name]
    example = task.read(PROGRAMS[name])
    assert correct(task, example, example.target)
    assert correct(task, example, "Here it is:\n\n```python\ndef twice(x):\n    return x + x\n```\nIt adds.")
    assert correct(task, example, "def twice(x):\n    return x + x")
    assert not correct(task, example, "```python\ndef twice(x):\n    return x\n```")
    assert not correct(task, example, "I cannot.")
    assert not correct(task, example, "```python\nexit()\n```")
    assert task.judge(" ", example).reason == "no answer found"


def test_body_alone_completes_the_function_and_what_follows_is_cut() -> None:
    task = BENCHMARKS["humaneval"]
    example = task.read(PROGRAMS["humaneval"])
    assert correct(task, example, "    return helper(x) + x - 1\n\nprint('rambling'\n")
    assert correct(task, example, "```python\nimport os\n```\nor\n```python\ndef twice(x):\n    return 2 * x\n```")


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        ("C", "C"), ("C.", "C"), ("(C)", "C"), ("**C**", "C"), ("C. Vitamin A", "C"), ("c", None),
        ("The answer is C.", "C"), ("Answer: C", "C"), ("The correct answer is **C**, not A.", "C"),
        ("I think the answer is C because A is a dog.", "C"), ("It must be (C).", "C"), ("Vitamin A", "C"),
        ("vitamin a.", "C"), ("A dog", "A"), ("A dog barks", None), ("A, B or C", None), ("A/B/C/D", None),
        ("A. a dog\nB. a cat\nC. Vitamin A\nD. none", None), ("E", None), ("ABC", None), ("", None),
        ("The answer is A dog", None), ("C\n\nBecause.", "C"), ("Option C", "C"),
    ],
)  # fmt: skip
def test_letters_are_read_and_articles_are_not(output: str, parsed: str | None) -> None:
    task = BENCHMARKS["arc_challenge"]
    assert task.judge(output, task.read(ROWS["arc_challenge"][0])).parsed == parsed


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        ("true", "true"), ("True.", "true"), ("Yes, it is.", "true"), ("no", "false"), ("The answer is false", "false"),
        ("true or false", None), ("true/false", None), ("nothing", None), ("It is untrue", None),
        ("I have no idea", None), ("It is true that no one came", "true"),
    ],
)  # fmt: skip
def test_truth_is_read(output: str, parsed: str | None) -> None:
    task = BENCHMARKS["boolq"]
    assert task.judge(output, task.read(ROWS["boolq"][0])).parsed == parsed


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        ("The answer is 1200.", "1200"), ("The answer is $1,200.00", "1200"), ("#### 1200", "1200"),
        ("2 and 3 make 5", "5"), ("10-5", "5"), ("The answer is -5", "-5"), ("so x = -0.50", "-0.5"),
        ("The answer is 7. The answer is 8.", "7"), ("The answer is **12** apples", "12"), ("none", None), ("", None),
        ("The answer is: 3", "3"), ("0.0", "0"), ("To answer this, we multiply 3 by 4. That is 12.", "12"),
        ("The answer to part one: 5. In all, 12.", "12"), ("The answer is 3 + 9 = 12.", "12"),
        ("The answer is 3 x 4 = $12 for 2", "12"), ("**Answer:** 12", "12"), ("The answer is \\boxed{12}.", "12"),
    ],
)  # fmt: skip
def test_numbers_are_read(output: str, parsed: str | None) -> None:
    task = BENCHMARKS["gsm8k"]
    assert task.judge(output, task.read(ROWS["gsm8k"][0])).parsed == parsed


def test_own_answers_match_whole_but_for_white_space() -> None:
    task = own_task("mine")
    example = task.read({"prompt": "the city?", "answer": " São  Paulo\n"})
    assert correct(task, example, "Sa\u0303o Paulo ")
    assert not correct(task, example, "são paulo")
    assert not correct(task, example, "São Paulo is it")
    assert correct(task, task.read({"prompt": "2+2", "answer": 4}), "4")


def test_row_that_cannot_be_read_is_named() -> None:
    with pytest.raises(EvaluationError, match="boolq: a row with question, label cannot be read"):
        BENCHMARKS["boolq"].read({"question": "?", "label": 1})
    with pytest.raises(EvaluationError, match="'answer9' is not among those offered"):
        BENCHMARKS["arc_easy"].read({"prompt": "Answer format: answer1/answer2", "answer": "answer9"})


REAL = ["arc_challenge", "arc_easy", "boolq", "openbookqa", "piqa", "winogrande"]


@pytest.mark.parametrize("name", REAL)
def test_on_real_samples_gold_is_right_and_all_else_wrong(name: str, shared: Path) -> None:
    (data,) = load_tasks(name, shared / "data" / "benchmarks.jsonl.gz", shots=3)
    assert len(data.examples) >= 397
    for example in [*data.examples, *data.shots]:
        others = [label for label in example.labels if label != example.gold]
        assert others
        right = [example.gold, example.target, f"{example.gold.capitalize()}.", f"The correct answer is {example.gold}"]
        wrong = [*others, f"the correct answer is {others[0]}", "/".join(example.labels), " ".join(example.labels)]
        wrong += ["", "answer", "the correct answer is", "I do not know", "answer99", example.gold + "0"]
        assert all(correct(data.task, example, output) for output in right)
        assert not any(correct(data.task, example, output) for output in wrong)


def test_on_real_problems_gold_is_right_and_all_else_wrong(shared: Path) -> None:
    (data,) = load_tasks("gsm8k", shared / "data" / "benchmarks.jsonl.gz", shots=0)
    assert len(data.examples) == 400
    for example in data.examples:
        gold = example.gold
        right = [gold, f"The answer is {gold}.", f"1 + 1 = 2. The answer is ${float(gold):,.2f}", f"#### {gold}"]
        wrong = [f"The answer is {float(gold) + 1}", "", "The answer is", "many", f"{gold} is the answer to 99"]
        assert all(correct(data.task, example, output) for output in right)
        assert not any(correct(data.task, example, output) for output in wrong)


def test_every_canonical_solution_of_humaneval_passes(shared: Path) -> None:
    (data,) = load_tasks("humaneval", shared / "data", shots=0)
    assert len(data.examples) == 164
    with gzip.open(shared / "data" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        bodies = [json.loads(line)["canonical_solution"] for line in file]
    for example, body in zip(data.examples, bodies, strict=True):
        assert correct(data.task, example, body), example.entry
    for example in data.examples[::20]:
        assert correct(data.task, example, example.target), example.entry
        assert not correct(data.task, example, "    return NotImplemented"), example.entry
