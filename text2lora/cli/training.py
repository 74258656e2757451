"""`t2l train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from text2lora.cli import options as opt
from text2lora.cli.terminal import err, quiet, result, say, suggest
from text2lora.hub import MARKERS, is_checkpoint


def train(
    recipes: Annotated[
        list[str],
        typer.Argument(
            help="Names of bundled recipes, or YAML files; they run in the given order.",
            autocompletion=opt.complete_recipe,
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the recipe, such as sft.fit.steps=100; may be repeated."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results, with one folder per recipe.")
    ] = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run; a finished one stays as it is.")
    ] = False,
    force: opt.Force = False,
) -> None:
    """Run a training recipe: for a hypernetwork (kind `sft` or `recon`), for LoRAs without one (kind `lora`), or for
    the mean of checkpoints (kind `average`).

    Example: t2l train examples/ten-tasks/recipe.yaml --set sft.fit.steps=200
    """
    quiet()
    from text2lora.recipes import run_recipe
    from text2lora.training.engine import is_main_process

    main = is_main_process()

    def report(line: str) -> None:
        """Print a line, in the first process only."""
        if main:
            err.print(line)

    for recipe in recipes:
        folder = run_recipe(recipe, output, settings or [], report, resume, force=force)
        if main:
            say(f"[bold green]Trained[/] {escape(str(folder))}")
            result(folder)
    if main:
        _suggest_for(folder)


def _suggest_for(folder: Path) -> None:
    if is_checkpoint(folder):
        suggest("t2l", "make", "what the adapter should do", "--model", str(folder))
    elif adapters := sorted(folder.glob(f"*/{MARKERS['adapter']}")):
        suggest("t2l", "run", str(adapters[0].parent), "your input")
