"""Task files for smol: the given tasks, tasks made from them, and what is held out.

    python examples/smol/prepare.py --data runs/smol/data --output runs/smol

writes `train.jsonl` (for training: pairs and wordings, and those for validation as held out), and `dev_seen.jsonl`,
`dev_unseen.jsonl`, `test_seen.jsonl` and `test_unseen.jsonl` (for evaluation: `descriptions` that no training saw, the
`held_out_examples` to score, and `examples` for demonstrations or an adapter of the task's own). `dev_domains.jsonl`
and `test_domains.jsonl` are for evaluation, too: the tasks of written domains that no training saw, many of which
resemble tasks of other domains. The data folder holds
`real_tasks.jsonl.gz`, `function_vectors.jsonl.gz` and `bigbench_tasks.jsonl.gz`, which `sources.py` makes; BIG-bench is
for evaluation alone.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from tasks import SPLITS, WORDINGS, Maker, Pair, Task, place
from written import drop_twins, read_written

from text2lora.files import atomic_file, read_json_lines

HERE = Path(__file__).parent
LONGEST = 220
"""Characters of an input; longer ones are left out."""
SHORT_INPUT, SHORT_OUTPUT = 200, 60
"""Characters of an input and of an output that training reads; evaluation reads longer ones too."""
SCORED = 24
"""Pairs of a task for evaluation, at most."""
VALIDATED = 4
"""Held-out pairs of a task for validation, at least; a task with fewer keeps back some that it would train on."""
CHECKED = HERE.parents[1] / "text2lora/smol/tasks.jsonl"
"""Tasks that come with smol, for `t2l check smol`."""
GIVEN = 240
"""Pairs of a given task, at most."""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file, gzipped or not; none of a file that is not there."""
    return read_json_lines(path) if path.exists() else []


def read_pairs(path: Path) -> dict[str, dict[str, Any]]:
    """By name, `family`, `labels` and `pairs` of a data file, each input once and none too long."""
    found = {}
    for row in read_lines(path):
        rows = row.get("examples") or [(p["prompt"], p["response"]) for p in [*row["train"], *row["test"]]]
        pairs = {prompt: answer for prompt, answer in reversed(rows) if len(prompt) <= LONGEST and answer}
        kept = list(reversed(pairs.items()))
        answers = {answer for _, answer in kept}
        found[row["name"]] = {
            "family": row.get("family") or f"function vectors, {row['group']}",
            "labels": row.get("labels") or (sorted(answers) if len(answers) <= 5 else []),
            "pairs": kept[:GIVEN],
        }
    return found


def plain(text: str) -> str:
    """A text without what does not tell two apart: case, space and marks."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text


def read_wordings(*paths: Path) -> dict[str, list[str]]:
    """By task, the descriptions of JSON lines files or of folders of them, each once."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for path in paths:
        for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
            for row in read_lines(file):
                found[row["name"]] |= dict.fromkeys(" ".join(text.split()) for text in row["descriptions"])
    return {name: list(texts) for name, texts in found.items()}


