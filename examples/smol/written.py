"""Tasks over invented texts, which language models wrote for this project: many questions on each text.

Each line of `written/AREA.jsonl` is a domain: `domain`, `tasks` (the wordings of each task by its name) and `records`
(a text, followed by its answer to each task, or by null where a task has none). That one text has many answers is what
teaches the hypernetwork to obey the description.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tasks import SPLITS, Pair, Task, place, slug

from text2lora.files import read_json_lines

HELD_OUT_WORDINGS = 2
EVALUATED = 8
"""Of a domain's texts, development keeps back one in so many, and so does the test."""
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
TWINS = 0.8
"""A task is left out if a description of it is as similar as this to one of an unseen task (cosine of embeddings)."""


def read_written(folder: Path) -> dict[str, list[Task]]:
    """The tasks of each domain, by `AREA: domain`. A text that is held out is held out of all tasks of its domain."""
    found: dict[str, list[Task]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for domain in read_json_lines(path):
            own = found.setdefault(f"{path.stem}: {domain['domain']}", [])
            records = sorted(domain["records"], key=lambda record: place(record[0]))
            size = len(records) // EVALUATED
            parts = dict(zip(SPLITS, (records[2 * size :], records[:size], records[size : 2 * size]), strict=True))
            for column, (task, wordings) in enumerate(domain["tasks"].items(), 1):
                name = f"{path.stem}_{slug(domain['domain'])}_{slug(task)}"
                pairs = {split: _pairs(rows, column) for split, rows in parts.items()}
                order = random.Random(name).sample(wordings, len(wordings))
                held_out, said = order[:HELD_OUT_WORDINGS], order[HELD_OUT_WORDINGS:]
                answers = sorted({answer for rows in pairs.values() for _, answer in rows})
                labels = answers if len(answers) <= 5 else []
                own.append(Task(name, f"written, {path.stem}", pairs, said, held_out, labels))
    return found


def _pairs(records: Iterable[Sequence[str | None]], column: int) -> list[Pair]:
    return [(str(record[0]), answer) for record in records if (answer := record[column]) is not None]


def drop_twins(written: Sequence[Task], unseen: Iterable[Sequence[str]], report: Callable[[str], None]) -> list[Task]:
    """Leave out the tasks that say much the same as an unseen task, given the descriptions of each of these."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from text2lora import TextEncoder
    from text2lora.base import load_base

    encoder = TextEncoder(load_base(AutoModel, ENCODER), load_base(AutoTokenizer, ENCODER))

    def embed(texts: Sequence[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(encoder.encode(texts), dim=-1)

    known = embed([text for texts in unseen for text in texts])
    said = [[*task.wordings, *task.held_out] for task in written]
    nearest = (embed([text for texts in said for text in texts]) @ known.T).amax(1)  # to a text of an unseen task
    each = nearest.split([len(texts) for texts in said])
    kept = [task for task, own in zip(written, each, strict=True) if own.max() < TWINS]
    if len(kept) < len(written):
        report(
            f"left out of training, for an unseen task resembles them: {len(written) - len(kept)} of {len(written)} "
            "written tasks"
        )
    return kept
