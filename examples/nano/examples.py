"""Adapters from a description and a few examples: exact match on unseen records, by the number of examples.

python examples/nano/examples.py --split dev --tasks 24
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence

import torch
from catalogue import TASKS
from documents import exact_match
from rich.console import Console
from rich.table import Table
from source import FIRST_SEED, evaluation_examples, read_split
from table import NanoEvaluation

from text2lora.language import prompt_batch
from text2lora.tuning import spell_out, tune

STARTS = ("the description", "junk", "the examples alone")


class ExamplesCurve:
    """Exact match of adapters that are tuned on examples, which are not among the records that they are scored on.

    Args:
        records: Unseen records for each description.
        most: The largest number of examples.
    """

    def __init__(self, records: int, most: int):
        self.run, self.records = NanoEvaluation(records=records), records
        self.most, self.junk = most, [text for _, text in read_split("junk")]

    def score(self, pairs: Sequence[tuple[str, str]], count: int, start: str) -> tuple[float, float, float]:
        """Exact match, the share of the tasks that became worse, and the seconds of tuning for each task."""
        run = self.run
        records = [evaluation_examples(TASKS[task], self.most + self.records, FIRST_SEED) for task, _ in pairs]
        examples, unseen = [found[:count] for found in records], [found[self.most :] for found in records]
        texts = [text for _, text in pairs]
        if start == "junk":
            texts = [self.junk[i % len(self.junk)] for i in range(len(pairs))]
        elif start == "the examples alone":
            texts = [spell_out(given) for given in examples]
        with torch.no_grad():
            latents = run.model.hypernet.task_encoder(run.model.encoder.encode(texts).float())
        before, begin = latents, time.perf_counter()
        if count:
            run.base.requires_grad_(False)
            tuned = tune(run.model.hypernet, run.base, run.tokenizer, latents, examples)
            latents = torch.stack([task.latent for task in tuned])
        seconds = (time.perf_counter() - begin) / len(pairs)
        scores = [self._match(each, unseen) for each in ((before, latents) if count else (latents,))]
        worse = (scores[-1] < scores[0] - 0.02).float().mean()
        return float(scores[-1].mean()), float(worse), seconds

    @torch.no_grad()
    def _match(self, latents: torch.Tensor, unseen: Sequence[Sequence[tuple[str, str]]]) -> torch.Tensor:
        found = []
        for latent, examples in zip(latents, unseen, strict=True):
            with self.run.injector.inject(self.run.model.hypernet.decode(latent[None])):
                found.append(exact_match(self.run.base, prompt_batch(self.run.tokenizer, examples)).float().mean())
        return torch.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--split", choices=["dev", "test"], default="dev")
    parser.add_argument("--tasks", type=int, default=24, help="tasks of each kind, one description each")
    parser.add_argument("--records", type=int, default=32, help="unseen records for each description")
    parser.add_argument("--examples", type=int, nargs="+", default=[0, 1, 2, 4, 8, 16])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    options = parser.parse_args()
    curve = ExamplesCurve(options.records, max(options.examples))
    console = Console()
    table = Table("Start", "Examples", "Seen tasks", "Unseen tasks", "Became worse", "Seconds each")
    picked = {}
    for kind in ("seen", "unseen"):
        rows = read_split(f"{options.split}_{kind}")
        random.Random("examples").shuffle(rows)
        picked[kind] = list(dict(reversed(rows)).items())[: options.tasks]
    for start in options.starts:
        for count in options.examples:
            if count or start != "the examples alone":
                seen, unseen = (curve.score(picked[kind], count, start) for kind in ("seen", "unseen"))
                worse, seconds = (f"{(one + other) / 2:.2f}" for one, other in zip(seen[1:], unseen[1:], strict=True))
                table.add_row(start, str(count), f"{seen[0]:.3f}", f"{unseen[0]:.3f}", worse, seconds)
                console.print(start, count, seen, unseen)
    console.print(table)


if __name__ == "__main__":
    main()
