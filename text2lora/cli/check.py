"""`t2l check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from text2lora.bundled import DEFAULT, TASKS
from text2lora.cli import options as opt
from text2lora.cli.terminal import FoldedTable, err, inside, out, print_json, quiet, say, show, suggest
from text2lora.files import atomic_folder, check_output

if TYPE_CHECKING:
    from text2lora.evaluation.check import CheckTask, ConditioningReport

Tasks = Annotated[
    str | None,
    typer.Option(
        help="YAML or JSON lines file of tasks, or a folder of them (default: those that come with `smol` and `nano`)."
    ),
]
Examples = Annotated[int, typer.Option(min=1, help="Use at most this many examples of each task.")]


def check(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Checkpoint: `smol`, `nano`, a folder or a Hub id.", autocompletion=opt.complete_checkpoint
        ),
    ] = DEFAULT,
    tasks: Tasks = None,
    examples: Examples = 8,
    subfolder: opt.Subfolder = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for report.json and two pictures.")
    ] = None,
    batch_size: opt.BatchSize = 64,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Measure how much a checkpoint's adapters help, and whether that depends on the description.

    Example: t2l check smol -o smol-check
    """
    quiet()
    from text2lora.evaluation.charts import plot_conditions, plot_similarities, require_matplotlib
    from text2lora.evaluation.check import check_conditioning
    from text2lora.modeling import Text2LoraModel

    if output:
        require_matplotlib()
        check_output(output, ("report.json", "conditions.png", "similarity.png"))
    with err.status("loading") as status:
        model = Text2LoraModel.from_pretrained(checkpoint, subfolder=subfolder, device_map=opt.parse_device(device))
        chosen = load_check_tasks(tasks, model.config.base_model_name_or_path, examples)
        report = check_conditioning(
            model, model.load_base_model(), model.base_tokenizer, chosen, batch_size, report=status.update
        )
    if as_json:
        print_json(report.as_dict(), indent=2)
    else:
        _tell(report)
    if output:
        with atomic_folder(output) as folder:
            text = json.dumps(report.as_dict(), ensure_ascii=False, indent=2)
            (folder / "report.json").write_text(text + "\n", encoding="utf-8")
            plot_conditions(report, folder / "conditions.png")
            plot_similarities(report, folder / "similarity.png")
        say(f"Report and pictures are in {escape(str(output))}")
    if not as_json:
        suggest("t2l", "compare", "one wording", "another wording", "--model", checkpoint, *inside(subfolder))


def _tell(report: ConditioningReport) -> None:
    """Show the figures and the verdict."""
    show(condition_table(report))
    found = report.similarities
    if found.pearson == found.pearson:
        out.print(
            "Correlation between the similarity of descriptions and that of their adapters, over "
            f"{len(found.adapters):,} pairs of tasks: {found.pearson:.2f} (Pearson), {found.spearman:.2f} (Spearman)"
        )
    out.print(f"[bold green]Verdict:[/] {report.verdict}")


def condition_table(report: ConditioningReport) -> FoldedTable:
    """Loss and exact match under each condition, with their intervals."""
    from text2lora.evaluation.check import CONDITIONS

    table = FoldedTable("adapter made from", "loss", "exact match", "tasks", "samples")
    for condition in report.conditions.values():
        loss, match = condition.loss, condition.exact_match
        table.add_row(
            f"[bold]{condition.name}[/]: {CONDITIONS[condition.name]}",
            f"{loss.mean:.3f}\n[dim]{loss.low:.3f} to {loss.high:.3f}[/]",
            f"{match.mean:.3f}\n[dim]{match.low:.3f} to {match.high:.3f}[/]",
            str(match.tasks),
            f"{match.samples:,}",
        )
    return table


def load_check_tasks(tasks: str | None, base: str | None, examples: int, described: bool = True) -> list[CheckTask]:
    """Tasks of a file or a folder, or those that come with the bundled base."""
    from text2lora.evaluation.check import prepare_tasks
    from text2lora.training.task_files import read_tasks

    if tasks is None and base not in TASKS:
        raise typer.BadParameter(
            f"needed, because only the base models {' and '.join(TASKS)} come with tasks: give a file or folder",
            param_hint="--tasks",
        )
    path = Path(tasks) if tasks is not None else TASKS[base or ""]
    return prepare_tasks(read_tasks(path, described), examples)
