"""Own tasks from files, data sets and Python; splits that do not overlap; definitions left out."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from text2lora.batch import read_descriptions
from text2lora.errors import InvalidDescriptionError, TaskError, TrainingError
from text2lora.language import prompt_batch
from text2lora.training.hub_tasks import HubTasks, load_hub_tasks
from text2lora.training.task_files import read_tasks, read_wordings, task_to_dict
from text2lora.training.tasks import SplitConfig, Task, TaskExample, TaskSet, decontaminate, split_tasks

YAML = """
descriptions: [Say it loud, Write capitals]
held_out_descriptions: [Shout]
definition: Answer in capitals.
examples:
  - {prompt: hello, response: HELLO}
  - [bye, BYE]
  - {messages: [{role: system, content: be brief}, {role: user, content: ok}], response: OK}
"""


def make_tasks(count: int = 5, examples: int = 12) -> list[Task]:
    return [
        Task(
            f"task{number}",
            [f"wording {number} {i}" for i in range(6)],
            [TaskExample(f"question {number} {i}", f"answer {i}", "the definition") for i in range(examples)],
        )
        for number in range(count)
    ]


def test_lines_of_any_depth_are_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"name": "a", "descriptions": ' + "[" * 100_000)
    with pytest.raises(TaskError, match=r"t\.jsonl line 1 is not JSON"):
        read_tasks(tmp_path)
    (tmp_path / "d.jsonl").write_text("[" * 100_000)
    with pytest.raises(InvalidDescriptionError, match=r"d\.jsonl line 1 is not a JSON object"):
        read_descriptions(tmp_path / "d.jsonl")


def test_a_folder_of_yaml_files_is_read(tmp_path: Path) -> None:
    (tmp_path / "loud.yaml").write_text(YAML)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    (tmp_path / "other.yml").write_text("name: named\ndescriptions: [say b]\nexamples: rows.jsonl\n")
    loud, other = read_tasks(tmp_path)
    assert (loud.name, other.name) == ("loud", "named")
    assert loud.descriptions == ["Say it loud", "Write capitals"]
    assert loud.held_out_descriptions == ["Shout"]
    assert [example.without_definition() for example in loud.examples[:2]] == [("hello", "HELLO"), ("bye", "BYE")]
    assert loud.examples[0].with_definition() == ("Answer in capitals.\n\nhello", "HELLO")
    messages, _ = loud.examples[2].with_definition()
    assert messages[0]["content"] == "Answer in capitals.\n\nbe brief"
    assert other.examples == [TaskExample("a", "b")]


@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.jsonl.gz"])
def test_json_lines_hold_a_task_a_line(tmp_path: Path, name: str) -> None:
    rows = [{"name": n, "descriptions": [f"do {n}"], "examples": [["x", n]]} for n in ("one", "two")]
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert [task.name for task in read_tasks(tmp_path)] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a task: expected a mapping with `descriptions` and `examples`"),
        ("descriptions: [a]\nexamples: []", "has no examples"),
        ("descriptions: []\nexamples: [[a, b]]", "has no descriptions"),
        ("descriptions: a\nexamples: [[a, b]]", "`descriptions` is 'a', expected a list"),
        ("descriptions: ['  ']\nexamples: [[a, b]]", "t.yaml: "),
        ("descriptions: [a]\nexamples: [[a, 1]]", "example 1 is .*expected a `prompt`"),
        ("descriptions: [a]\nexample: [[a, b]]\nexamples: [[a, b]]", "has no setting 'example'"),
        ("descriptions: [a]\nexamples: none.jsonl", "none.jsonl cannot be read"),
        ("a: [", "cannot be read"),
        ("descriptions: [a]\nexamples: [[2024-13-45, b]]", r"t\.yaml cannot be read \(month must be in 1"),
        ("[" * 3000, "cannot be read"),
        ("descriptions: [a]\nexamples: [{prompt: x, answer: 010}]", "numbers, yes and no need quotes"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(TaskError, match=message):
        read_tasks(tmp_path)


def test_an_empty_folder_and_broken_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="holds no tasks"):
        read_tasks(tmp_path)
    (tmp_path / "t.jsonl").write_text("{}\n{")
    with pytest.raises(TaskError, match="line 2 is not JSON"):
        read_tasks(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text('[\n{"name": "a", "descriptions": ["b"], "examples": [["c", "d"]]}]')
    with pytest.raises(TaskError, match="is one JSON array of objects: write each object on a line of its own"):
        read_tasks(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text('{"prompt": "a", "answer": "b"}')
    with pytest.raises(TaskError, match=r"holds examples without descriptions: .*`t2l describe "):
        read_tasks(tmp_path / "t.jsonl")


def test_files_from_windows_are_read(tmp_path: Path) -> None:
    text = '\ufeff{"descriptions": ["say b"], "examples": [["a", "b"]]}\r\n'
    (tmp_path / "t.jsonl").write_bytes(text.encode())
    (task,) = read_tasks(tmp_path / "t.jsonl")
    assert (task.descriptions, task.examples) == (["say b"], [TaskExample("a", "b")])
    (tmp_path / "t.jsonl").write_bytes(text.removeprefix("\ufeff").encode("utf-16"))
    with pytest.raises(TaskError, match="line 1 is not UTF-8 text"):
        read_tasks(tmp_path / "t.jsonl")


def natural_instructions(folder: Path) -> Path:
    """A data set in the layout of Lots-of-LoRAs."""
    dataset = folder / "task1_loud"
    dataset.mkdir(exist_ok=True)
    lead = (
        "Definition: Write the word in capitals.\n\nPositive Example 1 -\nInput: dog\nOutput: DOG\n\n"
        "Now complete the following example -\n"
    )
    rows = [
        {"id": str(i), "input": f"{lead}Input: {word}\nOutput:", "output": [word.upper(), "?"]}
        for i, word in enumerate(("cat", "cow", "hen"))
    ]
    (dataset / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wordings = {"dataset": str(dataset), "descriptions": ["capitals"], "held_out_descriptions": ["shout"]}
    (folder / "wordings.jsonl").write_text(json.dumps(wordings) + "\n")
    return dataset


def test_a_data_set_in_the_layout_of_lots_of_loras_is_read(tmp_path: Path) -> None:
    natural_instructions(tmp_path)
    source = HubTasks("wordings.jsonl", layout="lots-of-loras", limit=2)
    (task,) = load_hub_tasks(source, tmp_path)
    assert (task.name, task.descriptions, task.held_out_descriptions) == ("task1_loud", ["capitals"], ["shout"])
    assert [example.without_definition() for example in task.examples] == [
        ("Input: cat\nOutput:", "CAT"),
        ("Input: cow\nOutput:", "COW"),
    ]
    prompt, _ = task.examples[0].with_definition()
    assert prompt.startswith("Definition: Write")
    assert prompt.endswith("Input: cat\nOutput:")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "other"}, "expected '' or 'lots-of-loras'"),
        ({"layout": "", "prompt": "{input}"}, "needs the templates `prompt` and `response`"),
        ({"response": "{answer}"}, "its columns are id, input, output"),
        ({"split": "moon"}, "cannot be loaded"),
        ({"descriptions": "none.jsonl"}, "none.jsonl cannot be read"),
        ({"datasets": ["moon"]}, "has no descriptions of 'moon'"),
    ],
)
def test_what_is_wrong_with_a_data_set_is_said(tmp_path: Path, changes: dict, message: str) -> None:
    settings = {"datasets": [str(natural_instructions(tmp_path))], "descriptions": "wordings.jsonl"}
    with pytest.raises((TaskError, TrainingError), match=message):  # the latter of a setting
        load_hub_tasks(HubTasks(**{**settings, "layout": "lots-of-loras", **changes}), tmp_path)


def test_splits_share_nothing_with_training() -> None:
    tasks = make_tasks()
    train, splits = split_tasks(tasks, SplitConfig(unseen_tasks=2, examples=4))
    assert len(train) == 3
    assert {name: len(found) for name, found in splits.items()} == {
        "unseen_examples": 6,
        "unseen_descriptions": 3,
        "unseen_tasks": 4,
    }
    prompts = {example.prompt for task in train for example in task.examples}
    wordings = {text for task in train for text in task.descriptions}
    for name, found in splits.items():
        for probe in found:
            assert not prompts & {prompt for prompt, _ in probe.examples}
            assert len(probe.examples) == 4
            assert (probe.description in wordings) == (name == "unseen_examples")
    assert split_tasks(tasks, SplitConfig(unseen_tasks=2, examples=4)) == (train, splits)
    named, _ = split_tasks(tasks, SplitConfig(unseen_tasks=["task3"]))
    assert [task.name for task in named] == ["task0", "task1", "task2", "task4"]


def test_as_many_tasks_are_validated_as_asked_and_the_others_keep_everything() -> None:
    tasks = make_tasks()
    train, splits = split_tasks(tasks, SplitConfig(unseen_tasks=1, examples=4, wordings=1, tasks=2))
    assert {name: len(found) for name, found in splits.items()} == dict.fromkeys(splits, 2) | {"unseen_tasks": 1}
    whole = {task.name: task for task in tasks}
    assert sum(task == whole[task.name] for task in train) == 2
    prompts = {example.prompt for task in train for example in task.examples}
    assert not any(prompts & {prompt for prompt, _ in probe.examples} for found in splits.values() for probe in found)


def test_a_task_with_few_examples_limits_validation_and_is_named() -> None:
    tasks = [*make_tasks(2), replace(make_tasks(1, examples=6)[0], name="poor", descriptions=["poor"])]
    said: list[str] = []
    _, splits = split_tasks(tasks, SplitConfig(examples=5), said.append)
    assert {len(probe.examples) for probes in splits.values() for probe in probes} == {3}
    assert said == ["validating with 3 examples a task instead of 5: 'poor' can spare no more"]
    chosen = SplitConfig(examples=5, tasks=1, unseen_tasks=["task0"], seed=1)
    _, splits = split_tasks(tasks, chosen, said.append)
    assert {probe.description for probes in splits.values() for probe in probes}.isdisjoint(tasks[2].descriptions)
    assert {len(probe.examples) for probes in splits.values() for probe in probes} == {5}
    assert len(said) == 1


def test_training_keeps_a_wording_of_every_task() -> None:
    for share in (0.0, 0.9, 1.0):
        train, _ = split_tasks(make_tasks(3), SplitConfig(held_out_descriptions=share))
        assert all(task.descriptions for task in train)
    with pytest.raises(TrainingError, match=r"held_out_descriptions is 3.0: expected a share"):
        SplitConfig(held_out_descriptions=3.0)
    with pytest.raises(TrainingError, match="examples is 0: expected 1 or more"):
        SplitConfig(examples=0)


@pytest.mark.parametrize(
    ("tasks", "unseen", "message"),
    [
        (make_tasks(2), ["task7"], "holds 'task7': expected some of task0, task1"),
        (make_tasks(2), 2, "leaves none of the 2 tasks"),
        (make_tasks(2) + make_tasks(1), 0, "several tasks 'task0'"),
        (make_tasks(2, examples=1), 0, "'task0' has a single example"),
    ],
)
def test_a_split_that_cannot_be_is_refused(tasks: list[Task], unseen: object, message: str) -> None:
    with pytest.raises((TaskError, TrainingError), match=message):
        split_tasks(tasks, SplitConfig(unseen_tasks=unseen))


def test_decontamination_finds_pairs_and_long_overlaps() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    examples = [
        TaskExample("Hot!", "cold"),  # the pair, but for case and punctuation
        TaskExample("hot", "warm"),  # another answer
        TaskExample(f"so: {text}", "x"),  # 13 words in a row
        TaskExample(text[:40], "y"),
        TaskExample("???", "cold"),
    ]
    said: list[str] = []
    held_out = [("hot", "Cold."), (f"{text} fifteen", "z"), ("!!!", "cold")]
    (task,) = decontaminate([Task("t", ["d"], examples)], held_out, said.append)
    assert task.examples == [examples[1], examples[3], examples[4]]
    assert said == ["decontamination: left out 2 training examples that validation uses"]
    with pytest.raises(TaskError, match="all examples of 't'"):
        decontaminate([Task("t", ["d"], examples[:1])], held_out)


def test_the_form_of_a_tasks_prompts_is_no_overlap() -> None:
    form = "Classify the following review of a customer as positive or negative, and answer with one word: "
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    examples = [TaskExample(f"{form}thing {i}", "positive") for i in range(5)]
    held_out = [(f"{form}other", "negative"), (f"{form}{text}", "negative")]
    leaked = TaskExample(f"{form}so {text}", "negative")
    (task,) = decontaminate([Task("t", ["d"], [*examples, leaked])], held_out, lambda line: None)
    assert task.examples == examples
    few = [Task(f"t{i}", ["d"], [TaskExample(f"{form}{i}", "x"), TaskExample(f"a {i}", "x")]) for i in range(11)]
    assert decontaminate(few, held_out) == few  # half of each task, but of eleven


def test_most_draws_lack_the_definition() -> None:
    tasks = TaskSet(make_tasks(), definition_dropout=0.75)
    rng = random.Random(0)
    draws = [tasks.draw(rng, 3) for _ in range(400)]
    bare = sum(not draw.examples[0][0].startswith("the definition") for draw in draws) / len(draws)
    assert 0.68 < bare < 0.82
    for draw in draws:
        number = tasks.descriptions[draw.description].split()[1]
        assert all(prompt.split()[-2] == number for prompt, _ in draw.examples)
        assert len({prompt for prompt, _ in draw.examples}) == 3


def test_tasks_are_drawn_by_their_weights(tmp_path: Path) -> None:
    rows = [
        {"name": n, "descriptions": [n], "examples": [["a", n]], "weight": w} for n, w in (("one", 1), ("three", 3))
    ]
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = read_tasks(file)
    assert [task_to_dict(task).get("weight") for task in tasks] == [None, 3]
    rng = random.Random(0)
    drawn = [TaskSet(tasks).draw(rng, 1).description for _ in range(400)]
    assert 0.7 < sum(drawn) / len(drawn) < 0.8
    for wrong in (0, "often", 1.5):
        file.write_text(json.dumps(rows[0] | {"weight": wrong}))
        with pytest.raises(TaskError, match="weight"):
            read_tasks(file)


def test_a_long_prompt_loses_its_middle_and_never_its_response(tokenizer) -> None:
    whole = prompt_batch(tokenizer, [("a" * 30 + "b" * 30, "cccc")])
    cut = prompt_batch(tokenizer, [("a" * 30 + "b" * 30, "cccc")], max_length=20)
    assert tokenizer.decode(cut.ids[0]) == "<user>" + "a" * 6 + "b" * 7 + "<answer>cccc<eos>"
    assert cut.is_target.sum() == whole.is_target.sum()
    with pytest.raises(TaskError, match=r"has 5 tokens: raise max_length \(5\)"):
        prompt_batch(tokenizer, [("a", "cccc")], max_length=5)


def test_prompts_without_a_chat_template_and_messages(tokenizer) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert tokenizer.decode(prompt_batch(tokenizer, [(chat, "c")]).ids[0]) == "<user>a<user>b<answer>c<eos>"
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        assert tokenizer.decode(prompt_batch(tokenizer, [("ab ", "c")]).ids[0]) == "ab c<eos>"
    finally:
        tokenizer.chat_template = template


def test_the_end_of_a_turn_is_the_templates(tokenizer) -> None:
    template, tokenizer.chat_template = (
        tokenizer.chat_template,
        "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% else %}<answer>-{{ m.content }}<unk>\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}",
    )
    try:
        batch = prompt_batch(tokenizer, [("a", "c")])
        assert tokenizer.decode(batch.ids[0]).startswith("<user>a<answer>-c<unk>")  # the dash opens every answer
        assert tokenizer.decode(batch.ids[0][1:][batch.is_target[0]]) == "c<unk>"
    finally:
        tokenizer.chat_template = template


def test_examples_held_out_by_hand_are_those_of_validation(tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").write_text('["y", "Y"]\n["z", "Z"]\n["w", "W"]\n')
    (tmp_path / "loud.yaml").write_text(
        "definition: In capitals.\ndescriptions: [shout, louder]\n"
        "examples: [[a, A], [b, B]]\nheld_out_examples: held.jsonl\n"
    )
    (task,) = read_tasks(tmp_path / "loud.yaml")
    (tmp_path / "again.jsonl").write_text(json.dumps(task_to_dict(task)))
    assert read_tasks(tmp_path / "again.jsonl") == [task]
    (trained,), splits = split_tasks([task], SplitConfig(examples=2))
    assert {example.response for example in trained.examples} == {"A", "B"}
    for probes in splits.values():
        assert {response for _, response in probes[0].examples} <= {"Y", "Z", "W"}
        assert len(probes[0].examples) == 2


def test_lines_of_one_task_add_up_to_its_wordings(tmp_path: Path) -> None:
    lines = [{"task": name, "descriptions": [text]} for name, text in (("a", "one"), ("b", "two"), ("a", "three"))]
    (tmp_path / "w.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_wordings(tmp_path / "w.jsonl") == (["a", "a", "b"], ["one", "three", "two"])


def test_a_task_whose_examples_are_all_held_out_is_told_so() -> None:
    with pytest.raises(TaskError, match=r"'odd' has no examples to train on: .* differs from those that are held out"):
        TaskSet([Task("odd", ["a task"], [])])


def test_a_folder_may_hold_tasks_of_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("descriptions: [Say it loud]\nexamples: a-examples.jsonl\n")
    (tmp_path / "a-examples.jsonl").write_text('{"prompt": "x", "response": "X"}\n')
    (tmp_path / "b.jsonl").write_text(json.dumps({"name": "b", "descriptions": ["d"], "examples": [["y", "z"]]}))
    assert [task.name for task in read_tasks(tmp_path)] == ["a", "b"]
