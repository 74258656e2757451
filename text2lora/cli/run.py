"""`t2l run`."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from text2lora.bundled import DEFAULT
from text2lora.cli import options as opt
from text2lora.cli.adapters import answer_table
from text2lora.cli.chat import input_lines
from text2lora.cli.terminal import err, inside, out, print_json, quiet, show, suggest
from text2lora.errors import InvalidInputError
from text2lora.hub import MARKERS

if TYPE_CHECKING:
    from text2lora.functions import Function

WINDOW = 4
"""Batches of lines that are read before they are answered: lines of similar length then share a batch."""
PATIENCE = 0.05
"""Seconds without a new line after which the lines that are there are answered."""

Labels = Annotated[
    list[str] | None,
    typer.Option(help="Allow only these answers, such as `urgent,later`; or repeat the option for each."),
]
MaybeAdapter = Annotated[
    str | None,
    typer.Argument(
        help="Folder or Hub id of a LoRA adapter; leave it out with --do.", autocompletion=opt.complete_adapter
    ),
]
Inputs = Annotated[
    list[str] | None, typer.Argument(help="Inputs to answer (default: the lines of a pipe).", metavar="input")
]
Do = Annotated[str | None, typer.Option(help="What to do, in plain words, instead of an adapter.")]
Maker = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=f"Checkpoint for --do: `smol`, `nano`, a folder or a Hub id (default: {DEFAULT}).",
        autocompletion=opt.complete_checkpoint,
    ),
]


def run(
    adapter: MaybeAdapter = None,
    inputs: Inputs = None,
    do: Do = None,
    example: opt.Example = None,
    examples: opt.ExampleFile = None,
    model: Maker = None,
    labels: Labels = None,
    subfolder: opt.Subfolder = None,
    base: opt.Base = None,
    max_new_tokens: opt.MaxNewTokens = 64,
    batch_size: opt.BatchSize = 32,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Answer inputs with an adapter, or with a sentence that says what to do.

    In a terminal, you see the base model's answers next to the adapter's.
    In a pipe, you get one line for each line of input: the adapter's answer,
    or with --json an object, which includes how likely the answer is to be
    right; with --labels, its share among them, which is not calibrated, and
    the share of each.

    Example: t2l run city "Will it rain in Lisbon on Sunday morning?"
    """
    pairs = opt.parse_examples(example, examples)
    if do is not None or (pairs and adapter is None):
        inputs, adapter = [*([] if adapter is None else [adapter]), *(inputs or [])], None
    if do is not None and inputs and (Path(inputs[0]) / MARKERS["adapter"]).is_file():
        err.print(f"[yellow]{escape(inputs[0])} is read as an input:[/] to use this adapter, leave out --do")
    _check_source(adapter, do, bool(pairs), model, base)
    opt.check_texts([do or "", *(inputs or []), *(labels or [])], "INPUT")
    if not inputs and sys.stdin.isatty():
        raise typer.BadParameter("missing: give an input, or pipe lines in", param_hint="INPUT")
    if inputs and _has_unread_input():
        err.print(
            "[yellow]Standard input is not read:[/] the command names inputs; to answer its lines, leave them out"
        )
    quiet()
    import text2lora

    options: dict[str, Any] = {"base": base, "max_new_tokens": max_new_tokens, "device": opt.parse_device(device)}
    with err.status("loading the model"):
        made: dict[str, Any] = {"do": do, "examples": pairs or None, "model": model, "subfolder": subfolder}
        function = text2lora.function(adapter, **made, labels=_parse_labels(labels), **options)
    if inputs and out.is_terminal and not (as_json or labels):
        with err.status("answering"):
            bare = text2lora.function(function.adapter.scaled(0), **options)
            before, after = bare.many(inputs, batch_size), function.many(inputs, batch_size)
        _show_side_by_side(function, inputs, before, after, base)
        if adapter:
            suggest("t2l", "chat", adapter, *inside(subfolder))
    elif inputs:
        for text, answer in zip(inputs, _answers(function, inputs, batch_size), strict=True):
            _print(text, answer, as_json)
    else:
        _answer_pipe(function, batch_size, as_json)


