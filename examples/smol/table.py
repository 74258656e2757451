"""The table of smol: exact match on examples that no training saw, beside all that the adapters are compared with.

    python examples/smol/table.py --data runs/smol --checkpoint smol --multitask runs/multitask/multitask

All figures are exact match of greedy answers, the end of the answer included. A task counts once, whatever the number
of its wordings; intervals resample tasks.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from text2lora import LoraAdapter, Text2LoraModel
from text2lora.base import load_base
from text2lora.injection import LoraInjector
from text2lora.language import Example
from text2lora.lora import LoraWeights
from text2lora.names import slug
from text2lora.scoring import JUNK, score_examples
from text2lora.training.runs import set_offset
from text2lora.training.task_files import read_tasks
from text2lora.training.tasks import Task

sys.path.append(str(Path(__file__).parents[1] / "nano"))
from results import Row, Score, as_markdown, make_row, write_results

Case = tuple[Task, str]
"""A task and one of its descriptions."""
KINDS = {"seen": "seen tasks", "domains": "tasks of new domains", "unseen": "unseen tasks"}
"""The files of `prepare.py` with the tasks that are scored, and what the table calls these."""


class Table:
    """Scores descriptions and their rivals on the same examples.

    Args:
        model: the checkpoint; its base is loaded.
        families: of the tasks, by name.
        examples: per task.
    """

    def __init__(self, model: Text2LoraModel, families: dict[str, str], examples: int):
        self.model, self.families, self.examples = model, families, examples
        name = model.config.base_model_name_or_path
        self.base = load_base(AutoModelForCausalLM, name).eval()
        self.tokenizer = load_base(AutoTokenizer, name)
        self.injector = LoraInjector(self.base, model.config)

    def scores(
        self,
        cases: Sequence[Case],
        texts: Sequence[str] | None = None,
        prompt: Callable[[Task, str, str], str | list[dict[str, str]]] | None = None,
        weights: Callable[[torch.Tensor], LoraWeights] | None = None,
    ) -> list[Score]:
        """What a line of the table is made of, see `make_row`.

        Args:
            cases: the tasks to score, and their descriptions.
            texts: descriptions to make the adapters from; None for the base alone, unless `weights` are given.
            prompt: what to write in place of the input, from task, description and input.
            weights: gives the LoRAs in place of the checkpoint.
        """

        def example(task: Task, text: str, pair: Example) -> Example:
            return (prompt(task, text, str(pair[0])) if prompt else pair[0]), pair[1]

        groups = [
            [example(task, text, pair.without_definition()) for pair in task.held_out_examples[: self.examples]]
            for task, text in cases
        ]
        task_emb = None
        if texts is not None:
            task_emb = self.model.encoder.encode(list(texts))
        elif weights is not None:
            task_emb = torch.zeros(len(cases), self.model.config.task_emb_size)
        order = sorted(range(len(cases)), key=lambda i: max(len(str(p)) for p, _ in groups[i]))  # little padding
        scores = score_examples(
            weights or self.model,
            None if task_emb is None else task_emb[order],
            [groups[i] for i in order],
            self.injector,
            self.base,
            self.tokenizer,
            rows=4 * len(groups[0]),
            pack=True,
        )
        matches = [score.matches for _, score in sorted(zip(order, scores, strict=True), key=lambda pair: pair[0])]
        return [
            (self.families.get(task.name, ""), task.name, text, found)
            for (task, text), found in zip(cases, matches, strict=True)
        ]

    def fixed(self, folder: Path) -> Callable[[torch.Tensor], LoraWeights]:
        """One LoRA for whatever is asked."""
        plain = Text2LoraModel(self.model.config).eval()  # a fresh hypernetwork adds nothing to its offset
        set_offset(plain, LoraAdapter.from_pretrained(folder))
        return plain


def with_description(task: Task, text: str, given: str) -> str:
    return f"{text}\n\n{given}"


def with_demonstrations(task: Task, text: str, given: str) -> list[dict[str, str]]:
    """Four examples of the task as earlier turns of the chat."""
    turns: list[dict[str, str]] = []
    for prompt, response in (example.without_definition() for example in task.examples[:4]):
        turns += [{"role": "user", "content": str(prompt)}, {"role": "assistant", "content": response}]
    return [*turns, {"role": "user", "content": given}]


def read_cases(path: Path, tasks: int, wordings: int, examples: int) -> list[Case]:
    """Some tasks of a file, drawn at random but always the same, with some of their wordings each."""
    rng = random.Random("table")
    usable = [task for task in read_tasks(path) if len(task.held_out_examples) >= examples and len(task.examples) >= 4]
    chosen = usable if len(usable) <= tasks else sorted(rng.sample(usable, tasks), key=lambda task: task.name)
    return [(task, text) for task in chosen for text in task.descriptions[:wordings]]


def others(cases: Sequence[Case]) -> list[str]:
    """For each case the description of another task, half the list away."""
    shift = len(cases) // 2 + 1
    return [cases[(i + shift) % len(cases)][1] for i in range(len(cases))]


def make_table(table: Table, cases: dict[str, list[Case]], multitask: Path | None, oracles: Path | None) -> list[Row]:
    """All lines; those of one LoRA for all tasks and of a LoRA per task only where such adapters are given."""
    rows: list[Row] = []

    def add(name: str, scores: Sequence[Score]) -> None:
        rows.append(make_row(name, scores))
        print(as_markdown(rows[-1:]).splitlines()[-1], flush=True)

    for kind, found in cases.items():
        first = list({task.name: (task, text) for task, text in reversed(found)}.values())[::-1]
        add(f"base, {kind}", table.scores(first))
        add(f"base, description in the prompt, {kind}", table.scores(found, prompt=with_description))
        add(f"base, 4 demonstrations, {kind}", table.scores(first, prompt=with_demonstrations))
        if multitask:
            add(f"one LoRA for all tasks, {kind}", table.scores(first, weights=table.fixed(multitask)))
        add(f"text2lora, {kind}, unseen wording", table.scores(found, [text for _, text in found]))
        add(f"another task's description, {kind}", table.scores(found, others(found)))
        add(f"junk as description, {kind}", table.scores(first, [JUNK[i % len(JUNK)] for i in range(len(first))]))
        trained = [
            case for case in found if oracles and (oracles / slug(case[0].name) / "adapter_config.json").is_file()
        ]
        if oracles and trained:
            own = list({task.name: (task, "") for task, _ in trained}.values())
            parts = [table.scores([case], weights=table.fixed(oracles / slug(case[0].name))) for case in own]
            add(f"a LoRA trained per task, {len(own)} {kind}", [score for part in parts for score in part])
            texts = [text for _, text in trained]
            add(f"text2lora on those {len(own)} {kind}, unseen wording", table.scores(trained, texts))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("runs/smol"), help="the folder that prepare.py wrote")
    parser.add_argument("--checkpoint", default="smol")
    parser.add_argument("--split", choices=["dev", "test"], default="dev")
    parser.add_argument("--multitask", type=Path, help="the folder of one LoRA for all tasks")
    parser.add_argument("--oracles", type=Path, help="a folder with LoRAs named after tasks")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="tasks to score; all by default")
    parser.add_argument("--tasks", type=int, default=60, help="tasks of each kind at most")
    parser.add_argument("--wordings", type=int, default=2, help="descriptions per task at most")
    parser.add_argument("--examples", type=int, default=6, help="examples per task; tasks with fewer are left out")
    parser.add_argument("--output", type=Path, help="a folder for table.md, results.json, tasks.csv and table.png")
    options = parser.parse_args()
    families = json.loads((options.data / "families.json").read_text(encoding="utf-8"))
    table = Table(Text2LoraModel.from_pretrained(options.checkpoint), families, options.examples)
    cases = {
        title: read_cases(
            options.data / f"{options.split}_{kind}.jsonl", options.tasks, options.wordings, options.examples
        )
        for kind, title in KINDS.items()
        if kind in options.kinds
    }
    if empty := [title for title, found in cases.items() if not found]:
        parser.error(
            f"{options.data} has no {empty[0]} with {options.examples} examples to score: give fewer --examples"
        )
    rows = make_table(table, cases, options.multitask, options.oracles)
    if options.output:
        write_results(rows, options.output)
    print(as_markdown(rows))


if __name__ == "__main__":
    main()
