"""The command line, `t2l`: Typer over the public API. Heavy imports happen inside the commands."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer
from rich.markup import escape

from text2lora.cli import (
    adapters,
    chat,
    check,
    compare,
    convert,
    describe,
    doctor,
    evaluate,
    export,
    make,
    run,
    training,
    ui,
)
from text2lora.cli.terminal import App, err, use_any_encoding

app = App(
    name="t2l",
    help='Turn a sentence into a LoRA adapter.\n\nExample: t2l make "Which city is mentioned?"',
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("make")(make.make)
app.command("run")(run.run)
app.command("chat")(chat.chat)
app.command("info")(adapters.info)
app.command("list")(adapters.list_adapters)
app.command("check")(check.check)
app.command("compare")(compare.compare)
app.command("convert")(convert.convert)
app.add_typer(export.app, name="export")
app.command("train")(training.train)
app.command("describe")(describe.describe)
app.command("eval")(evaluate.evaluate)
app.command("doctor")(doctor.doctor)
app.command("ui")(ui.ui)


def _version(wanted: bool) -> None:
    if wanted:
        from text2lora.names import library_version

        print(f"text2lora {library_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def main() -> None:
    """Run `t2l`. A library error becomes one red line and exit code 1, a wrong call exit code 2."""
    from text2lora.errors import Text2LoraError, TrainingInterrupted
    from text2lora.hub import proxy_fault

    use_any_encoding()
    try:
        app()
    except Exception as error:
        fault = proxy_fault(error)
        if "--debug" in sys.argv:
            raise
        if _is_interrupt(error):
            sys.exit(130)
        if not (fault or isinstance(error, Text2LoraError | OSError)):
            raise
        told = fault or " ".join(str(error).split())
        if isinstance(error, OSError) and isinstance(error.filename, str) and not fault:
            hint = ": check its permissions" if isinstance(error, PermissionError) else ""
            told = f"{error.filename} cannot be used ({error.strerror}){hint}"
        line = re.sub(r" \(\w+=True\)", "", told)  # for Python, beside the option
        stopped = isinstance(error, TrainingInterrupted)  # which is no fault
        told = escape(line[0].upper() + line[1:]) if stopped else f"[bold red]Error:[/] {escape(line)}"
        err.print(told)
        sys.exit(130 if stopped else 1)


def _is_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an error; what is interrupted in the middle of an import may raise one of its own."""
    from text2lora.errors import causes

    return any(isinstance(each, KeyboardInterrupt) for each in causes(error, contexts=True))
