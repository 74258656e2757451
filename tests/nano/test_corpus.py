import json
import random
import re
from pathlib import Path

import pytest
import wording
from catalogue import TASKS, UNSEEN, header
from corpus import TRAIN_SEEDS, PretrainingDocuments
from source import FIRST_SEED, Records, evaluation_examples, read_split
from tokenizer import ANSWER, END, RECORD, build_tokenizer

from text2lora.nano import KINDS, sample_record

SPLITS = ("dev_seen", "dev_unseen", "dev_freeform", "test_seen", "test_unseen", "test_freeform", "test_fresh")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize(
    "text", ["order A1: 3 x", "The email_domain is gé日 😀.", '{"city": "Berlin"}', "<name>Faraday</name>", "\n\t"]
)
def test_tokenizer_is_lossless(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_plain_call_and_chat_template_give_the_same_prompt(tokenizer):
    line, _ = sample_record("order", 3)
    ids = tokenizer(line)["input_ids"]
    turns = [{"role": "user", "content": line}]
    assert tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False) == ids
    assert tokenizer.convert_ids_to_tokens([ids[0], ids[-1]]) == [RECORD, ANSWER]


def test_a_record_takes_about_sixty_tokens(tokenizer):
    lengths = [len(tokenizer(sample_record(kind, seed)[0])["input_ids"]) for kind in KINDS for seed in range(30)]
    assert sum(lengths) / len(lengths) < 65


@pytest.mark.parametrize("style", ["queries", "headed", "shots"])
def test_pretraining_never_shows_an_unseen_task(style):
    documents, rng = PretrainingDocuments(), random.Random(0)
    unseen_headers = {"".join(header(TASKS[name])) for name in UNSEEN}
    unseen_headers -= {"".join(header(task)) for name, task in TASKS.items() if name not in UNSEEN}
    for _ in range(300):
        text = documents.document(style, rng)
        assert text.count(ANSWER) == text.count(END)
        announced = {part.split(END)[-1] for part in text.split(ANSWER)[:-1]}
        assert not announced & unseen_headers


def test_evaluation_records_are_never_training_records():
    assert FIRST_SEED + 10_000 < TRAIN_SEEDS
    line, answer = evaluation_examples(TASKS["city/upper"], 1)[0]
    assert answer in line.upper()


@pytest.mark.parametrize("split", SPLITS)
def test_splits_name_known_tasks_of_the_right_side(split):
    pairs = read_split(split)
    assert len(pairs) >= 10
    for task, description in pairs:
        assert description.strip()
        assert task in TASKS
        if split.endswith("_seen"):
            assert task not in UNSEEN
        if split.endswith("_unseen"):
            assert task in UNSEEN


def test_development_and_test_share_no_task_and_no_wording():
    for kind in ("seen", "unseen"):
        assert not {t for t, _ in read_split(f"dev_{kind}")} & {t for t, _ in read_split(f"test_{kind}")}
    texts = [text.lower() for split in SPLITS for _, text in read_split(split)]
    assert len(texts) == len(set(texts))


def test_training_descriptions_are_not_those_of_the_splits():
    tasks = Records({"field": 3, "combined": 2, "pair": 1, "question": 5, "computation": 3})
    held_out = {text.lower() for split in SPLITS for _, text in read_split(split) if len(text.split()) > 4}
    assert not {text.lower() for text in tasks.descriptions} & held_out
    draw = tasks.draw(random.Random(0), 3)
    assert len(draw.examples) == 3
    assert 0 <= draw.description < len(tasks.descriptions)


def test_every_task_can_be_described_in_many_ways():
    rng = random.Random(0)
    for task in TASKS.values():
        text = wording.describe(task, rng)
        assert text
        assert not re.search(r"\{(noun|adv|imp|how|kind|clause|question|condition|verbed|pattern)\}", text, re.I)
    many = {wording.describe(TASKS["city/upper"], rng) for _ in range(300)}
    assert len(many) > 280


def test_split_files_are_one_json_object_a_line():
    folder = Path(wording.__file__).parent / "data"
    for path in folder.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert set(json.loads(line)) <= {"task", "description"}
