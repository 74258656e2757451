"""The tasks on records as training draws them, which recipes name as `../source.py:Records`, and the splits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalogue import TASKS, UNSEEN, Task
from corpus import TaskSampler, sample_example
from wording import describe

from text2lora.files import read_json_lines
from text2lora.nano import sample_record
from text2lora.training.data import Probe, TaskDraw

DATA = Path(__file__).parent / "data"
FIRST_SEED = 5000
"""Records for evaluation from here on; validation during training takes those from 0 on."""


@dataclass
class Records:
    """The training tasks, each with a fixed number of composed descriptions and endless examples.

    Attributes:
        per_group: descriptions per task of each group; groups that are not named are left out.
        seed: of the descriptions.
        groups: how often a task of each group is drawn, where it is not `GROUP_WEIGHTS`.
        validate: the splits that training validates on, with the number of records for each description.
    """

    per_group: dict[str, int]
    seed: int = 0
    groups: dict[str, float] = field(default_factory=dict)
    validate: dict[str, int] = field(default_factory=dict)
    descriptions: list[str] = field(init=False, default_factory=list)
    task_names: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        rng = random.Random(f"descriptions {self.seed}")
        self._rows: dict[str, range] = {}
        names = [name for name, task in TASKS.items() if name not in UNSEEN and self.per_group.get(task.group)]
        self._sample = TaskSampler(names, self.groups)
        for name in names:
            start = len(self.descriptions)
            task = TASKS[name]
            self.descriptions += [describe(task, rng) for _ in range(self.per_group[task.group])]
            self.task_names += [name] * (len(self.descriptions) - start)
            self._rows[name] = range(start, len(self.descriptions))
        self.probes = {
            split: [Probe(text, evaluation_examples(TASKS[task], records)) for task, text in read_split(split)]
            for split, records in self.validate.items()
        }

    def draw(self, rng: random.Random, examples: int) -> TaskDraw:
        """A random training task, one of its descriptions, and training records."""
        task = self._sample(rng)
        return TaskDraw(rng.choice(self._rows[task.name]), [sample_example(task, rng) for _ in range(examples)])


def evaluation_examples(task: Task, count: int, first_seed: int = 0) -> list[tuple[str, str]]:
    """Records that no training saw, spread over the kinds that the task is for, with the right answers."""
    examples = []
    for i in range(count):
        line, fields = sample_record(task.kinds[i % len(task.kinds)], first_seed + i)
        examples.append((line, task.answer(fields)))
    return examples


def read_split(name: str) -> list[tuple[str, str]]:
    """Task names and descriptions of a split such as `dev_seen`; an empty name where a line has no task (junk)."""
    return [(row.get("task", ""), row["description"]) for row in read_json_lines(DATA / f"{name}.jsonl")]


def split_tasks(name: str, records: int) -> Iterator[dict[str, Any]]:
    """The tasks of a split in the format of task files, each with all its descriptions and so many unseen records."""
    descriptions: dict[str, list[str]] = {}
    for task, text in read_split(name):
        descriptions.setdefault(task, []).append(text)
    for task, texts in descriptions.items():
        yield {
            "name": task,
            "descriptions": texts,
            "examples": evaluation_examples(TASKS[task], records, FIRST_SEED),
        }
