"""The task files of smol, from a made-up data folder: what is held out stays out, and made answers are right."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import forks
import pytest
import yaml

from text2lora.training.task_files import read_tasks

PREPARE = Path(__file__).parents[1] / "examples/smol/prepare.py"
FILES = ["train", "dev_seen", "dev_unseen", "test_seen", "test_unseen"]
SIDES = {"dev": "nlupp_agree_or_deny", "test": "wordnet_field_of_term"}
"""Given tasks that `splits.yaml` holds out whole."""


def sentence(rng: random.Random) -> str:
    words = "please look at my new red car and find the old blue book for a big green house to rent".split()
    return " ".join(rng.sample(words, rng.randint(5, 9)))


def labelled(labels: list[str], count: int, rng: random.Random) -> list[list[str]]:
    return [[sentence(rng), label] for label in labels for _ in range(count)]


def write(rows: list[dict], path: Path) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_data(folder: Path) -> None:
    rng = random.Random(0)
    folder.mkdir()
    intents = ["book restaurant", "get weather", "play music", "rate book"]
    words = ["".join(rng.choice("abcdefgimnorstuz") for _ in range(6)) for _ in range(200)]
    tasks = {
        "snips_intent": labelled(intents, 40, rng),
        "clinc_domain": labelled(["banking", "home", "work"], 40, rng),
        "nlupp_agree_or_deny": labelled(["affirm", "deny"], 30, rng),
        "wordnet_field_of_term": labelled(["law", "music"], 30, rng),
        "code_starts_with_vowel": [[word, "yes" if word[0] in "aeiou" else "no"] for word in words],
        "code_first_word": [[text, text.split()[0]] for text in (sentence(rng) for _ in range(100))],
        "nobody_described_this": labelled(["x", "y"], 20, rng),
    }
    row = {"family": "classification", "definitions": [""]}
    write_wordings([name for name in [*tasks, "capitalize"] if "nobody" not in name], folder / "wordings")
    write_written(folder / "written")
    write([{"name": name, "examples": rows, **row} for name, rows in tasks.items()], folder / "real_tasks.jsonl.gz")
    pairs = [{"prompt": word, "response": word.upper()} for word in words]
    vectors = {"name": "capitalize", "group": "abstractive", "train": pairs[:150], "test": pairs[150:]}
    write([vectors], folder / "function_vectors.jsonl.gz")
    sorting = [[f"bigbench {text}", "sorted"] for text in (sentence(rng) for _ in range(40))]
    sorting += [[f"{text.capitalize()}.", "sorted"] for text, _ in tasks["code_first_word"][:30]]
    names = ["bb_word_sorting", "bb_navigate"]
    write([{"name": name, "examples": sorting, **row} for name in names], folder / "bigbench_tasks.jsonl.gz")


def write_wordings(names: list[str], folder: Path) -> None:
    files = {
        "given": [{"name": name, "descriptions": [f"Do {name}, way {i}." for i in range(12)]} for name in names],
        "held_out/given": [{"name": name, "descriptions": [f"Go for {name} {i}." for i in range(4)]} for name in names],
        "bigbench": [
            {"name": "bb_word_sorting", "descriptions": ["Sort."]},
            {"name": "bb_navigate", "descriptions": ["Walk."]},
        ],
    }
    (folder / "held_out").mkdir(parents=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_written(folder: Path) -> None:
    """Three tasks over two domains: `splits.yaml` holds out the second; "Sort." is a twin of BIG-bench's."""
    folder.mkdir()
    ways = [
        "{} the first word of the line.",
        "say {} number one",
        "I need {} one",
        "{}!",
        "Do {} now.",
        "Just {}, please.",
    ]
    tasks = {name: [way.format(name) for way in ways] for name in ("copy", "shout")} | {"sort": ["Sort.", *"abcde"]}
    for domain, kept in (("lines of a play", 0), ("price signs at a farmers' market", 1)):
        records = [
            [f"{word} {kept} and more", word, word.upper(), f"{kept} and more {word}"]
            for word in (f"w{chr(97 + i // 5)}{chr(97 + i % 5)}" for i in range(24))
        ]
        row = {"domain": domain, "tasks": tasks, "records": records}
        with (folder / "world.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def command(data: Path, output: str | Path) -> list[str | Path]:
    """The words that make the files of a data folder that `write_data` wrote."""
    given = ["--data", data, "--wordings", data / "wordings", "--written", data / "written"]
    return [sys.executable, PREPARE, "--output", output, *given, "--weights", 12, 1, 3]


def prepare(data: Path, output: Path) -> tuple[int, str, str]:
    with forks.Popen(
        [str(word) for word in command(data, output)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        said = process.communicate()
    return process.returncode, *said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smol")
    write_data(folder / "data")
    code, out, err = prepare(folder / "data", folder / "first")
    assert code == 0, err
    (folder / "said").write_text(out)
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, dict[str, dict]]:
    """By file and task, what was written."""
    return {
        name: {row["name"]: row for row in map(json.loads, (folder / f"first/{name}.jsonl").open(encoding="utf-8"))}
        for name in FILES
    }


def inputs(row: dict, key: str = "held_out_examples") -> set[str]:
    return {prompt for prompt, _ in row[key]}


def test_files_are_those_that_training_reads(folder: Path) -> None:
    tasks = read_tasks(folder / "first/train.jsonl")
    assert len(tasks) > 100
    assert all(len(task.held_out_examples) >= 4 or not task.held_out_examples for task in tasks)
    assert all(task.held_out_descriptions for task in tasks)
    weights = {task.name: task.weight for task in tasks}
    assert weights["snips_intent"] == 12
    assert weights["world_lines_of_a_play_copy"] == 1
    assert set(weights.values()) == {12, 1, 3}


def test_written_texts_are_held_out_of_all_tasks_of_their_domain(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "first/train.jsonl").open(encoding="utf-8")]
    own = [row for row in rows if row["name"].startswith("world_lines_of_a_play")]
    assert {"world_lines_of_a_play_copy", "world_lines_of_a_play_shout"} <= {row["name"] for row in own}
    assert len(own) > 2, "no other form of an answer was made"
    read = {prompt for row in own for prompt, _ in row["examples"]}
    evaluated = [json.loads(line) for line in (folder / "first/dev_seen.jsonl").open(encoding="utf-8")]
    seen = [row for row in evaluated if row["name"].startswith("world_lines_of_a_play")]
    scored = {prompt for row in seen for prompt, _ in row["held_out_examples"]}
    assert (len(read), len(scored)) == (18, 3)
    assert not read & scored


def test_whole_domains_and_twins_of_unseen_tasks_are_kept_out_of_training(folder: Path) -> None:
    trained = (folder / "first/train.jsonl").read_text(encoding="utf-8")
    assert "farmers" not in trained
    assert "world_lines_of_a_play_sort" not in trained
    assert "an unseen task resembles them: 1 of 3 written tasks" in (folder / "said").read_text()
    rows = [json.loads(line) for line in (folder / "first/dev_domains.jsonl").open(encoding="utf-8")]
    assert [row["name"].rsplit("_", 1)[1] for row in rows] == ["copy", "shout", "sort"]


def test_inputs_of_tasks_for_evaluation_alone_are_not_trained_on(folder: Path, rows: dict) -> None:
    known = {
        prompt
        for name in ("bb_word_sorting", "bb_navigate")
        for row in ("dev_unseen", "test_unseen")
        if name in rows[row]
        for key in ("examples", "held_out_examples")
        for prompt in inputs(rows[row][name], key)
    }
    assert known
    assert not any(
        f"{prompt.capitalize()}." in known for row in rows["train"].values() for prompt in inputs(row, "examples")
    )
    assert "evaluation alone have their inputs" in (folder / "said").read_text()


def test_what_comes_with_smol_for_checks_is_described_nowhere_in_training() -> None:
    folder = PREPARE.parent / "wordings"
    trained = {
        text.casefold()
        for path in folder.rglob("*.jsonl")
        for line in path.read_text("utf-8").splitlines()
        for text in json.loads(line).get("descriptions", [])
    }
    tasks = (PREPARE.parents[2] / "text2lora/smol/tasks.jsonl").read_text("utf-8").splitlines()
    assert trained
    assert not trained & {text.casefold() for line in tasks for text in json.loads(line)["descriptions"]}


def test_what_is_scored_was_not_trained_on(rows: dict) -> None:
    for name, row in rows["train"].items():
        dev, test = rows["dev_seen"][name], rows["test_seen"][name]
        assert inputs(row) in (inputs(dev), set())  # none where there are too few for validation
        assert len(inputs(dev) | inputs(test)) >= 6
        scored = [inputs(row, "examples"), inputs(dev), inputs(test)]
        assert len(set().union(*scored)) == sum(map(len, scored)), name
        wordings = [row["descriptions"], dev["descriptions"], test["descriptions"]]
        assert all(wordings), name
        assert len({text for texts in wordings for text in texts}) == sum(map(len, wordings)), name


def test_held_out_wordings_are_those_of_the_other_writer(rows: dict) -> None:
    assert rows["dev_seen"]["snips_intent"]["descriptions"] == ["Go for snips_intent 0.", "Go for snips_intent 1."]
    assert rows["test_seen"]["snips_intent"]["descriptions"] == ["Go for snips_intent 2.", "Go for snips_intent 3."]
    formed = [row for name, row in rows["test_seen"].items() if name.startswith("snips_intent_in_")]
    assert all("go for" in text.lower() for row in formed for text in row["descriptions"])


def test_all_named_tasks_are_described() -> None:
    wordings = PREPARE.parent / "wordings"
    rows = [json.loads(line) for path in wordings.glob("*.jsonl") for line in path.open(encoding="utf-8")]
    described = {row["name"] for row in rows}
    sides = yaml.safe_load((PREPARE.parent / "splits.yaml").read_text(encoding="utf-8"))
    assert set(sides["dev"] + sides["test"]) <= described
    assert not set(sides["dev"]) & set(sides["test"])
    labels = yaml.safe_load((wordings / "labels.yaml").read_text(encoding="utf-8"))
    assert set(labels) <= described
    assert all(len(phrases) == 3 for row in labels.values() for phrases in [row["input"], *row["labels"].values()])


def test_made_tasks_have_many_wordings(rows: dict) -> None:
    made = [row for name, row in rows["train"].items() if name.startswith(("is_", "choice_", "operation_", "tone_"))]
    assert made
    assert all(16 <= len(row["descriptions"]) <= 24 for row in made)


def test_unseen_tasks_are_not_trained_on(rows: dict) -> None:
    for side, held_out in SIDES.items():
        assert held_out in rows[f"{side}_unseen"]
        assert not any(held_out in name for name in rows["train"])
    assert "bb_word_sorting" in rows["dev_unseen"]
    assert "bb_navigate" in rows["test_unseen"]
    assert not rows["dev_unseen"].keys() & rows["test_unseen"].keys()
    assert not any("bb_" in name for name in rows["train"])
    trained = {prompt for row in rows["train"].values() for prompt in inputs(row, "examples") | inputs(row)}
    assert not any("bigbench" in prompt for prompt in trained)


def test_tasks_without_wordings_are_named_and_left_out(folder: Path, rows: dict) -> None:
    assert "left out, for it has no wordings: nobody_described_this" in (folder / "said").read_text()
    assert not any("nobody" in name for name in rows["train"])


def answers(rows: dict, name: str) -> dict[str, str]:
    row = rows["train"][name]
    return dict(row["examples"] + row["held_out_examples"])


@pytest.fixture(scope="module")
def given(folder: Path) -> dict[str, dict[str, str]]:
    with gzip.open(folder / "data/real_tasks.jsonl.gz", "rt", encoding="utf-8") as file:
        return {row["name"]: dict(row["examples"]) for row in map(json.loads, file)}


def test_question_is_answered_by_the_given_label(rows: dict, given: dict) -> None:
    given = given["snips_intent"]
    made = answers(rows, "is_snips_intent_play_music")
    assert set(made.values()) == {"yes", "no"}
    assert all((given[prompt] == "play music") == (answer == "yes") for prompt, answer in made.items())


def test_choice_has_the_words_of_its_descriptions(rows: dict, given: dict) -> None:
    given = given["snips_intent"]
    renamed = [name for name in rows["train"] if name.startswith("choice_snips_intent") and "_as_" in name]
    assert renamed
    for name in renamed:
        row = rows["train"][name]
        words = {given[prompt]: answer for prompt, answer in answers(rows, name).items()}
        assert all(words[given[prompt]] == answer for prompt, answer in answers(rows, name).items())
        assert all(word in text for word in words.values() for text in row["descriptions"])


def test_operations_are_exact(rows: dict) -> None:
    expected = {
        "operation_word_2": lambda text: text.split()[1],
        "operation_drop_last_3_words": lambda text: " ".join(text.split()[:-3]),
        "operation_my_becomes_our": lambda text: " ".join("our" if w == "my" else w for w in text.split()),
        "operation_without_first_letter": lambda text: text[1:],
        "operation_contains_a": lambda text: "yes" if "a" in text.split() else "no",
        "list_smallest_number": lambda text: min(text.split(", "), key=int),
        "tone_sorry_to_hear": lambda text: f"I'm sorry to hear that. {text}",
    }
    for name, rule in expected.items():
        found = answers(rows, name)
        assert found == {prompt: rule(prompt) for prompt in found}, name


def test_form_is_put_on_the_given_answer(rows: dict, given: dict) -> None:
    forms = {"upper": str.upper, "json_answer": lambda a: json.dumps({"answer": a}), "it_is": lambda a: f"It is {a}."}
    found = [(name, form) for name in given for form in forms if f"{name}_in_{form}" in rows["train"]]
    assert found
    for name, form in found:
        made = answers(rows, f"{name}_in_{form}")
        assert made == {prompt: forms[form](given[name][prompt]) for prompt in made}


def test_folder_without_data_is_named(tmp_path: Path) -> None:
    code, _, err = prepare(tmp_path, tmp_path / "out")
    assert code == 2
    assert "has no real_tasks.jsonl.gz" in err
    assert not (tmp_path / "out").exists()
