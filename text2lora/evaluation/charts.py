"""What `t2l check` and the table of a released model found, as pictures."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from text2lora.errors import MissingExtraError
from text2lora.evaluation.check import CONDITIONS, ConditioningReport
from text2lora.evaluation.metrics import Estimate
from text2lora.installation import install_command

OURS, OTHERS = "#2a6f97", "#b0b7bd"


def require_matplotlib() -> None:
    """Find out that pictures can be drawn, before minutes are spent on what they show.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError(f"pictures need matplotlib: {install_command('train')}")


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure that needs no display, and its axes side by side; saved by `figure.savefig(path)`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_bars(ax: Any, names: Sequence[str], estimates: Sequence[Estimate], ours: Sequence[bool]) -> None:
    """Horizontal bars with their intervals, the first on top."""
    means = [e.mean for e in estimates]
    errors = [[e.mean - e.low for e in estimates], [e.high - e.mean for e in estimates]]
    colors = [OURS if mine else OTHERS for mine in ours]
    ax.barh(range(len(names)), means, xerr=errors, color=colors, error_kw={"elinewidth": 1, "capsize": 2})
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()


def plot_conditions(report: ConditioningReport, path: Path) -> None:
    """Bars of loss and exact match under each condition, as PNG."""
    figure, (left, right) = new_figure(9, 3.2, 2)
    rows = list(report.conditions.values())
    ours = [row.name in ("matched", "paraphrased") for row in rows]
    draw_bars(left, [f"{row.name}: {CONDITIONS[row.name]}" for row in rows], [row.loss for row in rows], ours)
    draw_bars(right, [""] * len(rows), [row.exact_match for row in rows], ours)
    left.set_xlabel("loss of an answer token")
    right.set_xlabel("exact match")
    right.set_xlim(0, 1)
    figure.suptitle(f"{len(report.tasks)} tasks, 95 % intervals over tasks", fontsize=10)
    figure.savefig(path)


def plot_similarities(report: ConditioningReport, path: Path) -> None:
    """Similarity of descriptions against similarity of adapters, a dot for each pair, as PNG."""
    figure, (ax,) = new_figure(5.5, 4.2)
    found = report.similarities
    size = 10 if len(found.adapters) < 500 else 4
    ax.scatter(found.descriptions, found.adapters, s=size, color=OTHERS, label="two tasks", linewidths=0)
    if found.same_adapters:
        ax.scatter(
            found.same_descriptions, found.same_adapters, s=14, color=OURS, label="two wordings of a task", linewidths=0
        )
    ax.set_xlabel("cosine of the descriptions' embeddings")
    ax.set_ylabel("cosine of the adapters' delta W")
    ax.set_title(f"two tasks: Pearson {found.pearson:.2f}, Spearman {found.spearman:.2f}", fontsize=10)
    ax.legend(frameon=False, fontsize=8)
    figure.savefig(path)