def _check_source(adapter: str | None, do: str | None, examples: bool, model: str | None, base: str | None) -> None:
    """Refuse options that do not go together with an adapter, or with a sentence in its place."""
    wrong = None
    if adapter is None and do is None and not examples:
        wrong = "ADAPTER", "missing: name an adapter, or say what to do with --do"
    elif adapter is None and base:
        wrong = "--base", "works only with an adapter; with --do, --model decides the base model"
    elif adapter is not None and model:
        wrong = "--model", "works only with --do; an adapter's own base model is used, or the one of --base"
    elif adapter is not None and examples:
        wrong = opt.EXAMPLES_HINT, "works only with --do"
    if wrong:
        raise typer.BadParameter(wrong[1], param_hint=wrong[0])


def _parse_labels(labels: Sequence[str] | None) -> list[str] | None:
    if not labels:
        return None
    found = [label.strip() for label in (labels[0].split(",") if len(labels) == 1 else labels)]
    if len(found) < 2:
        raise typer.BadParameter(f"{labels[0]!r}: expected two or more, such as urgent,later", param_hint="--labels")
    return found


def _show_side_by_side(
    function: Function, inputs: Sequence[str], before: Sequence[str], after: Sequence[str], base: str | None
) -> None:
    from text2lora.samples import BY_BASE

    show(answer_table([{"input": i, "base": b, "adapter": a} for i, b, a in zip(inputs, before, after, strict=True)]))
    known = BY_BASE.get(function.adapter.spec.base(base)[0] or "")
    if known:
        out.print(f"[dim]{escape(f'{known.reads} {known.note}')}[/]")


def _answers(function: Function, texts: Sequence[str], batch_size: int) -> list[dict[str, Any]]:
    """What is printed for each answer."""
    found = function.many(texts, batch_size, with_confidence=True)
    return [
        {"answer": answer.text, "confidence": answer.confidence}
        | ({"probabilities": answer.probabilities} if answer.probabilities else {})
        for answer in found
    ]


def _print(text: str, answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"input": text, **answer})
    else:
        print(" ".join((answer["answer"] or "").splitlines()), flush=True)


def _answer_pipe(function: Function, batch_size: int, as_json: bool) -> None:
    """A line of output for each line of input; a line that cannot be answered gets an empty one and a warning.

    Raises:
        InvalidInputError: some lines could not be answered.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    count, failed = 0, 0
    columns = (TextColumn("answering"), BarColumn(), TextColumn("{task.fields[lines]}"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=out.is_terminal or not err.is_terminal) as progress:
        bar = progress.add_task("", total=_size_of_input(), lines="")
        for lines in _windows(batch_size * WINDOW):
            problems = [_problem(function, line) for line in lines]
            good = [line for line, problem in zip(lines, problems, strict=True) if problem is None]
            answers = iter(_answers(function, good, batch_size))
            for line, problem in zip(lines, problems, strict=True):
                count += 1
                if "\ufffd" in line:
                    err.print(f"[yellow]Line {count}:[/] bytes that are not UTF-8 are read as \ufffd: save it as UTF-8")
                if problem is None:
                    _print(line, next(answers), as_json)
                    continue
                failed += 1
                err.print(f"[yellow]Line {count}:[/] {escape(problem)}")
                _print(line, {"answer": None, "error": problem}, as_json)
            size = sum(len(line.encode(errors="replace")) + 1 for line in lines)
            progress.update(bar, advance=size, lines=f"{count:,} lines")
    if failed:
        raise InvalidInputError(f"{failed} of {count} lines have no answer: see the warnings above")


def _problem(function: Function, line: str) -> str | None:
    try:
        function.check(line)
    except InvalidInputError as error:
        return str(error)
    return None


def _size_of_input() -> int | None:
    """The size of standard input in bytes, if it is a file."""
    try:
        found = os.fstat(sys.stdin.fileno())
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _has_unread_input() -> bool:
    """Whether a file or a pipe waits at standard input, as far as the system says."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import fcntl
        import termios

        return any(fcntl.ioctl(sys.stdin, termios.FIONREAD, bytes(4)))
    return False


def _windows(size: int) -> Iterator[list[str]]:
    """The lines of standard input, up to `size` at a time; those that are there do not wait for the next ones."""
    lines: Queue[str | None] = Queue(size)

    def read() -> None:
        """Put the lines into the queue, and None at the end."""
        for line in input_lines(live=False):
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get()) is not None:
        window = [line]
        with contextlib.suppress(Empty):
            while len(window) < size and (line := lines.get(timeout=PATIENCE)) is not None:
                window.append(line)
        if line is None:
            lines.put(None)  # which also ends the outer loop
        yield window
