"""`t2l chat`."""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.live import Live
from rich.markup import escape

from text2lora.cli import options as opt
from text2lora.cli.adapters import answer_table
from text2lora.cli.terminal import FoldedTable, err, inside, out, print_json, quiet, show, suggest
from text2lora.errors import InvalidInputError
from text2lora.samples import BY_BASE, Samples

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from text2lora.adapter import LoraAdapter

SIDES = ("base", "adapter")
HELP = "/scale 0.5 changes the strength of the adapter, /reset forgets the conversation, /help shows this, /quit leaves"


def chat(
    adapter: opt.Adapter,
    subfolder: opt.Subfolder = None,
    base: opt.Base = None,
    scale: opt.Scale = 1.0,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Answer each line on its own, without the lines before it, as `smol` and `nano` always do."
        ),
    ] = False,
    max_new_tokens: opt.MaxNewTokens = 256,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Chat with the base model and the adapter side by side, or answer the lines of a pipe.

    Example: t2l chat city
    """
    quiet()
    from text2lora.adapter import LoraAdapter
    from text2lora.base import load_base_with_tokenizer
    from text2lora.turns import keeps_turns

    lora = LoraAdapter.from_pretrained(adapter, subfolder)
    name, revision = lora.spec.base(base)
    with err.status("loading the base model"):
        model, tokenizer = load_base_with_tokenizer(name, revision, opt.parse_device(device))
        pair = Pair(lora, lora.scaled(scale).apply_to(model), tokenizer, scale, max_new_tokens)
    known = BY_BASE.get(name or "")
    pair.remembers = not fresh and not (known and known.single) and keeps_turns(tokenizer)
    if as_json or not out.is_terminal:
        _answer_pipe(pair, as_json)
        return
    _greet(pair, known)
    for line in input_lines(live=True):
        if line.split()[:1] == ["/quit"] or line in ("exit", "quit"):
            break
        if line.startswith("/"):
            _obey(pair, line)
        elif line := line.strip():
            try:
                _show_live(pair, line)
            except InvalidInputError as error:
                err.print(f"[yellow]{escape(str(error))}[/]")
            except KeyboardInterrupt:
                if not sys.stdin.isatty():
                    raise
                err.print("[dim]stopped; /quit leaves[/]")
    suggest("t2l", "export", "zip", adapter, *inside(subfolder))


@dataclass
class Pair:
    """A base model and an adapter on it, in a conversation with the same person.

    Attributes:
        lora: the adapter as it was read.
        model: the base model with the adapter, at `scale`.
        remembers: whether the model also reads the earlier lines and answers.
        turns: what each side has read and written.
    """

    lora: LoraAdapter
    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    scale: float
    max_new_tokens: int
    remembers: bool = False
    turns: dict[str, list[dict[str, str]]] = field(default_factory=lambda: {side: [] for side in SIDES})

    def answer(self, line: str, on_text: Callable[[str, str], None] | None = None) -> dict[str, str]:
        """The greedy answers of both sides, by side. The conversation grows only when both have answered.

        While an answer is written, `on_text` receives the side and each piece.

        Raises:
            InvalidInputError: the line alone is longer than the model's context.
        """
        from text2lora.base import context_length
        from text2lora.inference import complete
        from text2lora.language import check_text
        from text2lora.turns import fit_turns

        answers, turns = dict.fromkeys(SIDES, ""), {}
        context = context_length(self.model)
        check_text(line)
        for side in reversed(SIDES):  # the adapter's answer, which people wait for, is often the shorter one
            said = [*self.turns[side], {"role": "user", "content": line}]
            turns[side], text, _, room = fit_turns(self.tokenizer, said, context, self.max_new_tokens)
            with self.model.disable_adapter() if side == "base" else contextlib.nullcontext():
                pieces = functools.partial(on_text, side) if on_text else None
                (answer,) = complete(self.model, self.tokenizer, [text], room, on_text=pieces)
            answers[side] = answer.strip()
        if self.remembers:
            self.turns = {side: [*turns[side], {"role": "assistant", "content": answers[side]}] for side in SIDES}
        return answers

    def rescale(self, scale: float) -> None:
        """Change the strength of the adapter in place.

        Raises:
            InvalidArgumentError: `scale` is not a number from 0 upwards.
        """
        self.lora.scaled(scale).apply_to(self.model)
        self.scale = scale

    def reset(self) -> None:
        """Forget what was said."""
        self.turns = {side: [] for side in SIDES}


def input_lines(live: bool) -> Iterator[str]:
    """The lines typed at a prompt, until Ctrl-D or Ctrl-C, or the lines of a pipe."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        plain = codecs.lookup(sys.stdin.encoding).name == "ascii"  # that of a process without a locale
        # tokenizers refuse what is no text
        sys.stdin.reconfigure(encoding="utf-8" if plain else None, errors="replace")
    if live and sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - input() then edits lines and remembers them
        while True:
            try:
                yield input("> ")
            except (EOFError, KeyboardInterrupt):
                print()
                return
    for number, line in enumerate(sys.stdin):
        line = line.removeprefix("\ufeff") if not number else line  # of files from Windows
        if live:
            out.print(f"[dim]>[/] {escape(line.rstrip())}")
        yield line.removesuffix("\n").removesuffix("\r")  # of files from Windows


