"""Where questions come from."""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path

import pytest

from text2lora.errors import EvaluationError, MissingExtraError
from text2lora.evaluation.check import prepare_tasks
from text2lora.evaluation.data import TaskData, load_tasks
from text2lora.evaluation.tasks import BENCHMARKS
from text2lora.installation import install_command
from text2lora.training.task_files import read_tasks

ROWS = [{"passage": f"Fact {i}.", "question": f"is it {i}", "answer": i % 2 == 0} for i in range(8)]


def load_task(*args, **options) -> TaskData:
    (data,) = load_tasks(*args, **options)
    return data


def write(path: Path, rows: list) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


def prompts(data) -> list[str]:
    return [example.prompt.partition(".")[0] for example in data.examples]


def test_demonstrations_are_set_aside_and_not_scored(tmp_path: Path) -> None:
    data = load_task("boolq", write(tmp_path / "any.jsonl", ROWS), shots=3, limit=4)
    assert [shot.prompt.partition(".")[0] for shot in data.shots] == ["Fact 0", "Fact 1", "Fact 2"]
    assert prompts(data) == ["Fact 3", "Fact 4", "Fact 5", "Fact 6"]
    assert len(load_task("boolq", tmp_path / "any.jsonl", shots=0).examples) == 8


def test_demonstrations_come_from_their_own_split_where_there_is_one(tmp_path: Path) -> None:
    write(tmp_path / "BoolQ.jsonl.gz", ROWS[:4])
    write(tmp_path / "boolq.train.jsonl", ROWS[4:])
    data = load_task("boolq", tmp_path, shots=2)
    assert prompts(data) == ["Fact 0", "Fact 1", "Fact 2", "Fact 3"]
    assert [shot.prompt.partition(".")[0] for shot in data.shots] == ["Fact 4", "Fact 5"]


def test_damaged_demonstrations_are_named(tmp_path: Path) -> None:
    write(tmp_path / "boolq.jsonl", ROWS[:4])
    (tmp_path / "boolq.train.jsonl").write_text("{")
    with pytest.raises(EvaluationError, match=r"boolq\.train\.jsonl"):
        load_task("boolq", tmp_path, shots=2)


def test_file_of_benchmarks_is_searched(tmp_path: Path) -> None:
    write(tmp_path / "all.jsonl", [{"name": "ARC-Easy", "test": []}, {"name": "Bool-Q", "test": ROWS, "train": ROWS}])
    assert len(load_task("boolq", tmp_path).examples) == 8
    with pytest.raises(EvaluationError, match=r"has no piqa: expected piqa\.jsonl in it"):
        load_task("piqa", tmp_path / "all.jsonl")


def test_hub_is_asked_for_the_split_and_for_no_more_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(path: str, config: str | None, split: str) -> list:
        asked.append((path, config, split))
        return ROWS[:2]

    monkeypatch.setattr(datasets, "load_dataset", load)
    load_task("boolq", shots=2, limit=2)
    assert asked == [("google/boolq", None, "validation[:4]"), ("google/boolq", None, "train[:2]")]
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: 1 / 0)
    with pytest.raises(EvaluationError, match=r"the data set google/boolq cannot be read .*: use --data"):
        load_task("boolq")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=re.escape(f"{install_command('eval')}, or pass --data")):
        load_task("piqa")


def test_own_file_becomes_a_task(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "answer": i} for i in range(5)]
    data = load_task(str(write(tmp_path / "my.jsonl", rows)))
    assert data.task.name == "my"
    assert [example.gold for example in data.examples] == ["3", "4"]


TASK = {
    "name": "add",
    "descriptions": ["Add."],
    "examples": [["1+1", "2"], {"prompt": "2+2", "answer": 4}, ["3+3", "6"]],
}


def test_tasks_are_those_that_training_and_the_check_read(tmp_path: Path) -> None:
    """The same file for all three."""
    held_out = [{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "4+4"}], "response": "8"}]
    rows = [TASK, TASK | {"name": "more", "held_out_examples": held_out}]
    path = write(tmp_path / "tasks.jsonl", rows)
    add, more = load_tasks(str(path), shots=2)
    assert (add.task.name, more.task.name) == ("add", "more")
    assert [(shot.prompt, shot.target) for shot in add.shots] == [("1+1", "2"), ("2+2", "4")]
    assert [(question.prompt, question.gold) for question in add.examples] == [("3+3", "6")]
    assert more.shots == add.shots
    assert [(question.prompt, question.gold) for question in more.examples] == [("S\n\n4+4", "8")]
    checked = prepare_tasks(read_tasks(path))
    assert [task.descriptions for task in checked] == [["Add."], ["Add."]]
    assert [[answer for _, answer in task.examples] for task in checked] == [["2", "4", "6"], ["8"]]
    (tmp_path / "add.yaml").write_text(
        "descriptions: [Add.]\nexamples: [[1+1, '2'], [2+2, '4']]\n", encoding="utf-8-sig"
    )
    (yaml,) = load_tasks(str(tmp_path / "add.yaml"), shots=0)
    assert (yaml.task.name, [question.gold for question in yaml.examples]) == ("add", ["2", "4"])


