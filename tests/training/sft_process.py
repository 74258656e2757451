"""A training run for `test_processes.py`: PROCESSES CHECKPOINT BASE OUTPUT {settings} [resume]."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from text2lora import Text2LoraModel
from text2lora.training.data import Probe, TaskDraw
from text2lora.training.recipe import parse
from text2lora.training.sft import SftConfig, train_sft

ANSWERS = {"say a": "aa", "say the city": "12", "the case": "bcb"}


class Tasks:
    descriptions = tuple(ANSWERS)

    def draw(self, rng: random.Random, examples: int) -> TaskDraw:
        row = rng.randrange(len(ANSWERS))
        texts = [rng.choice("xyz") * rng.randint(1, 9) for _ in range(examples)]
        return TaskDraw(row, [(text, ANSWERS[self.descriptions[row]]) for text in texts])


def main(checkpoint: str, base: str, output: str, settings: str, *more: str) -> None:
    given = json.loads(settings)
    stop_at, probes = given.pop("stop_at", None), given.pop("probes", len(ANSWERS))

    def report(line: str) -> None:
        if stop_at and line.startswith(f"step {stop_at}/"):
            os.kill(os.getpid(), signal.SIGINT)  # one process only: the others must follow

    model = Text2LoraModel.from_pretrained(checkpoint, dtype=torch.float32, dropout=0.0)  # masks differ by process
    figures = train_sft(
        model,
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        AutoTokenizer.from_pretrained(base),
        Tasks(),
        parse(SftConfig, given),
        Path(output),
        {"seen": [Probe(text, [("x", answer), ("zz", answer)]) for text, answer in list(ANSWERS.items())[:probes]]},
        report,
        resume="resume" in more,
    )
    if os.environ.get("RANK", "0") == "0":
        Path(output, "figures.json").write_text(json.dumps(figures))
        Path(output, "processes").write_text(os.environ.get("WORLD_SIZE", "1"))


def member(*arguments: str) -> None:
    """One of several processes; a fork of the one that launches them has its signal handlers."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(*arguments)


def launch(processes: int, arguments: list[str]) -> None:
    """As torchrun does it."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="tests",
        max_restarts=0,
        start_method="fork",
    )
    elastic_launch(config, member)(*arguments)


if __name__ == "__main__":
    if sys.argv[1] == "1":
        main(*sys.argv[2:])
    else:
        launch(int(sys.argv[1]), sys.argv[2:])
