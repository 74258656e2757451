"""`t2l train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from text2lora.cli.common import err, out, quiet

app = typer.Typer(help="Train a hypernetwork, its base or its baselines.", no_args_is_help=True)

Recipes = Annotated[list[str], typer.Argument(help="Names of bundled recipes, or YAML files; run in this order.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: KEY=VALUE, as sft.fit.steps=100.")]
OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Gets one folder per recipe.")]


@app.callback()
def _train() -> None:
    pass


@app.command()
def sft(
    recipes: Recipes,
    settings: Set = None,
    output_dir: OutputDir = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from where a run was broken off.")] = False,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Put the result into the package, as the bundled nano.")
    ] = False,
) -> None:
    """Train by supervised fine-tuning.

    Example: t2l train sft nano-base-1 nano-1 nano-base-2 nano-base-3 nano-base nano-2 nano nano-baselines
    """
    quiet()
    from text2lora.nano import train

    for recipe in recipes:
        folder = train.run_recipe(
            recipe, output_dir, settings or [], lambda line: err.print(line, highlight=False), resume
        )
        out.print(f"[bold green]Trained[/] {folder}")
    if bundle:
        train.bundle(output_dir)
        out.print("[bold green]Bundled[/] into the package")
