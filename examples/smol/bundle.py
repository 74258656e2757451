"""Puts a trained smol into the package.

python examples/smol/bundle.py runs/smol-1 runs/smol
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from text2lora import Text2LoraModel
from text2lora.bundled import CHECKPOINTS
from text2lora.files import atomic_folder

sys.path.append(str(Path(__file__).parents[1] / "nano"))
from release import write_model

LIMIT = 24_000_000
"""Bytes of the config and the weights in the package."""


def bundle(runs: list[Path], target: Path) -> None:
    """Write the checkpoint of the last run, see `write_model`."""
    model = Text2LoraModel.from_pretrained(runs[-1])
    with atomic_folder(target) as folder:
        write_model(model, runs, folder)
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
