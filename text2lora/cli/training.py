"""`t2l train` and `t2l eval`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from text2lora.cli.common import err, out, quiet

app = typer.Typer(help="Train a hypernetwork, its base or its baselines.", no_args_is_help=True)

Recipes = Annotated[list[str], typer.Argument(help="Names of bundled recipes, or YAML files; run in this order.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: KEY=VALUE, as sft.fit.steps=100.")]
OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Gets one folder per recipe.")]


Resume = Annotated[bool, typer.Option("--resume", help="Go on from where a run was broken off.")]


@app.callback()
def _train() -> None:
    pass


def _run(recipes: list[str], settings: list[str] | None, output_dir: Path, resume: bool, *kinds: str) -> None:
    quiet()
    from text2lora.recipes import run_recipe

    main = os.environ.get("RANK", "0") == "0"  # of the processes that a launcher started

    def report(line: str) -> None:
        if main:
            err.print(line, highlight=False)

    for recipe in recipes:
        folder = run_recipe(recipe, output_dir, settings or [], report, resume, kinds)
        if main:
            out.print(f"[bold green]Trained[/] {folder}")


@app.command()
def sft(
    recipes: Recipes,
    settings: Set = None,
    output_dir: OutputDir = Path("runs"),
    resume: Resume = False,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Put the result into the package, as the bundled nano.")
    ] = False,
) -> None:
    """Train a hypernetwork by supervised fine-tuning.

    Example: t2l train sft examples/ten-tasks/recipe.yaml --set sft.fit.steps=200
    """
    _run(recipes, settings, output_dir, resume, "sft", "base", "hypernetwork", "baselines")
    if bundle:
        from text2lora.nano import train

        train.bundle(output_dir)
        out.print("[bold green]Bundled[/] into the package")


@app.command()
def lora(recipes: Recipes, settings: Set = None, output_dir: OutputDir = Path("runs"), resume: Resume = False) -> None:
    """Train LoRAs without a hypernetwork: one per task, or one for all tasks.

    Example: t2l train lora examples/ten-tasks/oracles.yaml
    """
    _run(recipes, settings, output_dir, resume, "lora")


@app.command()
def standing(
    checkpoint: Annotated[str, typer.Argument(help="A folder; `nano` for the one in the package.")],
    tasks: Annotated[
        Path | None, typer.Option(help="The training tasks: a file or folder of them; of `nano` its own.")
    ] = None,
) -> None:
    """Write statistics of the training descriptions into a checkpoint, as SFT does: `t2l make` reads them.

    Example: t2l train standing runs/my-checkpoint --tasks tasks.jsonl
    """
    quiet()
    from text2lora.errors import TrainingError
    from text2lora.hub import CHECKPOINTS
    from text2lora.modeling import Text2LoraModel
    from text2lora.standing import measure_descriptions

    folder = Path(CHECKPOINTS.get(checkpoint, checkpoint))
    if not folder.is_dir():
        raise typer.BadParameter(f"{checkpoint!r} is not a folder", param_hint="CHECKPOINT")
    if tasks:
        from text2lora.training.tasks import read_wordings

        names, texts = read_wordings(tasks)
    elif checkpoint in CHECKPOINTS:
        from text2lora.nano.train import training_descriptions

        names, texts = training_descriptions()
    else:
        raise typer.BadParameter("needed for a checkpoint other than nano", param_hint="--tasks")
    with err.status("reading the descriptions"):
        statistics = measure_descriptions(Text2LoraModel.from_pretrained(folder).encoder, texts, names)
    if statistics is None:
        raise TrainingError(f"{tasks} holds descriptions of fewer than two tasks: expected those of training")
    path = statistics.save(folder)
    out.print(f"[bold green]Written[/] {path}, of {len(statistics.names):,} tasks", highlight=False)


def evaluate(
    what: Annotated[str, typer.Argument(help="What to evaluate: `nano`.")] = "nano",
    split: Annotated[str, typer.Option(help="`dev` or `test`.")] = "test",
    records: Annotated[int, typer.Option(min=1, help="Unseen records per description.")] = 32,
    checkpoint: Annotated[str, typer.Option(help="Another checkpoint for the same base.")] = "nano",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for table, picture, results and per-task CSV.")
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
    from text2lora.evaluation.charts import require_matplotlib
    from text2lora.modeling import Text2LoraModel
    from text2lora.nano.evaluate import as_markdown, evaluate_nano, write_results

    if output:
        require_matplotlib()
    with err.status("loading") as status:
        model = Text2LoraModel.from_pretrained(checkpoint)
        rows = evaluate_nano(split, records, model, status.update)
    if output:
        write_results(rows, output)
    if as_json:
        print(json.dumps({row.name: row.estimate._asdict() for row in rows}, indent=2))
    else:
        print(as_markdown(rows))
