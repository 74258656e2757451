"""Tasks in files: reading them, and writing them as JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from text2lora.arguments import checked
from text2lora.encoder import check_description
from text2lora.errors import InvalidDescriptionError, TaskError
from text2lora.files import parse_yaml, read_json_lines, read_text
from text2lora.training.recipe import settings
from text2lora.training.tasks import Task, TaskExample


@settings
class TaskFiles:
    """Tasks in your own files.

    Attributes:
        path: A YAML file with one task, a JSON lines file with one task a line, or a folder of them; see `read_tasks`.
    """

    path: str


@checked(TaskError)
def read_tasks(path: Path, described: bool = True) -> list[Task]:
    """Read tasks from a YAML or JSON lines file, or from a folder of them.

    A task is a mapping with `name` (default: the file's name), `descriptions` and `examples`, and optionally
    `held_out_descriptions`, `held_out_examples`, `definition` and `weight`. An example is a mapping with `prompt` (or
    chat `messages`) and `response`, or a list of the two. `answer` is the part of the response that counts; it may
    replace the response. Instead of a list, `examples` may be the name of a JSON lines file next to the task's file.

    A YAML file holds one task. A JSON lines file holds one task on each line, or one task's examples.

    Args:
        path: The file or folder.
        described: Whether every task needs a description.

    Raises:
        TaskError: a file cannot be read, or a task is incomplete; the message names it.
    """
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in YAML)
        lines = sorted(p for p in path.iterdir() if p.name.endswith((".jsonl", ".jsonl.gz")))
        found += [p for p in lines if not found or _holds_tasks(p)]  # else it is the examples of a task in YAML
        if not found:
            raise TaskError(f"{path} holds no tasks: expected YAML or JSON lines files")
        return [task for file in found for task in read_tasks(file, described)]
    if path.suffix in YAML:
        content = parse_yaml(read_text(path), f"the task {path} cannot be read", TaskError)
        return [_task(content, path, path.stem, described)]
    if not (rows := read_json_lines(path)):
        raise TaskError(f"{path} holds no tasks: expected a task or an example on each line")
    if not _is_example(rows[0]):
        return [_task(row, path, f"line {i + 1}", described) for i, row in enumerate(rows)]
    if described:
        raise TaskError(
            f"{path} holds examples without descriptions: expected tasks, with `descriptions` and `examples`; "
            f"`t2l describe {path}` makes a task from examples"
        )
    name = re.sub(r"\.jsonl?(\.gz)?$", "", path.name)
    return [_task({"name": name, "examples": path.name}, path, name, described)]


def _holds_tasks(path: Path) -> bool:
    """Whether the first line of a file of JSON lines is a task, and not an example."""
    rows = read_json_lines(path)
    return bool(rows) and not _is_example(rows[0])


def read_examples(path: Path) -> list[tuple[str, str]]:
    """Read the examples of one task, as pairs of a prompt and a response; see `read_tasks` for the forms of a file.

    Raises:
        TaskError: the file cannot be read, or does not hold the examples of one task, with prompts of one turn.
    """
    tasks = read_tasks(path, described=False)
    if len(tasks) != 1:
        raise TaskError(f"{path} has {len(tasks)} tasks: expected the examples of one task, one on each line")
    pairs = []
    for number, example in enumerate(tasks[0].examples, 1):
        if not isinstance(example.prompt, str):
            raise TaskError(f"{path}, example {number} has chat messages: expected a prompt of one turn")
        pairs.append((example.prompt, example.response))
    return pairs


YAML = (".yaml", ".yml")


def _is_example(row: object) -> bool:
    return isinstance(row, list) or (isinstance(row, dict) and bool({"prompt", "messages"} & row.keys()))


def read_wordings(path: Path) -> tuple[list[str], list[str]]:
    """Read the names and descriptions of training tasks, as two lists with an entry for each description.

    Args:
        path: Tasks as `read_tasks` reads them, or JSON lines with only `task` and `descriptions`; lines with
            `"used_for_training": false` are skipped.

    Raises:
        TaskError: the file is invalid; see `read_tasks`.
    """
    if path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz")):
        rows = [row for row in read_json_lines(path) if not isinstance(row, dict) or row.get("used_for_training", True)]
        found: dict[str, list[str]] = {}
        for number, row in enumerate(rows, 1):
            name = row.get("name", row.get("task", f"line {number}")) if isinstance(row, dict) else None
            if name is None or "descriptions" not in row:
                raise TaskError(f"{path} holds {str(row)[:80]}: expected `task` and `descriptions`")
            found.setdefault(str(name), []).extend(check_wordings(row["descriptions"], str(path), "descriptions"))
    else:
        found = {task.name: task.descriptions for task in read_tasks(path)}
    return [name for name, texts in found.items() for _ in texts], [text for texts in found.values() for text in texts]


def locate(name: str, folder: Path) -> Path:
    """Resolve a path in a recipe: relative to the recipe if it exists there, else to the working directory."""
    return folder / name if (folder / name).exists() else Path(name)


def _task(content: object, path: Path, place: str, described: bool) -> Task:
    keys = ("name", "descriptions", "held_out_descriptions", "definition", "examples", "held_out_examples", "weight")
    where = f"{path}, {place}" if place != path.stem else str(path)
    needed = ["descriptions", "examples"] if described else ["examples"]
    if not isinstance(content, dict) or not set(needed) <= content.keys():
        raise TaskError(f"{where} is not a task: expected a mapping with `{'` and `'.join(needed)}`")
    if unknown := sorted(set(content) - set(keys)):
        raise TaskError(f"{where} has no setting {unknown[0]!r}: expected some of {', '.join(keys)}")
    name, definition = str(content.get("name", place)), str(content.get("definition") or "")

    def examples(key: str) -> list[TaskExample]:
        rows = content.get(key) or []
        numbers = isinstance(rows, str) or path.suffix not in YAML  # YAML reads 010 as 8 and 12:30 as 750
        rows = read_json_lines(path.parent / rows) if isinstance(rows, str) else rows
        if not isinstance(rows, list):
            raise TaskError(f"{where}: `{key}` is {rows!r}, expected a list or the name of a JSON lines file")
        one = key.removesuffix("s").replace("_", " ")
        return [_example(row, definition, f"{where}, {one} {i + 1}", numbers) for i, row in enumerate(rows)]

    texts = [check_wordings(content.get(key) or [], where, key) for key in ("descriptions", "held_out_descriptions")]
    shown, held_out = examples("examples"), examples("held_out_examples")
    if not shown or (described and not texts[0]):
        raise TaskError(f"{where} has no {'descriptions' if shown else 'examples'}: expected at least one")
    return Task(name, texts[0], shown, texts[1], held_out, content.get("weight", 1))


def check_wordings(given: object, where: str, key: str) -> list[str]:
    """Check a list of descriptions."""
    if not isinstance(given, list):
        raise TaskError(f"{where}: `{key}` is {given!r}, expected a list of texts")
    try:
        return [check_description(text) for text in given]
    except InvalidDescriptionError as error:
        raise TaskError(f"{where}: {error}") from error


def _example(row: object, definition: str, where: str, numbers: bool) -> TaskExample:
    if isinstance(row, list | tuple) and len(row) == 2:
        row = {"prompt": row[0], "response": row[1]}

    def text(value: object) -> object:
        is_number = numbers and isinstance(value, int | float) and not isinstance(value, bool)
        return str(value) if is_number else value

    if isinstance(row, dict):
        prompt, answer = row.get("messages", row.get("prompt")), text(row.get("answer", ""))
        response = text(row.get("response", answer))
        chat = isinstance(prompt, list) and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in prompt)
        if (
            (prompt and (chat or isinstance(prompt, str)))
            and (isinstance(response, str) and isinstance(answer, str))
            and ("response" in row or answer.strip())
        ):
            return TaskExample(prompt, response, definition, "" if answer == response else answer)
    raise TaskError(
        f"{where} is {str(row)[:80]}: expected a `prompt` (or `messages` of `role` and `content`) and a `response` or "
        f"`answer`, as text{'' if numbers else '; numbers, yes and no need quotes'}"
    )


def task_to_dict(task: Task) -> dict[str, Any]:
    """Convert a task to the mapping that `read_tasks` reads."""
    definitions = {example.definition for example in task.examples + task.held_out_examples}
    same = len(definitions) == 1

    def rows(examples: list[TaskExample]) -> list[dict[str, Any]]:
        pairs = [(e, e.without_definition() if same else e.with_definition()) for e in examples]
        return [
            {"prompt" if isinstance(prompt, str) else "messages": prompt, "response": response}
            | ({"answer": example.answer} if example.answer else {})
            for example, (prompt, response) in pairs
        ]

    found: dict[str, Any] = {"name": task.name, "descriptions": task.descriptions}
    if task.held_out_descriptions:
        found["held_out_descriptions"] = task.held_out_descriptions
    if same and definitions != {""}:
        found["definition"] = definitions.pop()
    if task.weight != 1:
        found["weight"] = task.weight
    found["examples"] = rows(task.examples)
    return found | ({"held_out_examples": rows(task.held_out_examples)} if task.held_out_examples else {})
