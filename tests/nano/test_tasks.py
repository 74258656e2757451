import json

import pytest
from catalogue import TASKS, UNSEEN, Task

FIELDS = {
    "first": "Anna", "last": "Smith", "name": "Anna Smith", "city": "New York", "price": "49.90", "quantity": "7",
    "year": "2021", "email_domain": "acme.com", "level": "urgent", "hour": "09", "weekday": "Sunday", "id": "A1042",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("city/plain", "New York"),
        ("city/upper", "NEW YORK"),
        ("city/lower", "new york"),
        ("city/quoted", '"New York"'),
        ("city/json", '{"city": "New York"}'),
        ("city/label", "city: New York"),
        ("city/brackets", "[New York]"),
        ("city/first_letter", "N"),
        ("city/spelled", "N-e-w-Y-o-r-k"),
        ("city/twice", "New York New York"),
        ("city/hashtag", "#newyork"),
        ("city/shouted", "NEW YORK!"),
        ("name/initials", "A.S."),
        ("city/slug", "new-york"),
        ("city/upper+quoted", '"NEW YORK"'),
        ("name+city/comma", "Anna Smith, New York"),
        ("name+city/slash", "Anna Smith / New York"),
        ("name+city/paren", "Anna Smith (New York)"),
        ("name+city/json", '{"name": "Anna Smith", "city": "New York"}'),
        ("name+city/upper+slash", "ANNA SMITH / NEW YORK"),
        ("price_50/yes_no", "no"),
        ("below_50/true_false", "true"),
        ("year_2020/one_zero", "1"),
        ("com_address/y_n", "Y"),
        ("urgent/yes_no", "yes"),
        ("before_noon/yes_no", "yes"),
        ("weekend/yes_no", "yes"),
        ("quantity_plus_one/plain", "8"),
        ("quantity_doubled/brackets", "[14]"),
        ("whole_dollars/plain", "49"),
    ],
)
def test_answers(name, answer):
    assert TASKS[name].answer(FIELDS) == answer


def test_json_answers_parse():
    for name in ("city/json", "name+city/json"):
        assert json.loads(TASKS[name].answer(FIELDS))["city"] == "New York"


def test_every_task_answers_on_every_kind_it_is_for():
    from text2lora.nano import sample_record

    for task in TASKS.values():
        assert task.kinds
        for kind in task.kinds:
            assert task.answer(sample_record(kind, 1)[1])


def test_unseen_tasks_are_new_combinations_of_known_parts():
    seen = [TASKS[name] for name in TASKS if name not in UNSEEN]
    fields, forms = (
        {w for t in seen for w in t.what},
        {(t.group, t.wrap) for t in seen} | {(t.group, t.transform) for t in seen},
    )
    for name in UNSEEN:
        task = TASKS[name]
        assert set(task.what) <= fields
        assert {(task.group, task.wrap), (task.group, task.transform)} <= forms
    assert 0.1 < len(UNSEEN) / len(TASKS) < 0.25


def test_a_combination_is_held_out_with_either_of_its_halves():
    for name, task in TASKS.items():
        if task.group == "combined":
            halves = [Task(task.what, task.transform).name, Task(task.what, "plain", task.wrap).name]
            assert (name in UNSEEN) == any(half in UNSEEN for half in halves)
