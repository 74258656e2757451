"""The table of a released model: a line for each condition, with what every task adds to it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from text2lora.evaluation.charts import draw_bars, new_figure
from text2lora.evaluation.metrics import Estimate, bootstrap
from text2lora.files import atomic_folder


class Detail(NamedTuple):
    """Exact match of one task under one description (empty where there is none), with the task's group."""

    group: str
    task: str
    description: str
    exact_match: float


Score = tuple[str, str, str, torch.Tensor]
"""The group, the task and the text of a description, and whether each answer under it was right."""


@dataclass(frozen=True)
class Row:
    """A line of the table: its name, its figure, and what the figure is made of."""

    name: str
    estimate: Estimate
    details: list[Detail]


def make_row(name: str, scores: Sequence[Score]) -> Row:
    """A line from the scores of each description.

    The figure is the mean over tasks; a task's descriptions weigh the same. Its interval resamples tasks.
    """
    by_task: dict[str, list[torch.Tensor]] = {}
    for _, task, _, matches in scores:
        by_task.setdefault(task, []).append(matches)
    estimate = bootstrap([torch.cat(group) for group in by_task.values()])
    return Row(name, estimate, [Detail(g, t, d, m.double().mean().item()) for g, t, d, m in scores])


def as_markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown: exact match with its 95 % interval over tasks."""
    lines = ["| | exact match | 95 % interval | tasks | samples |", "|---|---|---|---|---|"]
    for row in rows:
        e = row.estimate
        lines.append(f"| {row.name} | {e.mean:.3f} | {e.low:.3f} to {e.high:.3f} | {e.tasks} | {e.samples:,} |")
    return "\n".join(lines)


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """The table as a picture: a bar for each row, as PNG."""
    ours = [row.name.startswith(("text2lora", "free-form")) for row in rows]
    figure, (ax,) = new_figure(9, 0.32 * len(rows) + 1)
    draw_bars(ax, [row.name for row in rows], [row.estimate for row in rows], ours)
    ax.set_xlabel("exact match, with 95 % intervals over tasks")
    ax.set_xlim(0, 1)
    figure.savefig(path)


def write_results(rows: Sequence[Row], folder: Path) -> None:
    """Write `table.md`, `results.json`, `tasks.csv` (a line per task and description) and the picture `table.png`."""
    with atomic_folder(folder) as temporary:
        (temporary / "table.md").write_text(as_markdown(rows) + "\n", encoding="utf-8")
        results = {row.name: row.estimate._asdict() for row in rows}
        (temporary / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        with (temporary / "tasks.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["row", *Detail._fields])
            writer.writerows((row.name, *detail) for row in rows for detail in row.details)
        plot_rows(rows, temporary / "table.png")
