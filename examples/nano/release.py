"""A trained model as the package holds it: weights in bfloat16, which are loaded in float32, and the curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel


def write_model(model: PreTrainedModel, runs: Sequence[Path], folder: Path) -> None:
    """Save a model with the settings and figures of all runs that led to it, the last one last."""
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # the card in the folder above says more
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as log:
        for run in runs:
            recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
            log.write(json.dumps({"recipe": run.name, **recipe}) + "\n")
            if (run / "metrics.jsonl").is_file():  # which a mean of others has not
                log.write((run / "metrics.jsonl").read_text(encoding="utf-8"))
