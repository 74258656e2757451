"""What the commands print, and how: for people in a terminal, or for a script."""

from __future__ import annotations

import codecs
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.status import Status
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from text2lora.errors import DescriptionWarning


class _Console(Console):
    """Breaks lines between words in a terminal, and not at all for a script; avoids Unicode if it is not supported."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, breaking lines between words only at a terminal."""
        super().print(*objects, **{"soft_wrap": not self.is_terminal} | options)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """Show a spinner that the console's encoding has."""
        return super().status(status, spinner=self.or_plain("dots", "line"), **options)

    def or_plain(self, text: str, plain: str) -> str:
        """The first text if the console supports Unicode, or else the second."""
        return text if self.encoding.startswith("utf") else plain


out = _Console(highlight=False)
err = _Console(stderr=True, highlight=False)


def use_any_encoding() -> None:
    """Let no character stop a command: a console that cannot show it prints its code, and file names do not change."""

    def handle(error: UnicodeError) -> tuple[bytes, int]:
        assert isinstance(error, UnicodeEncodeError)
        text = error.object[error.start : error.end]
        return b"".join(surrogate(c) or c.encode("ascii", "backslashreplace") for c in text), error.end

    codecs.register_error("text2lora", handle)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="text2lora")


def surrogate(character: str) -> bytes:
    """The byte that a character of an argument stands for if it could not be decoded."""
    return bytes([ord(character) - 0xDC00]) if "\udc80" <= character <= "\udcff" else b""


class _Flags:
    """Help with short types, and none for options without a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with their types as the help shows them."""
        parameters = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
            elif getattr(parameter, "min", None) is not None:  # the range follows, so leave room for the options
                parameter.metavar = "<int>"
        return list(parameters)


class _Command(_Flags, TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; a message about a wrong one begins with what is wrong."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # which pydantic writes first
            raise


class _Group(_Flags, TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command. What others have as a command of its own is an option here."""
        if args[0] == "push":
            raise typer.BadParameter("is an option of `t2l make`, `t2l convert` and `t2l eval`", param_hint="--push")
        return super().resolve_command(ctx, args)


F = TypeVar("F", bound=Callable[..., Any])


class App(typer.Typer):
    """A group of commands."""

    def __init__(self, **options: Any):
        super().__init__(cls=_Group, no_args_is_help=True, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """Add a command."""
        return super().command(name, cls=_Command, **options)


def say(message: str) -> None:
    """Print a line for people: in a terminal, or to standard error if a script reads the output."""
    (out if out.is_terminal else err).print(message)


def warn(message: str) -> None:
    """Print a warning for people."""
    err.print(f"[bold yellow]Warning:[/] {escape(message)}")


def result(value: object) -> None:
    """What was made, in one line for a script that reads stdout; people have been told."""
    if not out.is_terminal:
        print(value)


def print_json(value: Any, indent: int | None = None) -> None:
    """JSON for a script, which is UTF-8 or ASCII, whatever the terminal's encoding is."""
    text = json.dumps(value, ensure_ascii=not out.encoding.startswith("utf"), indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which a model may say
        text = json.dumps(value, indent=indent)
    print(text, flush=True)


class FoldedTable(Table):
    """A table that shows a word that is wider than its column in parts, where rich would cut it off."""

    def add_column(self, *args: Any, **options: Any) -> None:
        """Add a column that shows wide words in parts."""
        super().add_column(*args, **{"overflow": "fold"} | options)


def show(table: Table) -> None:
    """A table, or its cells below each other where the terminal is narrower than their words.

    Where a script reads it, a line for each row and tabs between its cells.
    """
    if out.is_terminal:
        if Measurement.get(out, out.options.update(width=sys.maxsize), table).minimum <= out.width:
            out.print(table)
            return
        heads = [f"[bold]{column.header}[/] " if column.header else "" for column in table.columns]
        for cells in zip(*(column.cells for column in table.columns), strict=True):
            lines = [f"{head}{cell}" for head, cell in zip(heads, cells, strict=True) if cell]
            out.print(("\n" if table.show_header else " ").join(lines))
            out.print(end="\n" * table.show_header)
        return
    columns = [[*([column.header] if table.show_header else []), *column.cells] for column in table.columns]
    for row in zip(*columns, strict=True):
        print("\t".join(" ".join(Text.from_markup(str(cell)).plain.split()) for cell in row))


def show_facts(facts: Mapping[str, str]) -> None:
    """Names and what is to be said of each, as markup."""
    table = FoldedTable("", "", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in facts.items():
        table.add_row(f"[bold]{name}[/]", text)
    show(table)


def suggest(*words: str) -> None:
    """The command that comes next, for people at a terminal; in one line, which can be copied."""
    if out.is_terminal:
        out.print(f"\n[dim]Next: {escape(shlex.join(words))}[/]", soft_wrap=True)


def quiet() -> None:
    """Keep the bars and warnings of the libraries underneath off the terminal."""
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    show_others = warnings.showwarning

    def show_warning(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        """Print a warning about a description as one line."""
        if issubclass(category, DescriptionWarning):
            warn(str(message))
        else:
            show_others(message, category, *place, **options)

    warnings.showwarning = show_warning
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()  # retries of an unreachable Hub; the error at the end says it in one line


def inside(subfolder: str | None) -> Sequence[str]:
    """The option that a suggested command needs for the same folder."""
    return ("--subfolder", subfolder) if subfolder else ()


def sample_input(base: str | None) -> str:
    """An input that the base understands."""
    from text2lora.samples import BY_BASE

    return BY_BASE[base].inputs[0] if base in BY_BASE else "your input"
