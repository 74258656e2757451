"""Writes the reference of `t2l` into docs/cli.md, between its two marks, from the command line itself."""

import re
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from text2lora.cli import app

PAGE = Path(__file__).parent / "cli.md"


def reference() -> str:
    """Every command with its arguments and options, as Markdown."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="t2l", title="Reference", indent=1)
    text = re.sub(
        r"\*\*Commands\*\*:\n\n.*?\n\n", "", text, flags=re.S
    )  # cut off in the middle; the headings list them
    return re.sub(r"^Example: (.+)$", r"Example: `\1`", text, flags=re.M)


def with_reference(page: str) -> str:
    """The page with the reference of today."""
    return re.sub(
        r"(<!-- commands -->\n).*?(<!-- /commands -->)", lambda m: f"{m[1]}\n{reference()}{m[2]}", page, flags=re.S
    )


if __name__ == "__main__":
    PAGE.write_text(with_reference(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
