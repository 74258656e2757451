"""`t2l describe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from text2lora.cli.options import Device, Force, Server, parse_device
from text2lora.cli.terminal import err, quiet, result, say, suggest


def describe(
    task: Annotated[Path, typer.Argument(help="YAML file of the task, or JSON lines with `prompt` and `response`.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="YAML file to write (default: print it).")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of descriptions to write.")] = 20,
    held_out: Annotated[float, typer.Option(help="Share of the descriptions to keep out of training.")] = 0.2,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Chat model: a Hub id or a folder, or with --server, its name there.")
    ] = "",
    server: Server = None,
    device: Device = "auto",
    force: Force = False,
    seed: Annotated[int, typer.Option(help="Random seed for sampling and for choosing the held-out descriptions.")] = 0,
) -> None:
    """Write varied descriptions of a task from its examples.

    Example: t2l describe tasks/refunds.yaml -o tasks/refunds.yaml -n 40 --model Qwen/Qwen3-4B
    """
    quiet()
    import yaml

    from text2lora.base import load_base_with_tokenizer
    from text2lora.errors import OutputError, TaskError
    from text2lora.files import write_atomically
    from text2lora.training.describe import check_share, describe_task, local_chat, server_chat
    from text2lora.training.task_files import YAML, read_tasks, task_to_dict

    if not model and server is None:
        raise typer.BadParameter("name a chat model with --model, or a server with --server", param_hint="--model")
    found, *others = read_tasks(task, described=False)
    if others:
        raise TaskError(f"{task} contains {1 + len(others)} tasks: expected one")
    check_share(held_out)  # before anything is loaded
    if output and output.suffix not in YAML:
        raise OutputError(f"{output} would contain YAML: choose a name that ends in .yaml")
    if output and output.exists() and not force and not (output.is_file() and output.samefile(task)):
        raise OutputError(f"{output} exists: choose another name, or replace it with --force")
    if server is None:
        chat = local_chat(*load_base_with_tokenizer(model, device=parse_device(device)))
    else:
        chat = server_chat(server, model)
    with err.status("asking the model") as status:
        whole = describe_task(found, count, chat, held_out, seed, report=status.update)
    train = len(whole.descriptions) - len(found.descriptions)
    held = len(whole.held_out_descriptions) - len(found.held_out_descriptions)
    if train + held < count:
        err.print(f"[yellow]The model wrote only {train + held} different descriptions, not {count}[/]")
    text = yaml.safe_dump(task_to_dict(whole), sort_keys=False, allow_unicode=True, width=110)
    if output is None:
        print(text, end="")
        return
    write_atomically(output, text)
    say(f"[bold green]Wrote[/] {train} descriptions, and {held} held out, to {escape(str(output))}")
    result(output)
    suggest("t2l", "train", "RECIPE.yaml", "--set", f"tasks.0.path={output}")