def split_pairs(pairs: Sequence[Pair], labelled: bool) -> dict[str, list[Pair]]:
    """A sixth for development and a sixth for the test, at least eight each, by a hash of the input.

    By a hash, so that an input of several tasks is on one side in all of them; within each label, where there are
    labels and pairs enough.
    """
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair[1] if labelled and len(pairs) >= 60 else ""].append(pair)
    found: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for group in groups.values():
        group.sort(key=lambda pair: place(pair[0]))
        size = max(-(-8 // len(groups)), round(len(group) / 6))
        found["dev"] += group[:size]
        found["test"] += group[size : 2 * size]
        found["train"] += group[2 * size :]
    for split, own in found.items():
        random.Random(f"{split} {len(own)}").shuffle(own)
    return found


def read_given(data: Path, folder: Path, report: Any = print) -> tuple[dict[str, Task], dict[str, list[Task]]]:
    """The tasks for training, by name, and the unseen ones for `dev` and `test`."""
    rows = read_pairs(data / "real_tasks.jsonl.gz") | read_pairs(data / "function_vectors.jsonl.gz")
    files = [file for file in sorted(folder.glob("*.jsonl")) if file.name != "bigbench.jsonl"]
    wordings = read_wordings(*files, HERE.parent / "function-vectors/descriptions.jsonl")
    held_out = read_wordings(folder / "held_out")
    sides = yaml.safe_load((HERE / "splits.yaml").read_text(encoding="utf-8"))
    given: dict[str, Task] = {}
    unseen: dict[str, list[Task]] = {"dev": [], "test": []}
    for name, row in sorted(rows.items()):
        own, kept_back = wordings.get(name, []), held_out.get(name, [])
        if not own:
            report(f"left out, for it has no wordings: {name}")
            continue
        if not kept_back:  # until others have written some
            own, kept_back = own[:-4], own[-4:]
        task = Task(name, row["family"], split_pairs(row["pairs"], bool(row["labels"])), own, kept_back, row["labels"])
        side = next((side for side in unseen if name in sides[side]), None)
        if side:
            unseen[side].append(task)
        elif len(task.pairs["train"]) >= 8:
            given[name] = task
    described = read_wordings(folder / "bigbench.jsonl")
    missing = 0
    evaluated = read_pairs(data / "bigbench_tasks.jsonl.gz")
    if absent := sorted({*wordings, *described} - {*rows, *evaluated}):
        report(f"described, but without pairs in {data}: {', '.join(absent)}")
    for name, row in sorted(evaluated.items()):
        if name not in described or len(row["pairs"]) < 16:
            missing += 1
            continue
        side = "dev" if any(fnmatch(name, pattern) for pattern in sides["bigbench_dev"]) else "test"
        family = f"bigbench, {row['family']}"
        pairs = split_pairs(row["pairs"], bool(row["labels"]))
        unseen[side].append(Task(name, family, pairs, described[name], [], row["labels"]))
    if missing:
        report(f"left out, for they have no wordings or too few pairs: {missing} tasks of BIG-bench")
    return given, unseen


def halves(task: Task) -> dict[str, list[str]]:
    """The held-out wordings for development and those for the test."""
    middle = (len(task.held_out) + 1) // 2
    return {"dev": task.held_out[:middle], "test": task.held_out[middle:]}


def short(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that training reads: time goes with their length."""
    return [pair for pair in pairs if len(pair[0]) <= SHORT_INPUT and len(pair[1]) <= SHORT_OUTPUT]


def training_row(task: Task, weight: int = 1) -> dict[str, Any] | None:
    examples = short(task.pairs["train"])
    if len(examples) < 6:
        return None
    return {
        "name": task.name,
        "descriptions": task.wordings,
        "examples": examples,
        "held_out_descriptions": halves(task)["dev"],
        "held_out_examples": task.pairs["dev"][:SCORED] if len(task.pairs["dev"]) >= VALIDATED else [],
        "weight": weight,
    }


def seen_row(task: Task, side: str) -> dict[str, Any]:
    return {
        "name": task.name,
        "descriptions": halves(task)[side],
        "examples": task.pairs["train"],
        "held_out_examples": task.pairs[side][:SCORED],
    }


def unseen_row(task: Task) -> dict[str, Any]:
    scored = [*task.pairs["dev"], *task.pairs["test"]]
    return {
        "name": task.name,
        "descriptions": [*task.wordings, *task.held_out],
        "examples": task.pairs["train"] + scored[SCORED:],
        "held_out_examples": scored[:SCORED],
    }


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def drop_evaluated(tasks: Iterable[Task], data: Path, report: Any) -> None:
    """Take the inputs that BIG-bench and the tasks of `t2l check smol` have out of what training reads."""
    rows = [*read_lines(data / "bigbench_tasks.jsonl.gz"), *read_lines(CHECKED)]
    known = {plain(prompt) for row in rows for prompt, _ in row["examples"]}
    dropped: list[str] = []
    for task in tasks:
        dropped += [prompt for prompt, _ in task.pairs["train"] if plain(prompt) in known]
        task.pairs["train"] = [pair for pair in task.pairs["train"] if plain(pair[0]) not in known]
    if dropped:
        report(
            f"left out of training, for tasks that are for evaluation alone have their inputs: {len(dropped)} pairs "
            f"with {len(set(dropped))} inputs"
        )


def summary(tasks: Mapping[str, Sequence[Task]]) -> str:
    """Tasks, wordings and pairs by split and family."""
    lines = [
        f"{'split':<12} {'family':<34} {'tasks':>5} {'wordings':>8} {'held out':>8} {'pairs':>7} {'dev':>6} {'test':>6}"
    ]
    for split, own in tasks.items():
        families = sorted({task.family for task in own})
        for family in [*families, "all"]:
            some = [task for task in own if family in (task.family, "all")]
            figures = [sum(len(task.pairs[s]) for task in some) for s in SPLITS]
            lines.append(
                f"{split:<12} {family:<34} {len(some):>5} {sum(len(t.wordings) for t in some):>8} "
                f"{sum(len(t.held_out) for t in some):>8} {figures[0]:>7} {figures[1]:>6} {figures[2]:>6}"
            )
    return "\n".join(lines)


def prepare(
    data: Path,
    output: Path,
    wordings: Path = HERE / "wordings",
    written: Path = HERE / "written",
    seed: int = 0,
    report: Any = print,
    weights: Sequence[int] = (1, 1, 1),
) -> dict[str, list[Task]]:
    """Write the files; the tasks by split (`train`, and the unseen ones of `dev` and `test`).

    Training draws given, written and made tasks in proportion to their `weights`.
    """
    given, unseen = read_given(data, wordings, report)
    sides = yaml.safe_load((HERE / "splits.yaml").read_text(encoding="utf-8"))
    domains = read_written(written)
    if absent := [name for side in unseen for name in sides["domains"][side] if name not in domains]:
        report(f"to be held out, but not in {written}: {', '.join(absent)}")
    new = {side: [task for name in sides["domains"][side] for task in domains.pop(name, [])] for side in unseen}
    own = [task for tasks in domains.values() for task in tasks]
    if own:
        own = drop_twins(own, [[*t.wordings, *t.held_out] for side in unseen.values() for t in side], report)
    maker = Maker(given, {task.name: task for task in own}, seed)
    kinds = [
        [replace(t, wordings=maker.voices.vary(t.wordings, maker.rng(f"voices {t.name}"), count)) for t in tasks]
        for tasks, count in ((given.values(), WORDINGS["train"]), (own, WORDINGS["train"] // 2))
    ]
    kinds.append(maker.make())
    train = [task for tasks in kinds for task in tasks]
    drop_evaluated(train, data, report)
    output.mkdir(parents=True, exist_ok=True)
    rows = (training_row(task, weight) for tasks, weight in zip(kinds, weights, strict=True) for task in tasks)
    write_rows(filter(None, rows), output / "train.jsonl")
    for side in ("dev", "test"):
        write_rows((seen_row(task, side) for task in train), output / f"{side}_seen.jsonl")
        write_rows(map(unseen_row, unseen[side]), output / f"{side}_unseen.jsonl")
        write_rows(map(unseen_row, new[side]), output / f"{side}_domains.jsonl")
    found = {"train": train, **unseen, **{f"{side} domains": tasks for side, tasks in new.items()}}
    chosen = [task for tasks in found.values() for task in tasks if task.name in sides["oracles"]]
    write_rows(
        ({**unseen_row(task), "examples": short(task.pairs["train"])} for task in chosen), output / "oracles.jsonl"
    )
    families = {task.name: task.family for tasks in found.values() for task in tasks}
    (output / "families.json").write_text(json.dumps(families, indent=1) + "\n", encoding="utf-8")
    (output / "summary.txt").write_text(summary(found) + "\n", encoding="utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("runs/smol/data"), help="the folder of the data files")
    parser.add_argument("--output", type=Path, default=Path("runs/smol"))
    parser.add_argument(
        "--wordings", type=Path, default=HERE / "wordings",
        help="JSON lines files of descriptions by task; those in `held_out` are for evaluation alone",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--weights", type=int, nargs=3, default=(1, 1, 1), metavar=("GIVEN", "WRITTEN", "MADE"),
        help="how often training draws a task of each kind, in proportion",
    )  # fmt: skip
    parser.add_argument("--written", type=Path, default=HERE / "written", help="JSON lines files; see written.py")
    options = parser.parse_args()
    if not (options.data / "real_tasks.jsonl.gz").exists():
        parser.error(f"{options.data} has no real_tasks.jsonl.gz: give as --data the folder that sources.py wrote")
    folders = options.data, options.output, options.wordings, options.written
    print(summary(prepare(*folders, options.seed, weights=options.weights)))


if __name__ == "__main__":
    main()
