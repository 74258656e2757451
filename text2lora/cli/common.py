"""What the commands share."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from text2lora.hub import CHECKPOINTS, MARKERS, PACKAGE

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

DTYPES = ("float32", "bfloat16", "float16")


def folders_with(marker: str, incomplete: str) -> list[str]:
    """Folders that begin as it stands and hold a file of that name."""
    return sorted(str(path.parent) for path in Path().glob(f"{incomplete}*/{marker}")) if incomplete[:1] != "/" else []


def complete_checkpoint(incomplete: str) -> list[str]:
    """For the shell: built-in checkpoints, and folders that may be one."""
    built_in = [name for name in CHECKPOINTS if name.startswith(incomplete)]
    return built_in + folders_with(MARKERS["checkpoint"], incomplete)


def complete_adapter(incomplete: str) -> list[str]:
    """For the shell: folders with an adapter."""
    return folders_with(MARKERS["adapter"], incomplete)


def complete_recipe(incomplete: str) -> list[str]:
    """For the shell: recipes that ship with the package."""
    return sorted(path.stem for path in PACKAGE.glob(f"*/recipes/{incomplete}*.yaml"))


def complete_device(incomplete: str) -> list[str]:
    """For the shell: devices that PyTorch may have."""
    return [name for name in ("auto", "cpu", "cuda", "mps") if name.startswith(incomplete)]


def complete_dtype(incomplete: str) -> list[str]:
    """For the shell: dtypes of weights."""
    return [name for name in DTYPES if name.startswith(incomplete)]


Adapter = Annotated[str, typer.Argument(help="A folder or Hub id of a LoRA adapter.", autocompletion=complete_adapter)]
Base = Annotated[str | None, typer.Option(help="The base model; by default the one that the adapter names.")]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A checkpoint: `nano`, a folder or a Hub id.", autocompletion=complete_checkpoint
    ),
]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, ...", autocompletion=complete_device)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def say(message: str) -> None:
    """A line for people: on the terminal, or beside what a script reads."""
    (out if out.is_terminal else err).print(message, highlight=False)


def result(value: object) -> None:
    """What was made, in one line for a script that reads stdout; people have been told."""
    if not out.is_terminal:
        print(value)


def show(table: Table) -> None:
    """A table; where a script reads it, a line for each row and tabs between its cells."""
    if out.is_terminal:
        out.print(table)
        return
    columns = [[*([column.header] if table.show_header else []), *column.cells] for column in table.columns]
    for row in zip(*columns, strict=True):
        print("\t".join(" ".join(Text.from_markup(str(cell)).plain.split()) for cell in row))


def suggest(*words: str) -> None:
    """The command that comes next, for people at a terminal."""
    if out.is_terminal:
        out.print(f"\n[dim]Next: {escape(shlex.join(words))}[/]", highlight=False)


def quiet() -> None:
    """Keep the bars and warnings of the libraries underneath off the terminal."""
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()  # retries of an unreachable Hub; the error at the end says it in one line


def parse_dtype(name: str | None) -> Any:
    """A torch dtype by its name; None stays None."""
    if name is None:
        return None
    if name not in DTYPES:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(DTYPES)}", param_hint="--dtype")
    import torch

    return getattr(torch, name)


def parse_device(name: str) -> str:
    """`auto` is the GPU where there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise typer.BadParameter(f"{name!r} cannot be used here ({reason})", param_hint="--device") from error
    return name


def size(num_bytes: int) -> str:
    """A size for people: 152 kB."""
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def sample_input(base: str | None) -> str:
    """An input that the base understands."""
    from text2lora.samples import BY_BASE

    return BY_BASE[base].inputs[-1] if base in BY_BASE else "your input"
