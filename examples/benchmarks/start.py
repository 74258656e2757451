"""What a whole `t2l make` takes in a fresh process, beside the imports that it cannot do without.

python examples/benchmarks/start.py
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from measuring import medians

IMPORTS = "import torch; from transformers import PreTrainedModel, AutoTokenizer"


class Start(NamedTuple):
    """Median processor seconds of a whole `t2l make` with nano, and of the imports."""

    made: float
    imported: float


def time_start(repeat: int = 5) -> Start:
    """Measure both in turns, in fresh processes, after one round to warm up.

    Processor time, user and system: it hardly changes with what else the machine does.
    """
    with tempfile.TemporaryDirectory() as folder:
        make = ["t2l", "make", "Return the city in capitals.", "--model", "nano", "--force"]
        make += ["--output", str(Path(folder, "adapter"))]
        codes = [f"import sys; sys.argv = {make}; from text2lora.cli import main; main()", IMPORTS]
        rounds = [[_processor_seconds(code) for code in codes] for _ in range(repeat + 1)][1:]
    return Start(*medians(rounds))


def _processor_seconds(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="times to measure")
    made, imported = time_start(parser.parse_args().repeat)
    print(f"t2l make with nano: {made:.2f} s of processor time, the imports {imported:.2f} s ({made / imported:.2f}x)")
