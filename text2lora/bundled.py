"""What ships inside the package, under the names that stand for paths in configs."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent
DEFAULT = "nano"
"""What commands use where no checkpoint is named."""
CHECKPOINTS = {name: PACKAGE / name / "checkpoint" for name in ("nano", "smol")}
BASES = {"nano": PACKAGE / "nano" / "base"}
TASKS = {
    "nano": PACKAGE / "nano" / "tasks.jsonl",
    "HuggingFaceTB/SmolLM2-135M-Instruct": PACKAGE / "smol" / "tasks.jsonl",
}
"""Tasks to check a checkpoint with, by base model. No training saw their examples and descriptions."""
