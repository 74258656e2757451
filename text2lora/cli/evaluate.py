"""`t2l eval`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape

from text2lora.cli import options as opt
from text2lora.cli.terminal import FoldedTable, err, inside, out, print_json, quiet, say, show, suggest
from text2lora.errors import HubError
from text2lora.files import check_output
from text2lora.names import is_local
from text2lora.push import push_target

if TYPE_CHECKING:
    from text2lora.evaluation.evaluate import Places
    from text2lora.evaluation.report import EvalReport

WIDE = 80
"""Columns from which on a figure and its interval stand in one line."""


def complete_tasks(incomplete: str) -> list[str]:
    """For the shell: the last one of the names between commas."""
    from text2lora.evaluation.tasks import BENCHMARKS

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in BENCHMARKS if name.startswith(last)]


Tasks = Annotated[
    str,
    typer.Option(
        "--tasks",
        "-t",
        help="Benchmarks, files or folders of tasks, or lm_eval:NAME; separated by commas.",
        autocompletion=complete_tasks,
    ),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        "-a",
        help="Folder or Hub id of a LoRA adapter; may be repeated.",
        autocompletion=opt.complete_adapter,
    ),
]
Subfolders = Annotated[
    list[str] | None,
    typer.Option(help="Folder inside the adapter's folder or repository; once for all adapters, or once for each."),
]
Description = Annotated[
    str | None, typer.Option("--description", "-d", help="Also test the base model with this text in the prompt.")
]
Shots = Annotated[
    int,
    typer.Option(min=0, help="Also test the base model with this many demonstrations in the prompt; 0 for none."),
]
Data = Annotated[
    Path | None, typer.Option(help="File or folder with the benchmarks' questions, or with tasks for lm_eval:NAME.")
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code-execution",
        help="Run the code that the model writes for HumanEval and MBPP, in a confined process.",
    ),
]
PushResults = Annotated[
    bool,
    typer.Option(
        "--push", help="Add the results to the model cards of the adapters on the Hub.", rich_help_panel=opt.HUB
    ),
]


def evaluate(
    model: Annotated[str, typer.Option("--model", "-m", help="Base model: `smol`, `nano`, a folder or a Hub id.")],
    tasks: Tasks,
    adapter: Adapters = None,
    subfolder: Subfolders = None,
    description: Description = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N questions of each task.")] = None,
    shots: Shots = 3,
    data: Data = None,
    server: opt.Server = None,
    allow_code_execution: AllowCode = False,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens (default: the task's own).")
    ] = None,
    batch_size: opt.BatchSize = 16,
    dtype: opt.Dtype = None,
    device: opt.Device = "auto",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for results.json and table.md.")] = None,
    push: PushResults = False,
    create_pr: opt.CreatePr = False,
    token: opt.Token = None,
    as_json: opt.AsJson = False,
) -> None:
    """Measure adapters against their base model, on benchmarks or on your own tasks.

    Example: t2l eval --model smol --adapter city --tasks cities.jsonl
    """
    opt.check_texts([description or ""], "--description")
    names, places = _names(tasks), _places(adapter or [], subfolder or [], server)
    if push:
        _check_push(places, limit, token, create_pr)
    os.environ.setdefault("TQDM_DISABLE", "1")  # the bars of lm-evaluation-harness and datasets
    quiet()
    from text2lora.evaluation.evaluate import evaluate as evaluate_adapters
    from text2lora.evaluation.report import REPORT_NAMES, push_report, write_report

    if output:
        check_output(output, REPORT_NAMES)
    with err.status("starting") as status:
        report = evaluate_adapters(
            model,
            names,
            places,
            description=description,
            shots=shots,
            limit=limit,
            data=data,
            server=server,
            allow_code_execution=allow_code_execution,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            device="cpu" if server else opt.parse_device(device),
            dtype=opt.parse_dtype(dtype),
            token=token,
            report=status.update,
        )
    urls: dict[str, str] = {}
    try:
        if output:
            write_report(report, output)
        for name in places if push else ():
            commit = push_report(report, name, token, create_pr)
            urls[name] = str(commit.pr_url or commit.repo_url)
    finally:  # figures that took hours are shown even if the disk is full or the Hub fails
        _tell(report, urls, as_json)
    if as_json:
        return
    if output:
        say(f"[bold green]Written[/] {escape(str(output))}")
    for source, folder in list(places.values())[:1] if not server else ():
        suggest("t2l", "chat", source, *inside(folder))


def _names(tasks: str) -> list[str]:
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter("expected at least one task", param_hint="--tasks")
    return names


def _places(adapters: list[str], subfolders: list[str], server: str | None) -> Places:
    """By the name for reports, where each adapter is: a folder or repository, and what is inside it."""
    if server and subfolders:
        raise typer.BadParameter("not possible with --subfolder", param_hint="--server")
    if len(subfolders) not in (0, 1, len(adapters)):
        raise typer.BadParameter(
            f"given {len(subfolders)} times for {len(adapters)} adapters: expected once, or once for each",
            param_hint="--subfolder",
        )
    each = subfolders if len(subfolders) == len(adapters) else (subfolders or [""]) * len(adapters)
    return {f"{a.rstrip('/')}/{s}" if s else a: (a, s or None) for a, s in zip(adapters, each, strict=True)}


def _check_push(places: Places, limit: int | None, token: str | None, create_pr: bool) -> None:
    """Refuse what cannot be pushed before any work is done."""
    if not places:
        raise typer.BadParameter("needed with --push", param_hint="--adapter")
    if any(subfolder for _, subfolder in places.values()):
        raise typer.BadParameter("not possible with --subfolder", param_hint="--push")
    if limit:
        raise typer.BadParameter(
            "not possible with --push: results on a part of a benchmark do not belong in a model card",
            param_hint="--limit",
        )
    for name in places:
        if is_local(name):
            raise typer.BadParameter(
                f"{name!r} is a folder: pass the id of the adapter on the Hub", param_hint="--push"
            )
        if push_target(name, "adapter", token=token, create_pr=create_pr, force=True).head is None:
            raise HubError(f"{name} is not on the Hub: pass the id of an adapter that is there")


def _tell(report: EvalReport, urls: Mapping[str, str], as_json: bool) -> None:
    """Show the figures, and where they were pushed to."""
    if as_json:
        print_json({"figures": report.summary(), "pushed": dict(urls)}, indent=2)
        return
    show(_table(report))
    for url in urls.values():
        say(f"[bold green]Pushed[/] {url}")


def _table(report: EvalReport) -> FoldedTable:
    from text2lora.evaluation.report import cells_of

    if not out.is_terminal:
        interval = "95 % interval"
        table = FoldedTable("task", "model", "n", "accuracy", interval, "against the base model", interval)
        for figure in report.figures:
            table.add_row(
                escape(figure.task), escape(figure.condition), str(figure.accuracy.samples), *cells_of(figure)
            )
        return table
    table = FoldedTable("", "n", "accuracy, 95 % interval", "against the base model", box=box.SIMPLE)
    for task in dict.fromkeys(figure.task for figure in report.figures):
        table.add_row(f"[bold]{escape(task)}[/]", "", "", "")
        for figure in (figure for figure in report.figures if figure.task == task):
            accuracy, around, difference, beside = cells_of(figure)
            gap = "  " if out.width >= WIDE else "\n"
            cells = [f"{figure.accuracy.samples:,}", f"{accuracy}{gap}({around})", f"{difference}{gap}({beside})"]
            table.add_row(escape(f"  {figure.condition}"), *(cells if difference else cells[:2]))
    return table
