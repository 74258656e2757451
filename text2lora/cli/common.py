"""What the commands share."""

from __future__ import annotations

import codecs
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.status import Status
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from text2lora.bundled import CHECKPOINTS, PACKAGE
from text2lora.errors import DescriptionWarning
from text2lora.hub import MARKERS
from text2lora.push import PushTarget, push_target

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

    from text2lora.adapter import LoraAdapter
    from text2lora.modeling import Text2LoraModel


class _Console(Console):
    """Breaks lines between words in a terminal, and not at all for a script; avoids Unicode if it is not supported."""

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        """Print, breaking lines between words only at a terminal."""
        super().print(*objects, soft_wrap=not self.is_terminal if soft_wrap is None else soft_wrap, **options)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """Show a spinner that the console's encoding has."""
        return super().status(status, **{"spinner": self.or_plain("dots", "line")} | options)

    def or_plain(self, text: str, plain: str) -> str:
        """The first text if the console supports Unicode, or else the second."""
        return text if self.encoding.startswith("utf") else plain


out = _Console()
err = _Console(stderr=True)


def use_any_encoding() -> None:
    """Let no character stop a command: a console that cannot show it prints its code, and file names do not change."""

    def handle(error: UnicodeError) -> tuple[bytes, int]:
        """Replace characters that the console cannot show."""
        assert isinstance(error, UnicodeEncodeError)
        text = error.object[error.start : error.end]
        return b"".join(_surrogate(c) or c.encode("ascii", "backslashreplace") for c in text), error.end

    codecs.register_error("text2lora", handle)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="text2lora")


def _surrogate(character: str) -> bytes:
    """The byte that a character of an argument stands for if it could not be decoded."""
    return bytes([ord(character) - 0xDC00]) if "\udc80" <= character <= "\udcff" else b""


class _Flags:
    """Help that shows no type for options without a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, those without a value without a type."""
        parameters = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return list(parameters)


class _Command(_Flags, TyperCommand):
    pass


class _Group(_Flags, TyperGroup):
    pass


F = TypeVar("F", bound=Callable[..., Any])


class App(typer.Typer):
    """A group of commands."""

    def __init__(self, **options: Any):
        super().__init__(cls=_Group, no_args_is_help=True, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """Add a command."""
        return super().command(name, cls=_Command, **options)


DTYPES = ("float32", "bfloat16", "float16")


def folders_with(marker: str, incomplete: str) -> list[str]:
    """Folders whose names begin like this and that contain a file of that name."""
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


Adapter = Annotated[str, typer.Argument(help="Folder or Hub id of a LoRA adapter.", autocompletion=complete_adapter)]
Base = Annotated[str | None, typer.Option(help="Base model (default: the one that the adapter names).")]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Checkpoint: `nano`, `smol`, a folder or a Hub id.", autocompletion=complete_checkpoint
    ),
]
Device = Annotated[
    str, typer.Option(help="Device to run on: `auto`, `cpu`, `cuda`, ...", autocompletion=complete_device)
]
HUB = "On the Hub"
EXAMPLES = "Examples"


def _clean_token(token: str | None) -> str | None:
    if token is not None and not token.strip():
        raise typer.BadParameter("is empty: leave it out to use HF_TOKEN or the token from `hf auth login`")
    return token and token.strip()  # of a file, the line break at its end


