"""Writes the splits as task files, which `t2l check`, `t2l eval` and training read.

    python examples/nano/prepare.py --output runs/nano-tasks
    t2l check nano --tasks runs/nano-tasks/dev_seen.jsonl

Training needs none of them: its recipes name `source.py`, which draws tasks and records as it goes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from source import split_tasks

SPLITS = ("dev_seen", "dev_unseen", "dev_freeform", "test_seen", "test_unseen", "test_freeform")


def write_tasks(split: str, path: Path, records: int) -> None:
    """Write the tasks of a split, one on each line."""
    lines = [json.dumps(task, ensure_ascii=False) + "\n" for task in split_tasks(split, records)]
    path.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/nano-tasks"))
    parser.add_argument("--records", type=int, default=32, help="examples of each task")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in SPLITS:
        write_tasks(name, options.output / f"{name}.jsonl", options.records)
        print(options.output / f"{name}.jsonl")
