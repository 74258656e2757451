"""`t2l train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from text2lora.cli.common import App, complete_checkpoint, complete_recipe, err, quiet, result, say, suggest
from text2lora.hub import MARKERS, is_checkpoint

app = App(help="Train a hypernetwork or its baselines.\n\nExample: t2l train sft qwen3-0.6b")

Recipes = Annotated[
    list[str],
    typer.Argument(help="Names of bundled recipes, or YAML files; run in this order.", autocompletion=complete_recipe),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: KEY=VALUE, as sft.fit.steps=100.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Gets one folder per recipe.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from where a run was broken off.")]


@app.callback()
def _train() -> None:
    pass


def _run(recipes: list[str], settings: list[str] | None, output: Path, resume: bool, kind: str) -> None:
    quiet()
    from text2lora.recipes import KINDS, run_recipe
    from text2lora.training.engine import is_main_process

    main = is_main_process()

    def report(line: str) -> None:
        if main:
            err.print(line, highlight=False)

    for recipe in recipes:
        folder = run_recipe(recipe, output, settings or [], report, resume, {kind: KINDS[kind]})
        if main:
            say(f"[bold green]Trained[/] {escape(str(folder))}")
            result(folder)
    if main and recipes:
        _suggest_for(folder)


def _suggest_for(folder: Path) -> None:
    if is_checkpoint(folder):
        suggest("t2l", "make", "what the adapter should do", "--model", str(folder))
    elif adapters := sorted(folder.glob(f"*/{MARKERS['adapter']}")):
        suggest("t2l", "run", str(adapters[0].parent), "your input")


@app.command()
def sft(recipes: Recipes, settings: Set = None, output: Output = Path("runs"), resume: Resume = False) -> None:
    """Train a hypernetwork by supervised fine-tuning.

    Example: t2l train sft examples/ten-tasks/recipe.yaml --set sft.fit.steps=200
    """
    _run(recipes, settings, output, resume, "sft")


@app.command()
def recon(recipes: Recipes, settings: Set = None, output: Output = Path("runs"), resume: Resume = False) -> None:
    """Train a hypernetwork to write the adapters of a library.

    Example: t2l train recon my-library.yaml
    """
    _run(recipes, settings, output, resume, "recon")


@app.command()
def lora(recipes: Recipes, settings: Set = None, output: Output = Path("runs"), resume: Resume = False) -> None:
    """Train LoRAs without a hypernetwork: one per task, or one for all tasks.

    Example: t2l train lora examples/ten-tasks/oracles.yaml
    """
    _run(recipes, settings, output, resume, "lora")


@app.command()
def standing(
    checkpoint: Annotated[str, typer.Argument(help="A folder.", autocompletion=complete_checkpoint)],
    tasks: Annotated[Path, typer.Option(help="The training tasks: a file or folder of them.")],
) -> None:
    """Write statistics of the training descriptions into a checkpoint, as SFT does: `t2l make` reads them.

    Example: t2l train standing runs/my-checkpoint --tasks tasks.jsonl
    """
    quiet()
    from text2lora.errors import TrainingError
    from text2lora.modeling import Text2LoraModel
    from text2lora.standing import measure_descriptions
    from text2lora.training.task_files import read_wordings

    folder = Path(checkpoint)
    if not folder.is_dir():
        raise typer.BadParameter(f"{checkpoint!r} is not a folder", param_hint="CHECKPOINT")
    names, texts = read_wordings(tasks)
    with err.status("reading the descriptions"):
        statistics = measure_descriptions(Text2LoraModel.from_pretrained(folder).encoder, texts, names)
    if statistics is None:
        raise TrainingError(f"{tasks} holds descriptions of fewer than two tasks: expected those of training")
    path = statistics.save(folder)
    say(f"[bold green]Written[/] {escape(str(path))}, of {len(statistics.names):,} tasks")
    result(path)
    suggest("t2l", "make", "what the adapter should do", "--model", checkpoint)
