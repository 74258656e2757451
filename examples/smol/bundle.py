"""Puts a trained smol into the package: weights in bfloat16, which are loaded in float32, and how they were trained.

python examples/smol/bundle.py runs/smol-1 runs/smol
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from text2lora import Text2LoraModel
from text2lora.bundled import CHECKPOINTS
from text2lora.files import atomic_folder

LIMIT = 24_000_000
"""Bytes of the config and the weights in the package."""


def bundle(runs: list[Path], target: Path) -> None:
    """Write the checkpoint of the last run, with the settings and figures of all runs that led to it."""
    model = Text2LoraModel.from_pretrained(runs[-1])
    with atomic_folder(target) as folder:
        model.to(torch.bfloat16).save_pretrained(folder)
        (folder / "README.md").unlink()  # the card in the folder above says more
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        with (folder / "metrics.jsonl").open("w", encoding="utf-8") as log:
            for run in runs:
                recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
                log.write(json.dumps({"recipe": run.name, **recipe}) + "\n")
                log.write((run / "metrics.jsonl").read_text(encoding="utf-8"))
        size = sum((folder / name).stat().st_size for name in ("config.json", "model.safetensors"))
        if size > LIMIT:
            raise SystemExit(f"the checkpoint has {size:,} bytes: expected {LIMIT:,} at most")
    print(f"{target}: {size:,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of the training runs, the last one last")
    parser.add_argument("--target", type=Path, default=CHECKPOINTS["smol"])
    options = parser.parse_args()
    bundle(options.runs, options.target)
