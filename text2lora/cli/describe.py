"""`t2l describe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from text2lora.cli.common import err, quiet, result, say, suggest


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
    server: Annotated[
        str | None, typer.Option(help="Address of a server with OpenAI's API; the key is read from OPENAI_API_KEY.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for sampling and for choosing the held-out descriptions.")] = 0,
) -> None:
    """Write varied descriptions of a task from its examples.

    Example: t2l describe tasks/refunds.yaml -o tasks/refunds.yaml -n 40 --model Qwen/Qwen3-4B
    """
    quiet()
    import dataclasses

    import yaml

    from text2lora.errors import TrainingError
    from text2lora.files import write_atomically
    from text2lora.training.describe import Chat, hold_out, local_chat, write_descriptions
    from text2lora.training.runs import BaseSpec, load_base
    from text2lora.training.task_files import read_tasks, task_to_dict

    if not model and server is None:
        raise typer.BadParameter("name a chat model with --model, or a server with --server", param_hint="--model")
    tasks = read_tasks(task, described=False)
    if len(tasks) > 1:
        raise TrainingError(f"{task} contains {len(tasks)} tasks: expected one")
    (found,) = tasks
    hold_out([], held_out)  # a bad share is refused before anything is loaded
    chat: Chat
    if server is not None:
        from text2lora.server import ChatServer

        client = ChatServer(server)
        name = model or (client.models() or ["default"])[0]

        def chat(request: str, seed: int) -> str:
            messages = [{"role": "user", "content": request}]
            return client.chat(name, messages, temperature=0.9, max_tokens=512, seed=seed)

    else:
        chat = local_chat(*load_base(BaseSpec(model)))
    known = [*found.descriptions, *found.held_out_descriptions]
    examples = [example.without_definition() for example in found.examples]
    with err.status("asking the model") as status:
        written = write_descriptions(examples, count, chat, known, seed, report=status.update)
    if len(written) < count:
        err.print(f"[yellow]The model wrote only {len(written)} different descriptions, not {count}[/]")
    train, held = hold_out(written, held_out, seed)
    whole = dataclasses.replace(
        found,
        descriptions=[*found.descriptions, *train],
        held_out_descriptions=[*found.held_out_descriptions, *held],
    )
    text = yaml.safe_dump(task_to_dict(whole), sort_keys=False, allow_unicode=True, width=110)
    if output is None:
        print(text, end="")
        return
    write_atomically(output, text)
    say(f"[bold green]Wrote[/] {len(train)} descriptions, and {len(held)} held out, to {escape(str(output))}")
    result(output)
    suggest("t2l", "train", "RECIPE.yaml", "--set", f"tasks.0.path={output}")
