"""The table of nano: what its adapters do on unseen records, beside all that they are compared with.

python examples/nano/table.py --output text2lora/nano/results
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from catalogue import TASKS
from documents import AnswerCollator, exact_match
from pretrain import shots_document
from results import Row, as_markdown, make_row, write_results
from safetensors import safe_open
from source import FIRST_SEED, evaluation_examples, read_split
from tokenizer import ANSWER, END
from train import BASELINES
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from wording import describe

from text2lora.bundled import BASES
from text2lora.injection import LoraInjector
from text2lora.language import prompt_batch
from text2lora.lora import LoraWeights
from text2lora.modeling import Text2LoraModel
from text2lora.scoring import score_examples
from text2lora.training.lora import LoraTable


class NanoEvaluation:
    """Measures the bundled model by exact match: greedy decoding gives the right answer, all of it.

    Args:
        model: the checkpoint; by default the bundled one.
        records: unseen records per description.
        base: its base model; by default the bundled one.
        tokenizer: of the base.
    """

    def __init__(
        self,
        model: Text2LoraModel | None = None,
        records: int = 32,
        base: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        self.model = model or Text2LoraModel.from_pretrained("nano")
        self.base = base or AutoModelForCausalLM.from_pretrained(BASES["nano"])
        self.base.eval()
        self.tokenizer = tokenizer or AutoTokenizer.from_pretrained(BASES["nano"])
        self.records = records
        self.injector = LoraInjector(self.base, self.model.config)

    def with_descriptions(self, name: str, pairs: Sequence[tuple[str, str]]) -> Row:
        """Exact match of the adapters made from descriptions, each on records of the task paired with it."""
        task_emb = self.model.encoder.encode([text for _, text in pairs])
        examples = [self._examples(task) for task, _ in pairs]
        scores = score_examples(self.model, task_emb, examples, self.injector, self.base, self.tokenizer)
        return self._row(name, pairs, [score.matches for score in scores])

    def with_loras(self, name: str, tasks: Sequence[str], weights: Callable[[int], LoraWeights]) -> Row:
        """Exact match under given LoRAs, `weights(i)` for the i-th task."""
        scores = []
        for i, task in enumerate(tasks):
            with torch.no_grad(), self.injector.inject(weights(i)):
                scores.append(exact_match(self.base, prompt_batch(self.tokenizer, self._examples(task))))
        return self._row(name, [(task, "") for task in tasks], scores)

    def with_shots(self, name: str, tasks: Sequence[str], shots: int) -> Row:
        """Exact match of the base alone after demonstrations; none of them for zero-shot."""
        collate = AnswerCollator(self.tokenizer, ANSWER, END)
        scores = []
        for task in tasks:
            rng = random.Random(f"shots {task}")
            documents = [shots_document(task, FIRST_SEED + i, shots, rng) for i in range(self.records)]
            scores.append(exact_match(self.base, collate(documents), last_only=True))
        return self._row(name, [(task, "") for task in tasks], scores)

    def with_prompts(self, name: str, pairs: Sequence[tuple[str, str]]) -> Row:
        """Exact match of the base alone with each description in the prompt, in a line before the record."""
        scores = []
        for task, text in pairs:
            told = [(f"{text}\n{record}", answer) for record, answer in self._examples(task)]
            scores.append(exact_match(self.base, prompt_batch(self.tokenizer, told)))
        return self._row(name, pairs, scores)

    def _examples(self, task: str) -> list[tuple[str, str]]:
        return evaluation_examples(TASKS[task], self.records, FIRST_SEED)

    def _row(self, name: str, pairs: Sequence[tuple[str, str]], scores: Sequence[torch.Tensor]) -> Row:
        groups = [TASKS[task].group for task, _ in pairs]
        return make_row(name, [(g, t, d, m) for g, (t, d), m in zip(groups, pairs, scores, strict=True)])


def make_table(
    split: str = "test", records: int = 32, model: Text2LoraModel | None = None, report: Callable[[str], None] = print
) -> list[Row]:
    """All rows of the table.

    Args:
        split: `dev` or `test`.
        records: unseen records per description.
        model: a checkpoint for the bundled base; by default the bundled one.
        report: receives the name of each row as it is begun.
    """
    run = NanoEvaluation(model, records)
    pairs = {kind: read_split(f"{split}_{kind}") for kind in ("seen", "unseen")}
    names = {kind: sorted({task for task, _ in pairs[kind]}) for kind in pairs}
    rng = random.Random("table")
    rows: list[Row] = []

    def add(make: Callable[..., Row], name: str, *args: object) -> None:
        report(name)
        rows.append(make(name, *args))

    for kind in ("seen", "unseen"):
        add(run.with_shots, f"base, zero-shot, {kind} tasks", names[kind], 0)
    for kind in ("seen", "unseen"):
        add(run.with_shots, f"base, 3 demonstrations, {kind} tasks", names[kind], 3)
    for kind in ("seen", "unseen"):
        add(run.with_prompts, f"base, description in the prompt, {kind} tasks", pairs[kind])
    table, _ = _read_loras(run.model, "multitask")
    for kind in ("seen", "unseen"):
        add(run.with_loras, f"one LoRA for all tasks, {kind} tasks", names[kind], lambda i: table([0]))
    for kind in ("seen", "unseen"):
        composed = [(task, describe(TASKS[task], rng)) for task in names[kind] for _ in range(2)]
        add(run.with_descriptions, f"text2lora, {kind} tasks, training-style wording", composed)
        add(run.with_descriptions, f"text2lora, {kind} tasks, unseen wording", pairs[kind])
    oracles, tasks = _read_loras(run.model, "oracles")
    half = len(tasks) // 2
    for kind, begin in (("seen", 0), ("unseen", half)):
        chosen = tasks[begin : begin + half]
        add(
            run.with_loras, f"a LoRA trained per task, {half} {kind} tasks", chosen, lambda i, b=begin: oracles([b + i])
        )
        same = [pair for pair in pairs[kind] if pair[0] in chosen]
        if same:
            add(run.with_descriptions, f"text2lora on those {half} {kind} tasks, unseen wording", same)
    seen = pairs["seen"]
    shift = len(seen) // 2 + 1
    shuffled = [(task, seen[(i + shift) % len(seen)][1]) for i, (task, _) in enumerate(seen)]
    add(run.with_descriptions, "another task's description", shuffled)
    junk = [text for _, text in read_split("junk")]
    add(
        run.with_descriptions,
        "junk as description",
        [(task, junk[i % len(junk)]) for i, task in enumerate(names["seen"])],
    )
    add(run.with_descriptions, "free-form descriptions", read_split(f"{split}_freeform"))
    right = sum(detail.exact_match == 1 for detail in rows[-1].details)
    note = f"free-form descriptions ({right} of {len(rows[-1].details)} right on every record)"
    return [*rows[:-1], dataclasses.replace(rows[-1], name=note)]


def _read_loras(model: Text2LoraModel, name: str) -> tuple[LoraTable, list[str]]:
    with safe_open(BASELINES / f"{name}.safetensors", "pt") as file:
        state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        tasks = json.loads(file.metadata()["tasks"])
    table = LoraTable(model.config, len(next(iter(state.values()))))
    table.load_state_dict(state)
    return table.eval(), tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--split", choices=["dev", "test"], default="test")
    parser.add_argument("--records", type=int, default=32, help="unseen records for each description")
    parser.add_argument("--checkpoint", default="nano", help="another checkpoint for the same base")
    parser.add_argument("--output", type=Path, help="a folder for table.md, results.json, tasks.csv and table.png")
    options = parser.parse_args()
    rows = make_table(options.split, options.records, Text2LoraModel.from_pretrained(options.checkpoint))
    if options.output:
        write_results(rows, options.output)
    print(as_markdown(rows))


if __name__ == "__main__":
    main()