def test_what_counts_of_a_response_may_be_a_part(tmp_path: Path) -> None:
    rows = [{"prompt": "2+2", "response": "It is 4.", "answer": "4"}] * 2
    data = load_task(str(write(tmp_path / "my.jsonl", rows)), shots=1)
    assert [(e.gold, e.target) for e in (*data.shots, *data.examples)] == [("4", "It is 4.")] * 2
    assert data.task.judge("4", data.examples[0]).correct
    assert data.task.judge("It is 4.", data.examples[0]).correct
    assert not data.task.judge("It is 5.", data.examples[0]).correct
    (task,) = read_tasks(tmp_path / "my.jsonl", described=False)
    assert task.examples[0].without_definition() == ("2+2", "It is 4.")


def test_turns_of_a_conversation_are_asked_in_order(tmp_path: Path) -> None:
    messages = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user")]
    data = load_task(str(write(tmp_path / "my.jsonl", [{"messages": messages, "answer": "x"}])), shots=0)
    assert (data.examples[0].before, data.examples[0].prompt) == (("u", "a"), "u")
    for wrong in (messages[:2], messages[1:], messages[:1] * 2, []):
        write(tmp_path / "my.jsonl", [{"messages": wrong, "answer": "x"}])
        with pytest.raises(EvaluationError, match=r"expected the last one to be the user's|expected a `prompt`"):
            load_task(str(tmp_path / "my.jsonl"), shots=0)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"prompt": "a"}', "example 1 is .*: expected a `prompt`"),
        (b'{"prompt": "a", "answer": "b"}\n\n{"prompt": "a", "answer": null}', "example 2 is .*: expected"),
        (b'{"prompt": "a", "answer": " "}', "example 1 is .*: expected"),
        (b"[1]", "example 1 is .*: expected"),
        (b"1", "line 1 is not a task: expected a mapping"),
        (b"nonsense", "line 1 is not JSON"),
        (b"\x1f\x8bnonsense", "cannot be read"),
        (b'{"prompt": "a", "answer": "b"}\n\xff', r"cannot be read \(line 2 is not UTF-8 text\): save it as UTF-8"),
        (b"", "holds no tasks"),
        (b'{"prompt": "a", "answer": "b"}', "no examples left to score, after 1 for demonstrations"),
    ],
)
def test_own_file_that_cannot_be_used_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "my.jsonl").write_bytes(content)
    with pytest.raises(EvaluationError, match=told):
        load_tasks(str(tmp_path / "my.jsonl"))


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="'arc_chalenge' is not a task: did you mean 'arc_challenge'"):
        load_task("arc_chalenge")
    with pytest.raises(EvaluationError, match="No such file"):
        load_task("none.jsonl")
    with pytest.raises(EvaluationError, match="does not exist"):
        load_task("boolq", tmp_path / "none")


def test_every_benchmark_of_the_paper_has_a_source() -> None:
    names = "arc_challenge arc_easy boolq gsm8k hellaswag openbookqa piqa winogrande humaneval mbpp".split()
    assert list(BENCHMARKS) == names
    assert all(task.source and "/" in task.source.path for task in BENCHMARKS.values())


def test_answers_may_be_as_long_as_the_longest_of_their_task(tmp_path: Path) -> None:
    long = " ".join(["word"] * 91)
    write(tmp_path / "long.jsonl", [{"prompt": "2+2", "response": "4"}, {"prompt": "all", "response": long}])
    assert load_task(str(tmp_path / "long.jsonl"), shots=0).task.max_new_tokens == len(long) // 2 + 16
    write(tmp_path / "short.jsonl", [{"prompt": "2+2", "response": "4"}])
    assert load_task(str(tmp_path / "short.jsonl"), shots=0).task.max_new_tokens == 64
