"""Two task encoders and two heads on nano's development split, with equal steps and several seeds.

    for seed in 0 1 2; do
        for recipe in pooled tokens mixture; do
            t2l train examples/task-encoders/$recipe.yaml --set sft.fit.seed=$seed -o runs/task-encoders/$seed
        done
    done
    python examples/task-encoders/table.py runs/task-encoders

prints the mean over seeds of the exact match at the last step, and the smallest and the largest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SPLITS = {"dev_seen": "seen tasks", "dev_unseen": "unseen tasks", "dev_freeform": "free-form"}


def last_figures(run: Path) -> dict[str, float]:
    """The last validation of a run."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [row for row in rows if any("/" in key for key in row)][-1]


def table(folder: Path) -> str:
    """A row for each recipe that was trained into `folder/SEED`, in Markdown; unfinished runs are left out."""
    lines = [f"| recipe | seeds | {' | '.join(SPLITS.values())} |", "|---|---|---|---|---|"]
    runs = sorted(path.parent for path in folder.glob("*/*/config.json"))
    for recipe in sorted({run.name for run in runs}):
        found = [last_figures(run) for run in runs if run.name == recipe]
        cells = []
        for split in SPLITS:
            values = [figures[f"{split}/exact_match"] for figures in found]
            cells.append(f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        lines.append(f"| {recipe} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