Token = Annotated[
    str | None,
    typer.Option(
        help="Hub token (default: HF_TOKEN or the token from `hf auth login`).",
        callback=_clean_token,
        rich_help_panel=HUB,
    ),
]
Push = Annotated[bool, typer.Option("--push", help="Push the result to the Hub.", rich_help_panel=HUB)]
RepoId = Annotated[
    str | None,
    typer.Option(
        help="Repository to push to: USER/NAME or NAME (default: named after the result).", rich_help_panel=HUB
    ),
]
Private = Annotated[
    bool, typer.Option("--private", help="Make the repository private if it is new.", rich_help_panel=HUB)
]
CreatePr = Annotated[
    bool, typer.Option("--create-pr", help="Open a pull request instead of pushing directly.", rich_help_panel=HUB)
]
Subfolder = Annotated[str | None, typer.Option(help="Folder inside the given folder or repository.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="dtype of the weights: float32, bfloat16 or float16 (default: unchanged).", autocompletion=complete_dtype
    ),
]
Scale = Annotated[float, typer.Option(help="Strength of the adapter; 1.0 is as trained.")]
Server = Annotated[
    str | None, typer.Option(help="Address of a server with OpenAI's API; its key is read from OPENAI_API_KEY.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Number of inputs to answer at a time.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Example = Annotated[
    list[str] | None,
    typer.Option(
        help="An example to learn from, as `INPUT => ANSWER`; repeat the option for more.", rich_help_panel=EXAMPLES
    ),
]
ExampleFile = Annotated[
    Path | None,
    typer.Option(
        "--examples",
        help='Examples to learn from: a .jsonl with one [input, answer] or {"prompt", "answer"} on each line.',
        rich_help_panel=EXAMPLES,
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what already exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@dataclass(frozen=True)
class Pushing:
    """How a command pushes what it makes: the options of the Hub."""

    repo_id: str | None
    private: bool
    create_pr: bool
    token: str | None
    force: bool

    @classmethod
    def of(
        cls, push: bool, repo_id: str | None, private: bool, create_pr: bool, token: str | None, force: bool
    ) -> Pushing | None:
        """The options as they were given; None without --push.

        Raises:
            typer.BadParameter: there are options of the Hub without --push.
        """
        if not push and (repo_id or private or create_pr):
            raise typer.BadParameter("needed with --repo-id, --private and --create-pr", param_hint="--push")
        return cls(repo_id, private, create_pr, token, force) if push else None

    def check(self, name: str, kind: Literal["adapter", "checkpoint"]) -> PushTarget:
        """Find out whether the push can work, before anything is made.

        Args:
            name: The repository's name unless --repo-id gives one.
            kind: What will be pushed.

        Raises:
            HubError: see `push_target`.
        """
        with err.status("asking the Hub"):
            repo_id = self.repo_id or name
            return push_target(repo_id, kind, token=self.token, create_pr=self.create_pr, force=self.force)

    def send(self, made: LoraAdapter | Text2LoraModel, target: PushTarget) -> CommitInfo:
        """Push an adapter or a checkpoint.

        Raises:
            HubError: see `push_target`.
        """
        private = self.private or None
        return made.push_to_hub(
            target.repo_id, private=private, token=self.token, create_pr=self.create_pr, force=self.force
        )


def parse_examples(given: Sequence[str] | None, file: Path | None) -> list[tuple[str, str]]:
    """The examples of --example and --examples.

    Raises:
        typer.BadParameter: an example has no `=>`.
        TaskError: see `read_examples`.
    """
    found = []
    for text in given or []:
        before, arrow, after = text.rpartition("=>")
        if not (arrow and before.strip() and after.strip()):
            raise typer.BadParameter(f"{text!r}: expected `INPUT => ANSWER`", param_hint="--example")
        found.append((before.strip(), after.strip()))
    if file:
        from text2lora.training.task_files import read_examples

        found += read_examples(file)
    return found


def check_texts(texts: Iterable[str], hint: str) -> None:
    """Refuse an argument that the terminal's encoding could not decode: tokenizers take text only."""
    for text in texts:
        if any(_surrogate(character) for character in text):
            raise typer.BadParameter(
                "contains bytes that cannot be decoded in this terminal's encoding: use UTF-8, for example with "
                "PYTHONUTF8=1",
                param_hint=hint,
            )


def say(message: str) -> None:
    """Print a line for people: in a terminal, or to standard error if a script reads the output."""
    (out if out.is_terminal else err).print(message, highlight=False)


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
            out.print(("\n" if table.show_header else " ").join(lines), highlight=False)
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
        out.print(f"\n[dim]Next: {escape(shlex.join(words))}[/]", highlight=False, soft_wrap=True)


def inside(subfolder: str | None) -> Sequence[str]:
    """The option that a suggested command needs for the same folder."""
    return ("--subfolder", subfolder) if subfolder else ()


def quiet() -> None:
    """Keep the bars and warnings of the libraries underneath off the terminal."""
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DescriptionWarning)  # commands print warnings themselves
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
