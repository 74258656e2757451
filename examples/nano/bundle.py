"""Puts what `train.py` trained into the package.

python examples/nano/bundle.py runs
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from prepare import write_tasks
from release import write_model
from train import BASELINES
from transformers import AutoModelForCausalLM, PreTrainedModel

from text2lora import Text2LoraModel
from text2lora.bundled import BASES, CHECKPOINTS, TASKS
from text2lora.files import atomic_folder

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def parts(run: Path) -> list[Path]:
    """The runs that led to one, each started from the one before; a mean follows the last one that goes into it."""
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    before = recipe["checkpoints"][-1] if "checkpoints" in recipe else recipe.get("start_from")
    return [*(parts(run.parent / Path(before).name) if before else []), run]


def write(model: PreTrainedModel, source: Path, target: Path, extras: Sequence[str] = ()) -> None:
    """A model with the settings and figures of all runs that led to it."""
    with atomic_folder(target) as folder:
        if model.can_generate():
            model.generation_config.update(max_new_tokens=64, do_sample=False)
        write_model(model, parts(source), folder)
        for extra in extras:
            (folder / extra).write_bytes((source / extra).read_bytes())


def bundle(runs: Path) -> None:
    """Put the base, the checkpoint, the baselines and the unseen tasks where the package and the table find them."""
    write(AutoModelForCausalLM.from_pretrained(runs / "nano-base"), runs / "nano-base", BASES["nano"], TOKENIZER)
    write(Text2LoraModel.from_pretrained(runs / "nano"), runs / "nano", CHECKPOINTS["nano"])
    write_tasks("test_unseen", TASKS["nano"], records=16)
    with atomic_folder(BASELINES) as folder:
        for name in ("oracles.safetensors", "multitask.safetensors", "recipe.json"):
            (folder / name).write_bytes((runs / "nano-baselines" / name).read_bytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, help="the folder with the training runs")
    bundle(parser.parse_args().runs)
