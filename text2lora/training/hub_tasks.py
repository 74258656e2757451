"""Tasks made from data sets, through the `datasets` library."""

from __future__ import annotations

import re
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

from text2lora.errors import MissingExtraError, TaskError
from text2lora.files import first_line, read_json_lines
from text2lora.installation import install_command
from text2lora.training.recipe import at_least, settings
from text2lora.training.task_files import check_wordings, locate
from text2lora.training.tasks import Task, TaskExample

LOTS_OF_LORAS = {
    "prompt": "{input}",
    "response": "{output[0]}",
    "definition_pattern": r"Definition:.*Now complete the following example\s*-?\s*|Definition:.*?(?=Input:)",
}
"""Settings for the Lots-of-LoRAs data sets (Natural Instructions), whose prompts begin with the task's definition."""


@settings
class HubTasks:
    """Tasks from data sets on the Hub, or any that `datasets.load_dataset` reads; each data set is one task.

    Attributes:
        descriptions: A JSON lines file. Each line has `dataset` and `descriptions`, and may have
            `held_out_descriptions`; lines with `"used_for_training": false` are skipped.
        datasets: The data sets to use; empty uses all those in `descriptions`. Each is any name that `load_dataset`
            takes, or a format such as `json` together with `data_files`.
        config: The configuration of the data sets, if they have several.
        data_files: The data files, as in `load_dataset`.
        split: The split to read.
        revision: The commit, branch or tag of the data sets.
        prompt, response: Templates over the columns of a row, such as `{question}` or `{answers[0]}`.
        definition_pattern: A regular expression that matches the task's definition in a prompt.
        layout: `lots-of-loras` sets the three fields above for the Lots-of-LoRAs data sets.
        limit: The maximum number of examples per task; 0 for all.
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
    """Read tasks from data sets, with the `datasets` library; relative paths are looked up as by `locate`.

    Raises:
        TaskError: a data set cannot be loaded, lacks a column, or has no descriptions.
        MissingExtraError: `datasets` is not installed.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError(f"reading data sets needs `datasets`: {install_command('train')}") from error
    if source.layout:
        defaults: dict[str, Any] = {k: v for k, v in LOTS_OF_LORAS.items() if not getattr(source, k)}
        source = replace(source, **defaults)
    if not source.prompt or not source.response:
        raise TaskError("a data set needs the templates `prompt` and `response`, or a `layout`")
    wordings = {
        str(row.get("dataset", "")): row
        for row in read_json_lines(locate(source.descriptions, folder))
        if row.get("used_for_training", True)
    }
    tasks = []
    for dataset in source.datasets or wordings:
        if dataset not in wordings:
            raise TaskError(f"{source.descriptions} has no descriptions of {dataset!r}: expected a line for it")
        try:
            rows = load_dataset(
                dataset,
                source.config or None,
                data_files=str(locate(source.data_files, folder)) if source.data_files else None,
                split=source.split,
                revision=source.revision or None,
            )
        except Exception as error:  # datasets raises many types
            raise TaskError(f"the data set {dataset!r} cannot be loaded ({first_line(error)})") from error
        name = str(dataset).rstrip("/").rpartition("/")[2]
        if source.limit:
            rows = rows.select(range(min(source.limit, len(rows))))
        try:
            examples = [_from_row(row, source) for row in rows]
        except (KeyError, IndexError, AttributeError) as error:
            raise TaskError(
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
