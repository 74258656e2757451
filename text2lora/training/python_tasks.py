"""Tasks made by your own Python code."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

from text2lora.errors import TrainingError
from text2lora.training.data import TaskSource
from text2lora.training.recipe import settings
from text2lora.training.task_files import locate
from text2lora.training.tasks import Task


@settings
class PythonTasks:
    """Tasks made by a Python file. The file runs with all your rights, so name only code that you trust.

    Attributes:
        python: `FILE.py:NAME`: a local file, and the function or class in it to call. The call returns a list of
            `Task`, or a `TaskSource` that draws tasks and examples itself.
        arguments: Keyword arguments of the call.
    """

    python: str
    arguments: dict[str, Any] = field(default_factory=dict)


def make_tasks(source: PythonTasks, folder: Path = Path()) -> list[Task] | TaskSource:
    """Run the file and call the function or class that the source names; its path is looked up as by `locate`.

    Raises:
        TrainingError: the file or the name does not exist, the code raises an error, or it returns something else.
    """
    file, colon, name = source.python.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise TrainingError(f"python is {source.python!r}: expected FILE.py:NAME, such as tasks.py:make_tasks")
    path = locate(file, folder)
    if not path.is_file():
        raise TrainingError(f"python is {source.python!r}: there is no file {path}")
    made = _call(path.resolve(), name, source)
    if isinstance(made, list) and made and all(isinstance(task, Task) for task in made):
        return made
    if isinstance(getattr(made, "descriptions", None), list) and callable(getattr(made, "draw", None)):
        return made
    raise TrainingError(
        f"{source.python} returned {str(made)[:80]!r}: expected a list of text2lora.training.tasks.Task, or an object "
        "with `descriptions` and `draw`, see text2lora.training.data.TaskSource"
    )


def _call(path: Path, name: str, source: PythonTasks) -> Any:
    """Call a function or class of a file and return its result; the file may import its neighbours, like a script."""
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module_name = f"text2lora_tasks:{path}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look up their annotations there
    try:
        spec.loader.exec_module(module)
        make: Callable[..., Any] | None = getattr(module, name, None)
        if make is None:
            raise TrainingError(f"{path} defines no {name}")
        return make(**source.arguments)
    except TrainingError:
        raise
    except Exception as error:  # user code may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise TrainingError(f"{source.python} failed ({reason}); --debug shows where") from error
