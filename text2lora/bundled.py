"""What ships inside the package, under the names that stand for paths in configs."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent
DEFAULT = "nano"
"""What commands use where no checkpoint is named."""
CHECKPOINTS = {name: PACKAGE / name / "checkpoint" for name in ("nano", "smol")}
BASES = {"nano": PACKAGE / "nano" / "base"}
BASE_OF = {"nano": "nano", "smol": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""The base models of the checkpoints. The name of a checkpoint stands for its base where a base is expected."""
TASKS = {
    "nano": PACKAGE / "nano" / "tasks.jsonl",
    BASE_OF["smol"]: PACKAGE / "smol" / "tasks.jsonl",
}
"""Tasks to check a checkpoint with, by base model. No training saw their examples and descriptions."""
