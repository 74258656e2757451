"""The sources of a recipe's tasks: files, data sets, or Python."""

from __future__ import annotations

from pathlib import Path

from text2lora.errors import TrainingError
from text2lora.training.data import TaskSource
from text2lora.training.hub_tasks import HubTasks, load_hub_tasks
from text2lora.training.python_tasks import PythonTasks, make_tasks
from text2lora.training.recipe import parse
from text2lora.training.task_files import TaskFiles, locate, read_tasks
from text2lora.training.tasks import Task


def source_kind(entry: object) -> type[TaskFiles] | type[HubTasks] | type[PythonTasks]:
    """The kind of source that a recipe's entry is, judged by its keys."""
    keys = set(entry) if isinstance(entry, dict) else set()
    return PythonTasks if "python" in keys else HubTasks if {"descriptions", "datasets"} & keys else TaskFiles


def load_sources(sources: list, folder: Path = Path()) -> list[Task] | TaskSource:
    """Load the tasks of all sources of a recipe, or its only source if that draws its own examples.

    Sources are mappings with the keys of `TaskFiles`, `HubTasks` or `PythonTasks`; paths are looked up as by `locate`.
    """
    if not sources:
        raise TrainingError("the recipe names no tasks: expected a list of sources, such as `- path: tasks`")
    tasks: list[Task] = []
    for number, entry in enumerate(sources):
        source = parse(source_kind(entry), entry, f"tasks[{number}]")
        if isinstance(source, PythonTasks):
            made = make_tasks(source, folder)
            if not isinstance(made, list):
                if len(sources) > 1:
                    raise TrainingError(f"{source.python} draws its own examples: it must be the recipe's only source")
                return made
            tasks += made
        elif isinstance(source, HubTasks):
            tasks += load_hub_tasks(source, folder)
        else:
            tasks += read_tasks(locate(source.path, folder))
    return tasks
