"""Adapters from a description and a few examples: exact match on unseen inputs, by the number of examples.

    python examples/nano/examples.py --split dev --tasks 24
    python examples/nano/examples.py --model smol --data runs/smol --tasks 8 --records 16 --examples 0 4 8

Each start says what the adapters are tuned from: the task's description, a junk sentence in its place, the first
examples spelt out as a description, or a fresh LoRA without a hypernetwork.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from catalogue import TASKS
from rich.console import Console
from rich.table import Table
from source import FIRST_SEED, evaluation_examples, read_split
from torch import nn

from text2lora import Text2LoraConfig, Text2LoraModel
from text2lora.injection import LoraInjector
from text2lora.language import answer_logits, count_matches, prompt_batch
from text2lora.lora import LoraWeights
from text2lora.training.task_files import read_tasks
from text2lora.tuning import Pair, spell_out, tune

STARTS = ("the description", "junk", "the examples alone", "a fresh LoRA")

Case = tuple[str, list[Pair]]
"""The description of a task, and inputs with their answers."""


class FreshLora(nn.Module):
    """Gives every task the LoRA that PEFT begins with, A random and B zero, in place of a hypernetwork."""

    def __init__(self, config: Text2LoraConfig):
        super().__init__()
        self.config = config
        torch.manual_seed(0)
        for name, (d_in, _) in config.module_shapes.items():
            fresh = torch.empty(config.num_layers, config.lora_r, d_in).uniform_(-(d_in**-0.5), d_in**-0.5)
            self.register_parameter(name, nn.Parameter(fresh))

    def decode(self, latents: torch.Tensor) -> LoraWeights:
        """The same LoRA for each row of `latents`."""
        found = {}
        for name, a in self.named_parameters():
            a = a.expand(len(latents), *a.shape) + 0 * latents.sum()
            found[name] = a, a.new_zeros(len(a), a.shape[1], self.config.module_shapes[name][1], a.shape[2])
        return found


class ExamplesCurve:
    """Exact match of adapters that are tuned on examples, which are not among the inputs that they are scored on.

    Args:
        model: the name or folder of a checkpoint.
        records: unseen inputs for each description.
        most: the largest number of examples.
    """

    def __init__(self, model: str, records: int, most: int):
        self.model, self.records, self.most = Text2LoraModel.from_pretrained(model), records, most
        self.base = self.model.load_base_model().eval().requires_grad_(False)
        self.tokenizer = self.model.base_tokenizer
        self.injector = LoraInjector(self.base, self.model.config)
        self.junk = [text for _, text in read_split("junk")]

    def score(self, cases: Sequence[Case], count: int, start: str) -> tuple[float, float, float]:
        """Exact match, the share of the tasks that became worse, and the seconds of tuning for each task."""
        examples = [pairs[:count] for _, pairs in cases]
        texts = [text for text, _ in cases]
        if start == "junk":
            texts = [self.junk[i % len(self.junk)] for i in range(len(cases))]
        elif start == "the examples alone":
            texts = [spell_out(given) for given in examples]
        hypernet = FreshLora(self.model.config) if start == "a fresh LoRA" else self.model.hypernet
        with torch.no_grad():
            latents = self.model.hypernet.task_encoder(self.model.encoder.encode(texts).float())
            untuned = [hypernet.decode(latent[None]) for latent in latents]
        adapters, begin = untuned, time.perf_counter()
        if count:
            tuned = tune(hypernet, self.base, self.tokenizer, latents, examples)
            adapters = [
                {name: (a[None], b[None]) for name, (a, b) in task.weights.items()} or own
                for task, own in zip(tuned, untuned, strict=True)
            ]
        seconds = (time.perf_counter() - begin) / len(cases)
        unseen = [pairs[self.most : self.most + self.records] for _, pairs in cases]
        scores = [self._match(each, unseen) for each in ((untuned, adapters) if count else (untuned,))]
        worse = (scores[-1] < scores[0] - 0.02).float().mean()
        return float(scores[-1].mean()), float(worse), seconds

    @torch.no_grad()
    def _match(self, adapters: Sequence[LoraWeights], unseen: Sequence[Sequence[Pair]]) -> torch.Tensor:
        found = []
        for weights, pairs in zip(adapters, unseen, strict=True):
            batch = prompt_batch(self.tokenizer, pairs)
            with self.injector.inject(weights):
                logits, _ = answer_logits(self.base, batch)
            found.append(count_matches(logits, batch).float().mean())
        return torch.stack(found)


def read_cases(split: str, kind: str, tasks: int, count: int) -> list[Case]:
    """Tasks of nano with one description each."""
    rows = read_split(f"{split}_{kind}")
    random.Random("examples").shuffle(rows)
    picked = list(dict(reversed(rows)).items())[:tasks]
    return [(text, evaluation_examples(TASKS[task], count, FIRST_SEED)) for task, text in picked]


def read_smol(folder: Path, split: str, kind: str, tasks: int, count: int) -> list[Case]:
    """Tasks of smol with one description each, from the files that `examples/smol/prepare.py` wrote."""
    found = []
    for task in read_tasks(folder / f"{split}_{kind}.jsonl"):
        pairs = [example.without_definition() for example in [*task.examples, *task.held_out_examples]]
        if len(pairs) >= count:
            random.Random(task.name).shuffle(pairs)
            found.append((task.descriptions[0], [(str(given), answer) for given, answer in pairs]))
    return random.Random("examples").sample(found, min(len(found), tasks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--data", type=Path, help="the folder of smol's task files; without it, nano's tasks")
    parser.add_argument("--split", choices=["dev", "test"], default="dev")
    parser.add_argument("--tasks", type=int, default=24, help="tasks of each kind, one description each")
    parser.add_argument("--records", type=int, default=32, help="unseen inputs for each description")
    parser.add_argument("--examples", type=int, nargs="+", default=[0, 1, 2, 4, 8, 16])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    options = parser.parse_args()
    curve = ExamplesCurve(options.model, options.records, max(options.examples))
    console = Console()
    table = Table("Start", "Examples", "Seen tasks", "Unseen tasks", "Became worse", "Seconds each")
    needed = curve.most + curve.records
    cases = {
        kind: read_smol(options.data, options.split, kind, options.tasks, needed)
        if options.data
        else read_cases(options.split, kind, options.tasks, needed)
        for kind in ("seen", "unseen")
    }
    for start in options.starts:
        for count in options.examples:
            if count or start in ("the description", "junk"):
                seen, unseen = (curve.score(cases[kind], count, start) for kind in ("seen", "unseen"))
                worse, seconds = (f"{(one + other) / 2:.2f}" for one, other in zip(seen[1:], unseen[1:], strict=True))
                table.add_row(start, str(count), f"{seen[0]:.3f}", f"{unseen[0]:.3f}", worse, seconds)
                console.print(start, count, seen, unseen)
    console.print(table)


if __name__ == "__main__":
    main()
