"""Endless documents to pre-train the nano base on, and records to train adapters with.

All text is made from a seed; nothing is stored. Training draws record seeds from `TRAIN_SEEDS` upwards, evaluation
takes small ones, so that no record of an evaluation was ever trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from catalogue import TASKS, UNSEEN, Task, header
from tokenizer import ANSWER, END, RECORD

from text2lora.nano import KINDS, sample_record

TRAIN_SEEDS = 1_000_000
GROUP_WEIGHTS = {"field": 0.4, "combined": 0.12, "pair": 0.24, "question": 0.14, "computation": 0.1}
"""How often training draws a task of each group, unless a recipe says otherwise."""


class TaskSampler:
    """Draws tasks: first a group by its weight, then a task of it; all of them, or those for one kind of record."""

    def __init__(self, names: Iterable[str], weights: Mapping[str, float] | None = None):
        self._weights = {**GROUP_WEIGHTS, **(weights or {})}
        self._pools: dict[str, dict[str, list[Task]]] = {}
        for name in names:
            task = TASKS[name]
            for kind in ("any", *task.kinds):
                self._pools.setdefault(kind, {}).setdefault(task.group, []).append(task)

    def __call__(self, rng: random.Random, kind: str = "any") -> Task:
        pools = self._pools[kind]
        groups = list(pools)
        return rng.choice(pools[rng.choices(groups, [self._weights[g] for g in groups])[0]])


def sample_example(task: Task, rng: random.Random) -> tuple[str, str]:
    """A training record of a kind that the task is for, and the right answer."""
    line, fields = sample_record(rng.choice(task.kinds), rng.randrange(TRAIN_SEEDS, 2**40))
    return line, task.answer(fields)


class PretrainingDocuments:
    """Documents of three kinds, with the formal task tokens (`header`) or without them.

    - `queries`: one record, then several tasks about it, each announced by its header
    - `headed`: a header, then records with their answers
    - `shots`: records with their answers and no header, so that the model infers the task from demonstrations
    """

    def __init__(self, queries: int = 6, headed: int = 3, shots: int = 4, weights: Mapping[str, float] | None = None):
        self.queries, self.headed, self.shots = queries, headed, shots
        self._sample = TaskSampler((name for name in TASKS if name not in UNSEEN), weights)

    def document(self, style: str, rng: random.Random) -> str:
        """One document of a style, as text with special tokens."""
        if style == "queries":
            kind = rng.choice(KINDS)
            line, fields = sample_record(kind, rng.randrange(TRAIN_SEEDS, 2**40))
            tasks = [self._sample(rng, kind) for _ in range(self.queries)]
            return f"{RECORD}{line}" + "".join(f"{''.join(header(t))}{ANSWER}{t.answer(fields)}{END}" for t in tasks)
        task = self._sample(rng)
        examples = [sample_example(task, rng) for _ in range(self.headed if style == "headed" else self.shots)]
        text = "".join(f"{RECORD}{line}{ANSWER}{answer}{END}" for line, answer in examples)
        return "".join(header(task)) + text if style == "headed" else text
