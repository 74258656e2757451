"""Tasks made from data sets, through `datasets`."""

from __future__ import annotations

import re
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

from text2lora.errors import MissingExtraError, TrainingError
from text2lora.installation import install_command
from text2lora.textfiles import read_lines
from text2lora.training.recipe import at_least, settings
from text2lora.training.task_files import check_wordings, locate
from text2lora.training.tasks import Task, TaskExample

LOTS_OF_LORAS = {
    "prompt": "{input}",
    "response": "{output[0]}",
    "definition_pattern": r"Definition:.*Now complete the following example\s*-?\s*|Definition:.*?(?=Input:)",
}
"""The columns of the Lots-of-LoRAs data sets (Natural Instructions): what is before the input says the task."""


@settings
class HubTasks:
    """Tasks in data sets, of the Hub or whatever `datasets.load_dataset` reads; one data set is one task.

    Attributes:
        descriptions: a JSON lines file with `dataset` and `descriptions` a line, and `held_out_descriptions` if there
            are; lines that say `"used_for_training": false` are left out.
        datasets: which of them; all, if empty. Any name of `load_dataset`, or a format as `json` with `data_files`.
        config: of the data sets, where they have several.
        data_files: for `load_dataset`.
        split: of the data sets.
        revision: their commit, branch or tag.
        prompt, response: templates over the columns of a row, as `{question}` or `{answers[0]}`.
        definition_pattern: a regular expression; what it finds in a prompt is the task's definition.
        layout: `lots-of-loras` sets the three above for the data sets of that name.
        limit: examples per task at most; 0 for all.
    """

    descriptions: str
    datasets: list[str] = field(default_factory=list)
    config: str = ""
    data_files: str = ""
    split: str = "train"
    revision: str = ""
    prompt: str = ""
    response: str = ""
    definition_pattern: str = ""
    layout: Literal["", "lots-of-loras"] = ""
    limit: int = at_least(0, default=0)


def load_hub_tasks(source: HubTasks, folder: Path = Path()) -> list[Task]:
    """Read data sets through `datasets`.

    Args:
        source: see `HubTasks`.
        folder: where relative paths are looked up first; see `locate`.

    Raises:
        TrainingError: a data set that cannot be loaded, a column it has not, or a task without descriptions.
        MissingExtraError: `datasets` is not installed.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError(f"data sets need `datasets`: {install_command('train')}") from error
    if source.layout:
        defaults: dict[str, Any] = {k: v for k, v in LOTS_OF_LORAS.items() if not getattr(source, k)}
        source = replace(source, **defaults)
    if not source.prompt or not source.response:
        raise TrainingError("a data set needs templates `prompt` and `response`, or a `layout`")
    wordings = {
        str(row.get("dataset", "")): row
        for row in read_lines(locate(source.descriptions, folder))
        if row.get("used_for_training", True)
    }
    tasks = []
    for dataset in source.datasets or wordings:
        if dataset not in wordings:
            raise TrainingError(f"{source.descriptions} has no descriptions of {dataset!r}: expected a line for it")
        try:
            rows = load_dataset(
                dataset,
                source.config or None,
                data_files=str(locate(source.data_files, folder)) if source.data_files else None,
                split=source.split,
                revision=source.revision or None,
            )
        except Exception as error:  # datasets raises many kinds
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(f"the data set {dataset!r} cannot be loaded ({reason})") from error
        name = str(dataset).rstrip("/").rpartition("/")[2]
        if source.limit:
            rows = rows.select(range(min(source.limit, len(rows))))
        try:
            examples = [_from_row(row, source) for row in rows]
        except (KeyError, IndexError, AttributeError) as error:
            raise TrainingError(
                f"the templates do not fit {name!r} ({error!r}): its columns are {', '.join(rows.column_names)}"
            ) from error
        wording = wordings[dataset]
        lists = [check_wordings(wording.get(k) or [], name, k) for k in ("descriptions", "held_out_descriptions")]
        tasks.append(Task(name, lists[0], examples, lists[1]))
    return tasks


def _from_row(row: dict[str, Any], source: HubTasks) -> TaskExample:
    prompt, response = source.prompt.format(**row), source.response.format(**row)
    found = re.search(source.definition_pattern, prompt, re.S) if source.definition_pattern else None
    if not found:
        return TaskExample(prompt, response)
    bare = prompt[: found.start()] + prompt[found.end() :]
    return TaskExample(bare.strip(), response, found[0].strip())
