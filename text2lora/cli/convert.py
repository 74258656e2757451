"""`t2l convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from text2lora.cli.common import (
    HUB,
    Force,
    Subfolder,
    Token,
    complete_dtype,
    err,
    parse_dtype,
    quiet,
    result,
    say,
    suggest,
)


def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint of the reference or of text2lora: a folder or a Hub id.")],
    output: Annotated[Path, typer.Argument(help="The new folder.")],
    subfolder: Subfolder = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16; by default as it is.", autocompletion=complete_dtype),
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(help="The training tasks, a file or folder: their descriptions let `t2l make` warn of far ones."),
    ] = None,
    force: Force = False,
    push: Annotated[bool, typer.Option("--push", help="Put the result on the Hub, too.", rich_help_panel=HUB)] = False,
    repo_id: Annotated[
        str | None, typer.Option(help="USER/NAME or NAME; by default the folder's name.", rich_help_panel=HUB)
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.", rich_help_panel=HUB)
    ] = False,
    token: Token = None,
) -> None:
    """Write a checkpoint in the layout of text2lora: config.json and model.safetensors.

    Example: t2l convert SakanaAI/text-to-lora gemma-t2l --subfolder trained_t2l/gemma_2b_t2l
    """
    from text2lora.errors import OutputError, TrainingError
    from text2lora.files import atomic_folder, check_output
    from text2lora.hub import CHECKPOINT_FILES, push_target

    if not push and (repo_id or private):
        raise typer.BadParameter("missing beside an option for the Hub", param_hint="--push")
    if not force and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} exists: choose another folder, or replace a checkpoint with --force")
    check_output(output, CHECKPOINT_FILES, "a checkpoint")
    torch_dtype = parse_dtype(dtype)
    quiet()
    if push:  # before the work is done
        with err.status("asking the Hub"):
            repo_id = push_target(repo_id or output.resolve().name, "checkpoint", token=token, force=force).repo_id
    from text2lora.modeling import Text2LoraModel
    from text2lora.standing import measure_descriptions
    from text2lora.training.task_files import read_wordings

    names, texts = read_wordings(tasks) if tasks else ([], [])
    with err.status("loading the checkpoint") as status:
        options = {"dtype": torch_dtype, "token": token} if torch_dtype else {"token": token}
        model = Text2LoraModel.from_pretrained(source, subfolder=subfolder or "", revision=revision, **options)
        if tasks:
            status.update("reading the descriptions")
            if (statistics := measure_descriptions(model.encoder, texts, names)) is None:
                raise TrainingError(f"{tasks} holds descriptions of fewer than two tasks: expected those of training")
            model.description_statistics = statistics
        status.update("saving")
        with atomic_folder(output) as folder:
            model.save_pretrained(folder)
        commit = None
        if push and repo_id:
            status.update("sending")
            commit = model.push_to_hub(repo_id, private=private or None, token=token, force=force)
    say(f"[bold green]Converted[/] {escape(str(output))}  ({model.num_parameters():,} parameters)")
    if commit:
        say(f"[bold green]On the Hub[/] {escape(str(commit.repo_url))}")
    result(commit.repo_url if commit else output)
    suggest("t2l", "make", "what the adapter should do", "--model", str(output))