def _answer_pipe(pair: Pair, as_json: bool) -> None:
    """A row for each line, none of which is a command; a line that cannot be answered gets a warning and no answers.

    Raises:
        InvalidInputError: some lines could not be answered.
    """
    count = failed = 0
    for count, line in enumerate(map(str.strip, input_lines(live=False)), 1):
        try:
            row: dict[str, Any] = {**pair.answer(line), "scale": pair.scale}
        except InvalidInputError as error:
            failed += 1
            err.print(f"[yellow]Line {count}:[/] {escape(str(error))}")
            row = {**dict.fromkeys(SIDES), "scale": pair.scale, "error": str(error)}
        if as_json:
            print_json({"input": line, **row})
        else:
            show(answer_table([{"input": line} | {side: row[side] or "" for side in SIDES}], header=False))
            sys.stdout.flush()
    if failed:
        raise InvalidInputError(f"{failed} of {count} lines have no answer: see the warnings above")


def _greet(pair: Pair, known: Samples | None) -> None:
    """Say what the adapter is for, and what is known of the base model that it is on."""
    description = pair.lora.metadata.get("description")
    if description:
        out.print(f"[bold green]Adapter[/] {escape(description)}")
    turns = "each line is answered on its own" if not pair.remembers else "the models remember earlier lines"
    out.print(f"[dim]{HELP}; {turns}[/]")
    if known:
        out.print(f"[dim]{escape(known.reads)} For example: {escape(known.inputs[0])}[/]")
        if known.note:
            out.print(f"[dim]{escape(known.note)}[/]")


def _obey(pair: Pair, line: str) -> None:
    command, *values = line.split()
    if command == "/reset":
        pair.reset()
        told = "The conversation is forgotten." if pair.remembers else "Each line is answered on its own already."
        err.print(f"[dim]{told}[/]")
    elif command == "/help":
        err.print(f"[dim]{HELP}; to send a line that starts with /, put a space before it[/]")
    elif command == "/scale" and len(values) < 2:
        try:
            if values:
                pair.rescale(float(values[0]))
        except ValueError:
            err.print(f"[yellow]The strength cannot be {escape(values[0])}: expected a number from 0 upwards[/]")
        err.print(f"[dim]scale {pair.scale:g}[/]")
    else:
        err.print(
            f"[yellow]Unknown command {escape(line)}. Try /scale N, /reset, /help or /quit. "
            "To send it, put a space first.[/]"
        )


def _show_live(pair: Pair, line: str) -> None:
    answers = dict.fromkeys(SIDES, "")
    with Live(_table(answers, pair.scale), console=out, auto_refresh=False, vertical_overflow="visible") as live:

        def grow(side: str, piece: str) -> None:
            answers[side] += piece
            live.update(_table(answers, pair.scale), refresh=True)

        answers = pair.answer(line, grow)
        live.update(_table(answers, pair.scale), refresh=True)


def _table(answers: dict[str, str], scale: float) -> FoldedTable:
    from text2lora.inference import without_loop

    table = FoldedTable(box=box.SIMPLE, expand=True)
    table.add_column("base", ratio=1)
    table.add_column("adapter" if scale == 1 else f"adapter, scale {scale:g}", ratio=1)
    table.add_row(f"[dim]{escape(without_loop(answers['base']))}[/]", f"[bold green]{escape(answers['adapter'])}[/]")
    return table
