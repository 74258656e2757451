"""Trains nano from its recipes: the base, the hypernetwork in parts, and the LoRAs that the table compares it with.

    python examples/nano/train.py                 # all recipes, in their order, into runs/
    python examples/nano/train.py nano-base-1 --set fit.steps=100

Recipes of the kinds `sft` and `average` run as `t2l train` runs them. The kinds `base` and `baselines` exist only here.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path

import torch
from catalogue import TASKS, UNSEEN
from corpus import TaskSampler, sample_example
from pretrain import BaseConfig, pretrain_base
from safetensors.torch import save_file
from source import read_split
from transformers import AutoModelForCausalLM, AutoTokenizer

from text2lora.base import load_base
from text2lora.configuration import Text2LoraConfig
from text2lora.files import atomic_file
from text2lora.language import Example
from text2lora.recipes import KINDS, Kind, run_recipe
from text2lora.training.fit import FitConfig
from text2lora.training.lora import train_loras
from text2lora.training.recipe import settings
from text2lora.training.task_files import locate

HERE = Path(__file__).parent
BASELINES = HERE / "baselines"
BASE_PARTS = ["nano-base-1", "nano-base-2", "nano-base-3", "nano-base"]
PARTS = [f"nano-{number}" for number in range(1, 7)]
ORDER = [BASE_PARTS[0], PARTS[0], *BASE_PARTS[1:], *PARTS[1:], "nano", "nano-baselines"]
Report = Callable[[str], None]


@settings
class BaselinesRecipe:
    """LoRAs that the table compares nano with.

    Attributes:
        base_model: the folder of the base.
        checkpoint: a folder with the checkpoint whose LoRA layout is used.
        oracles: test tasks with a LoRA of their own, half of them seen, half unseen.
        examples: records per step for each of those.
        multitask_examples: records per step for the one LoRA of all tasks.
        fit: how to optimise.
    """

    base_model: str
    checkpoint: str
    oracles: int = 12
    examples: int = 6
    multitask_examples: int = 64
    fit: FitConfig = field(default_factory=FitConfig)


def run_base(config: BaseConfig, target: Path, report: Report, resume: bool, folder: Path) -> None:
    """Run a recipe of kind `base`."""
    start = None
    if config.start_from:
        start = load_base(AutoModelForCausalLM, str(locate(config.start_from, folder)), dtype=torch.float32)
    pretrain_base(config, target, report, start, resume)


def oracle_tasks(count: int) -> list[str]:
    """Test tasks that get a LoRA of their own: the first half of the list seen, the second unseen."""
    chosen = []
    for split in ("test_seen", "test_unseen"):
        names = sorted({task for task, _ in read_split(split)})
        chosen += random.Random(f"oracles {split}").sample(names, count // 2)
    return chosen


def run_baselines(recipe: BaselinesRecipe, target: Path, report: Report, resume: bool, folder: Path) -> None:
    """Run a recipe of kind `baselines`."""
    base_path = str(locate(recipe.base_model, folder))
    base = load_base(AutoModelForCausalLM, base_path, dtype=torch.float32)
    tokenizer = load_base(AutoTokenizer, base_path)
    config = Text2LoraConfig.from_pretrained(locate(recipe.checkpoint, folder))
    names = oracle_tasks(recipe.oracles)
    sample = TaskSampler(name for name in TASKS if name not in UNSEEN)

    def oracle(name: str) -> Callable[[random.Random], list[Example]]:
        return lambda rng: [sample_example(TASKS[name], rng) for _ in range(recipe.examples)]

    def multitask(rng: random.Random) -> list[Example]:
        return [sample_example(sample(rng), rng) for _ in range(recipe.multitask_examples)]

    runs: dict[str, Sequence[Callable[[random.Random], list[Example]]]] = {
        "oracles": [oracle(name) for name in names],
        "multitask": [multitask],
    }
    for run, draws in runs.items():
        if resume and (target / f"{run}.safetensors").is_file():
            continue
        report(f"{run}: {len(draws)} LoRAs")
        table = train_loras(base, tokenizer, config, draws, recipe.fit, target / run, report, resume)
        tensors = {key: value.detach().to(torch.bfloat16) for key, value in table.state_dict().items()}
        metadata = {"tasks": json.dumps(names if run == "oracles" else [])}
        with atomic_file(target / f"{run}.safetensors") as temporary:  # which a resumed run takes for done
            save_file(tensors, temporary, metadata)


OWN_KINDS: dict[str, Kind] = {
    "sft": KINDS["sft"],
    "average": KINDS["average"],
    "base": (BaseConfig, run_base),
    "baselines": (BaselinesRecipe, run_baselines),
}


def train(
    name: str,
    output: Path,
    overrides: Sequence[str] = (),
    report: Report = print,
    resume: bool = False,
    force: bool = False,
) -> Path:
    """Run the recipe of that name; the folder with the result."""
    path = HERE / "recipes" / f"{name}.yaml"
    return run_recipe(str(path), output, list(overrides), report, resume, OWN_KINDS, force)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipes", nargs="*", default=ORDER, help="names of recipes; all of them by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--output", "-o", type=Path, default=Path("runs"))
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run; a finished one stays")
    parser.add_argument("--force", action="store_true", help="start again where there is a run already")
    options = parser.parse_args()
    for recipe in options.recipes:
        train(recipe, options.output, options.set, resume=options.resume, force=options.force)
