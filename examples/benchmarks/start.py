"""How long a whole `t2l make` takes in a fresh process, beside the imports that it cannot do without.

python examples/benchmarks/start.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measuring import medians


def time_start(repeat: int = 5) -> tuple[float, float]:
    """Median seconds of a whole `t2l make` with nano in a fresh process, and of importing torch, transformers, peft."""

    def process(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    with tempfile.TemporaryDirectory() as folder:
        make = ["t2l", "make", "Return the city in capitals.", "--force", "--output", str(Path(folder, "adapter"))]
        calls = [f"import sys; sys.argv = {make}; from text2lora.cli import main; main()"]
        calls += ["import torch, transformers, peft"]
        made, imported = medians([process(code) for code in calls], repeat)
    return made, imported


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="times to measure")
    made, imported = time_start(parser.parse_args().repeat)
    print(f"t2l make with nano: {made:.2f} s, of it {imported:.2f} s imports ({made / imported:.2f}x)")
