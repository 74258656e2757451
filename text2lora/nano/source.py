"""The nano tasks as training reads them, and the splits that evaluation reads."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from text2lora.evaluation.check import CheckTask
from text2lora.nano.corpus import TaskSampler, sample_example
from text2lora.nano.records import sample_record
from text2lora.nano.tasks import TASKS, UNSEEN, Task
from text2lora.nano.wording import describe
from text2lora.training.data import Probe, TaskDraw

DATA = Path(__file__).parent / "data"
SPLITS = ("dev_seen", "dev_unseen", "dev_freeform", "test_seen", "test_unseen", "test_freeform")


@dataclass
class NanoTasks:
    """The training tasks, each with a fixed number of composed descriptions and endless examples.

    Attributes:
        per_group: descriptions per task of each group.
        seed: of the descriptions.
        weights: how often a task of each group is drawn, where it is not `GROUP_WEIGHTS`.
    """

    per_group: dict[str, int]
    seed: int = 0
    weights: dict[str, float] = field(default_factory=dict)
    descriptions: list[str] = field(init=False, default_factory=list)
    task_names: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        rng = random.Random(f"descriptions {self.seed}")
        self._rows: dict[str, range] = {}
        names = [name for name in TASKS if name not in UNSEEN]
        self._sample = TaskSampler(names, self.weights)
        for name in names:
            start = len(self.descriptions)
            task = TASKS[name]
            self.descriptions += [describe(task, rng) for _ in range(self.per_group[task.group])]
            self.task_names += [name] * (len(self.descriptions) - start)
            self._rows[name] = range(start, len(self.descriptions))

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
    rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(row.get("task", ""), row["description"]) for row in rows]


def read_probes(name: str, records: int) -> Sequence[Probe]:
    """A split as probes with that many records each."""
    return [Probe(text, evaluation_examples(TASKS[task], records)) for task, text in read_split(name)]


def read_check_tasks(name: str, records: int, first_seed: int = 5000) -> list[CheckTask]:
    """A split as tasks to check conditioning with, each with all its descriptions and so many unseen records."""
    descriptions: dict[str, list[str]] = {}
    for task, text in read_split(name):
        descriptions.setdefault(task, []).append(text)
    return [
        CheckTask(task, texts, evaluation_examples(TASKS[task], records, first_seed))
        for task, texts in descriptions.items()
    ]
