"""What came out: base, adapters and oracles on the test split of the word tasks.

    python examples/function-vectors/report.py

after prepare.py, `t2l train examples/function-vectors/recipe.yaml -o runs/function-vectors` and
`t2l train examples/function-vectors/oracles.yaml -o runs/function-vectors`. Prints a table, and writes it and the
figures of every task beside the runs.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from prepare import ANSWER, END, HERE, SHOTS, AnswerCollator, demonstrations, exact_match
from transformers import AutoModelForCausalLM, AutoTokenizer

from text2lora import LoraAdapter, Text2LoraModel
from text2lora.evaluation.check import CheckTask, check_conditioning
from text2lora.evaluation.metrics import bootstrap
from text2lora.language import prompt_batch
from text2lora.names import slug
from text2lora.training.task_files import read_tasks
from text2lora.training.tasks import Task

CONDITIONS = {
    "matched": "text2lora, training wording",
    "paraphrased": "text2lora, unseen wording",
    "shuffled": "another task's description",
    "junk": "junk as description",
    "average": "one adapter between all descriptions",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/function-vectors"))
    parser.add_argument("--examples", type=int, default=32, help="number of examples from each task's test split")
    options = parser.parse_args()
    tasks = read_tasks(options.runs / "tasks.jsonl")
    unseen = set(yaml.safe_load((HERE / "recipe.yaml").read_text(encoding="utf-8"))["split"]["unseen_tasks"])
    base = AutoModelForCausalLM.from_pretrained(options.runs / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(options.runs / "base")
    t2l = Text2LoraModel.from_pretrained(options.runs / "recipe")
    collate = AnswerCollator(tokenizer, ANSWER, END)

    def examples(task: Task) -> list[tuple[str, str]]:
        return [example.without_definition() for example in task.held_out_examples[: options.examples]]

    def in_context(task: Task, shots: int) -> torch.Tensor:
        rng, shown = random.Random(task.name), [example.without_definition() for example in task.examples]
        texts = [demonstrations(shown, pair, shots, rng) for pair in examples(task)]
        return exact_match(base, collate(texts), last_only=True)

    rows: list[tuple[str, str, str, float]] = []  # split, condition, task, exact match

    def add(split: str, condition: str, chosen: Sequence[Task], values: Sequence[float]) -> None:
        rows.extend((split, condition, task.name, value) for task, value in zip(chosen, values, strict=True))

    splits = {
        "seen": [task for task in tasks if task.name not in unseen],
        "unseen": [task for task in tasks if task.name in unseen],
    }
    for split, chosen in splits.items():
        add(split, "base, zero-shot", chosen, [in_context(task, 0).float().mean().item() for task in chosen])
        shots = [in_context(task, SHOTS).float().mean().item() for task in chosen]
        add(split, f"base, {SHOTS} demonstrations", chosen, shots)
        checked = [CheckTask(t.name, [t.descriptions[0], t.held_out_descriptions[0]], examples(t)) for t in chosen]
        found = check_conditioning(t2l, base, tokenizer, checked)
        for name, condition in CONDITIONS.items():
            add(split, condition, chosen, found.conditions[name].matches)
        print(f"{split} tasks: {found.verdict}")
    for split, chosen in splits.items():
        oracles = []
        for task in chosen:
            model = LoraAdapter.from_pretrained(options.runs / "oracles" / slug(task.name)).apply_to(base)
            oracles.append(exact_match(model, prompt_batch(tokenizer, examples(task))).float().mean().item())
        add(split, "a LoRA trained per task", chosen, oracles)

    names = list(dict.fromkeys(condition for _, condition, _, _ in rows))
    lines = ["| | seen tasks | unseen tasks |", "|---|---|---|"]
    for name in names:
        cells = []
        for split in splits:
            values = [torch.tensor([value]) for s, condition, _, value in rows if (s, condition) == (split, name)]
            estimate = bootstrap(values)
            cells.append(f"{estimate.mean:.3f} ({estimate.low:.3f} to {estimate.high:.3f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    (options.runs / "table.md").write_text(table + "\n", encoding="utf-8")
    with (options.runs / "tasks.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("split", "row", "task", "exact_match"), *rows])
    print(table)


if __name__ == "__main__":
    main()
