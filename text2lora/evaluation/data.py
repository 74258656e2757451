"""Where the questions come from: the Hub, files in its columns or in instruction form, files of your own."""

from __future__ import annotations

import difflib
import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from text2lora.errors import EvaluationError, MissingExtraError
from text2lora.evaluation.tasks import BENCHMARKS, EvalTask, Example, Row, own_task
from text2lora.hub import hub_fault
from text2lora.installation import install_command

ENDINGS = (".jsonl", ".jsonl.gz", ".json.gz", ".json")


@dataclass(frozen=True)
class TaskData:
    """A task with its questions; the demonstrations are not among those that are scored."""

    task: EvalTask
    examples: Sequence[Example]
    shots: Sequence[Example]


def load_task(name: str, data: Path | None = None, shots: int = 3, limit: int | None = None) -> TaskData:
    """A task with its questions and demonstrations.

    The demonstrations are the first of the split that the data set has for them; where it has none, the first of all,
    which are then not scored in any condition.

    Args:
        name: one of `BENCHMARKS`, or a file of JSON lines with `prompt` and `answer`.
        data: for a benchmark, a file or folder in place of the Hub.
        shots: how many demonstrations.
        limit: how many questions, the first ones; None takes all.

    Raises:
        EvaluationError: no such task, or its data cannot be read.
        MissingExtraError: the data is on the Hub and `datasets` is not installed.
    """
    if name in BENCHMARKS:
        task = BENCHMARKS[name]
        if data is not None:
            rows, aside = local_rows(task.name, data)
        else:
            rows, aside = _hub_rows(task, shots, None if limit is None else limit + shots)
    elif name.endswith(ENDINGS) or Path(name).exists():
        path = Path(name)
        task = own_task(re.sub(r"\.jsonl?(\.gz)?$", "", path.name))
        rows, aside = list(read_lines(path)), []
        for number, row in enumerate(rows, 1):
            if not (isinstance(row, dict) and isinstance(row.get("prompt"), str) and _is_answer(row.get("answer"))):
                raise EvaluationError(f'{path}, row {number}: expected {{"prompt": "...", "answer": "..."}}')
    else:
        close = difflib.get_close_matches(name, BENCHMARKS, 1)
        hint = f"did you mean {close[0]!r}? Otherwise " if close else ""
        raise EvaluationError(
            f"{name!r} is no task: {hint}expected {', '.join(BENCHMARKS)}, lm_eval:NAME or a file ending in .jsonl"
        )
    if len(aside) < shots:
        aside, rows = rows[:shots], rows[shots:]
    if not rows:
        raise EvaluationError(
            f"{name} has nothing left to score after {len(aside)} examples for demonstrations: give more, or --shots 0"
        )
    return TaskData(task, [task.read(row) for row in rows[:limit]], [task.read(row) for row in aside[:shots]])


def _is_answer(value: object) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or (
        isinstance(value, int | float) and not isinstance(value, bool)
    )


def read_lines(path: Path) -> Iterator[Any]:
    """The values of a file of JSON lines, gzipped or not; empty lines are skipped.

    Raises:
        EvaluationError: it cannot be read, or a line is not JSON.
    """
    try:
        with path.open("rb") as probe:
            packed = probe.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except ValueError as error:
                        raise EvaluationError(f"{path}, line {number} is not JSON ({error})") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EvaluationError(f"{path} cannot be read ({reason}): expected a file of JSON lines") from error


def local_rows(name: str, data: Path) -> tuple[list[Row], list[Row]]:
    """Rows of a benchmark from a file or a folder: those to score, and those for demonstrations.

    A file holds a row a line; or a benchmark a line, as `{"name": "ARC-Easy", "train": [rows], "test": [rows]}`. In a
    folder, the file is named after the benchmark (`arc_easy.jsonl`, `HumanEval.jsonl.gz`; `arc_easy.train.jsonl` has
    the demonstrations), or is one of benchmarks.

    Raises:
        EvaluationError: the benchmark is not there.
    """
    if not data.exists():
        raise EvaluationError(f"{data} does not exist: expected a file or a folder of JSON lines")
    files = sorted(path for path in data.iterdir() if path.name.endswith(ENDINGS)) if data.is_dir() else [data]
    for path in files:
        first = next(islice(read_lines(path), 1), None)
        if _is_bundle(first):
            for row in read_lines(path):
                if _is_bundle(row) and _plain(row["name"]) == _plain(name):
                    return list(row["test"]), list(row.get("train", []))
        elif path == data or _plain(_stem(path)) == _plain(name):
            beside = [other for other in files if _plain(_stem(other)) == _plain(f"{name}.train")]
            return list(read_lines(path)), list(read_lines(beside[0])) if beside else []
    raise EvaluationError(f"{data} has no {name}: expected {name}.jsonl in it, or a line with that name")


def _is_bundle(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("name"), str) and isinstance(row.get("test"), list)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _stem(path: Path) -> str:
    return re.sub(r"\.jsonl?(\.gz)?$", "", path.name)


def _hub_rows(task: EvalTask, shots: int, limit: int | None) -> tuple[list[Row], list[Row]]:
    source = task.source
    assert source is not None
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"{task.name} comes from the Hub through datasets: {install_command('eval')}, or pass --data"
        ) from error

    def rows(split: str, count: int | None) -> list[Row]:
        part = split if count is None else f"{split}[:{count}]"
        return list(datasets.load_dataset(source.path, source.config, split=part))

    try:
        return rows(source.split, limit), rows(source.shots_split, shots) if source.shots_split and shots else []
    except Exception as error:  # of many kinds: of the Hub, of Arrow, of the data set
        reason = hub_fault(error, source.path) or str(error).strip().split("\n")[0]
        raise EvaluationError(
            f"the data set {source.path} cannot be read ({reason}): pass --data for a file"
        ) from error
