"""The picture of a run: `training.png`."""

from __future__ import annotations

import json
from pathlib import Path

from text2lora.training.fit import METRICS


def plot_training(output_dir: Path) -> Path | None:
    """Draw loss and validation figures of `metrics.jsonl` over the steps.

    Returns:
        The picture, or None where matplotlib is not installed or nothing was logged.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError:
        return None
    log = output_dir / METRICS
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}  # by panel and curve
    for row in rows:
        for name, value in row.items():
            if name == "loss":
                panel, label = "loss", "training"
            elif "/" in name:
                label, _, panel = name.rpartition("/")
            else:
                continue
            curves.setdefault(panel, {}).setdefault(label, []).append((row["step"], value))
    if not curves:
        return None
    splits = sorted({label.partition(" (")[0] for lines in curves.values() for label in lines} - {"training"})
    styles = {"": "-", "shuffled": "--", "junk": ":", "none": "-."}
    figure = Figure(figsize=(4.6 * len(curves) + 2.2, 3.8), layout="constrained")
    used: dict[str, None] = {}
    for axes, (panel, lines) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for label, points in lines.items():
            split, _, condition = label.partition(" (")
            condition = condition.rstrip(")")
            colour = "0.35" if split == "training" else f"C{splits.index(split)}"
            mark = "o" if len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), styles.get(condition, "-"), color=colour, marker=mark, ms=4, lw=1.4)
            used[condition] = None
        axes.set(title=panel.replace("_", " "), xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    handles = [Line2D([], [], color="0.35", label="training")]
    handles += [Line2D([], [], color=f"C{i}", label=split.replace("_", " ")) for i, split in enumerate(splits)]
    handles += [Line2D([], [], color="0.6", ls=styles.get(name, "-"), label=name or "matched") for name in used]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
    path = output_dir / "training.png"
    figure.savefig(path, dpi=130)
    return path
