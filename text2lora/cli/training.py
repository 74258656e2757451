"""`t2l train` and `t2l eval`."""

from __future__ import annotations

import json
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


def evaluate(
    what: Annotated[str, typer.Argument(help="What to evaluate: `nano`.")] = "nano",
    split: Annotated[str, typer.Option(help="`dev` or `test`.")] = "test",
    records: Annotated[int, typer.Option(min=1, help="Unseen records per description.")] = 32,
    checkpoint: Annotated[str, typer.Option(help="Another checkpoint for the same base.")] = "nano",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for table, results and per-task CSV.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Measure the bundled model and print its table.

    Example: t2l eval nano
    """
    if what != "nano":
        raise typer.BadParameter(f"{what!r} is not known: expected 'nano'", param_hint="WHAT")
    if split not in ("dev", "test"):
        raise typer.BadParameter(f"{split!r} is not 'dev' or 'test'", param_hint="--split")
    quiet()
    from text2lora.modeling import Text2LoraModel
    from text2lora.nano.evaluate import as_markdown, evaluate_nano, write_results

    with err.status("loading") as status:
        model = Text2LoraModel.from_pretrained(checkpoint)
        rows = evaluate_nano(split, records, model, status.update)
    if output:
        write_results(rows, output)
    if as_json:
        print(json.dumps({row.name: row.estimate._asdict() for row in rows}, indent=2))
    else:
        print(as_markdown(rows))
