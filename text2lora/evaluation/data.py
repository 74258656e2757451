"""Where the questions come from: the Hub, files in its columns or in instruction form, files of your own."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from text2lora.arguments import checked
from text2lora.errors import EvaluationError, MissingExtraError, TaskError
from text2lora.evaluation.tasks import BENCHMARKS, EvalItem, EvalTask, Row, own_task
from text2lora.files import first_line, read_json_lines
from text2lora.hub import hub_fault
from text2lora.installation import install_command
from text2lora.language import Prompt
from text2lora.training.task_files import YAML, read_tasks
from text2lora.training.tasks import TaskExample

ENDINGS = (".jsonl", ".jsonl.gz", ".json.gz", ".json")


@dataclass(frozen=True)
class TaskData:
    """A task with its questions; the demonstrations are not among those that are scored."""

    task: EvalTask
    examples: Sequence[EvalItem]
    shots: Sequence[EvalItem]


@checked(EvaluationError)
def load_tasks(name: str, data: Path | None = None, shots: int = 3, limit: int | None = None) -> list[TaskData]:
    """Load tasks with their questions and demonstrations.

    The demonstrations are the first examples of the split that the data set has for them. If it has none, they are the
    first examples of all, which are then not scored in any condition. If a task in a file has held-out examples, these
    are scored, and the demonstrations are the first of the others.

    Args:
        name: one of `BENCHMARKS`, or a file or folder of tasks; see `read_tasks`.
        data: a file or folder to read a benchmark from instead of the Hub.
        shots: the number of demonstrations.
        limit: use only this many questions, from the beginning; None uses all.

    Raises:
        EvaluationError: there is no such task, or its data cannot be read.
        MissingExtraError: the data is on the Hub and `datasets` is not installed.
    """
    if name in BENCHMARKS:
        task = BENCHMARKS[name]
        if data is not None:
            rows, aside = local_rows(task.name, data)
        else:
            rows, aside = _hub_rows(task, shots, None if limit is None else limit + shots)
        return [_set_aside(task, [task.read(row) for row in rows], [task.read(row) for row in aside], shots, limit)]
    if not name.endswith((*ENDINGS, *YAML)) and not Path(name).exists():
        close = difflib.get_close_matches(name, BENCHMARKS, 1)
        hint = f"did you mean {close[0]!r}? Otherwise " if close else ""
        raise EvaluationError(
            f"{name!r} is not a task: {hint}expected {', '.join(BENCHMARKS)}, lm_eval:NAME, or a file or folder of "
            "tasks"
        )
    try:
        found = read_tasks(Path(name), described=False)
    except TaskError as error:
        raise EvaluationError(str(error)) from error
    tasks = []
    for own in found:
        task = own_task(own.name)
        shown, held_out = ([_question(task, e) for e in examples] for examples in (own.examples, own.held_out_examples))
        longest = max((len(question.target.encode()) for question in (*shown, *held_out)), default=0)
        task = replace(task, max_new_tokens=max(task.max_new_tokens, longest // 2 + 16))  # more than its tokens
        tasks.append(_set_aside(task, held_out or shown, shown if held_out else [], shots, limit))
    return tasks


def _set_aside(
    task: EvalTask, examples: list[EvalItem], aside: list[EvalItem], shots: int, limit: int | None
) -> TaskData:
    if len(aside) < shots:
        aside, examples = examples[:shots], examples[shots:]
    if not examples:
        raise EvaluationError(
            f"{task.name} has no examples left to score, after {len(aside)} for demonstrations: add some, or use "
            "--shots 0"
        )
    return TaskData(task, examples[:limit], aside[:shots])


def _question(task: EvalTask, example: TaskExample) -> EvalItem:
    """An example of a task in a file as a question, without the definition of the task."""
    *before, prompt = _turns(task.name, example.prompt)
    row = {"prompt": prompt, "answer": example.answer or example.response, "response": example.response}
    return replace(task.read(row), before=tuple(before))


def _turns(name: str, prompt: Prompt) -> list[str]:
    """What user and assistant say in turn, the user first and last. A system message is put before the first turn."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    system = [message["content"] for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    expected = ["user", "assistant"] * (len(rest) // 2) + ["user"]
    if [message["role"] for message in rest] != expected:
        raise EvaluationError(
            f"{name} has messages of {', '.join(m['role'] for m in rest)}: expected the last one to be the user's"
        )
    first, *others = [message["content"] for message in rest]
    return ["\n\n".join([*system, first]), *others]


def local_rows(name: str, data: Path) -> tuple[list[Row], list[Row]]:
    """Read the rows of a benchmark from a file or a folder: those to score, and those for demonstrations.

    Each line of a file is a row, or a benchmark, such as `{"name": "ARC-Easy", "train": [rows], "test": [rows]}`. In a
    folder, the file is named after the benchmark (`arc_easy.jsonl`, `HumanEval.jsonl.gz`, with the demonstrations in
    `arc_easy.train.jsonl`), or it is a file of benchmarks.

    Raises:
        EvaluationError: the benchmark is not there.
    """
    if not data.exists():
        raise EvaluationError(f"{data} does not exist: expected a file or a folder of JSON lines")
    files = sorted(path for path in data.iterdir() if path.name.endswith(ENDINGS)) if data.is_dir() else [data]
    for path in files:
        rows = read_json_lines(path, EvaluationError)
        if rows and _is_bundle(rows[0]):
            for row in rows:
                if _is_bundle(row) and _plain(row["name"]) == _plain(name):
                    return list(row["test"]), list(row.get("train", []))
        elif path == data or _plain(_stem(path)) == _plain(name):
            beside = [other for other in files if _plain(_stem(other)) == _plain(f"{name}.train")]
            demonstrations = read_json_lines(beside[0], EvaluationError) if beside else []
            return rows, demonstrations
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
            f"{task.name} is loaded from the Hub with datasets: {install_command('eval')}, or pass --data"
        ) from error

    def rows(split: str, count: int | None) -> list[Row]:
        part = split if count is None else f"{split}[:{count}]"
        return list(datasets.load_dataset(source.path, source.config, split=part))

    try:
        return rows(source.split, limit), rows(source.shots_split, shots) if source.shots_split and shots else []
    except Exception as error:  # of many kinds: of the Hub, of Arrow, of the data set
        reason = hub_fault(error, source.path) or first_line(error)
        raise EvaluationError(
            f"the data set {source.path} cannot be read ({reason}): use --data to read it from a file"
        ) from error
