"""`t2l convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.status import Status

from text2lora.cli import options as opt
from text2lora.cli.terminal import err, quiet, result, say, suggest

if TYPE_CHECKING:
    from text2lora.modeling import Text2LoraModel


def convert(
    source: Annotated[
        str, typer.Argument(help="Checkpoint of the reference implementation or of text2lora: a folder or a Hub id.")
    ],
    output: Annotated[Path, typer.Argument(help="Folder to write.")],
    subfolder: opt.Subfolder = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub repository.")] = None,
    dtype: opt.Dtype = None,
    tasks: Annotated[
        Path | None,
        typer.Option(
            help="File or folder of the training tasks, so that `t2l make` can warn about unusual descriptions."
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id of another copy of the text encoder, to name in the new checkpoint."),
    ] = None,
    force: opt.Force = False,
    push: opt.Push = False,
    repo_id: opt.RepoId = None,
    private: opt.Private = False,
    token: opt.Token = None,
) -> None:
    """Convert a checkpoint to the format of text2lora: config.json and model.safetensors.

    Example: t2l convert SakanaAI/text-to-lora gemma-t2l --subfolder trained_t2l/gemma_2b_t2l
    """
    from text2lora.files import atomic_folder, check_output
    from text2lora.hub import CHECKPOINT_FILES
    from text2lora.names import is_local

    if push and encoder and is_local(encoder):
        raise typer.BadParameter("is a folder here, which nobody finds on the Hub", param_hint="--encoder")
    pushing = opt.Pushing.of(push, repo_id, private, False, token, force)
    check_output(output, CHECKPOINT_FILES, "a checkpoint", force)
    quiet()
    target = pushing.check(output.resolve().name, "checkpoint") if pushing else None
    options = {"subfolder": subfolder, "revision": revision, "token": token, "encoder": encoder}
    with err.status("loading the checkpoint") as status:
        model = _converted(source, options | ({"dtype": dtype} if dtype else {}), tasks, status)
        status.update("saving")
        with atomic_folder(output, replace=force) as folder:
            model.save_pretrained(folder)
        url = None
        if target and pushing:
            status.update("sending")
            url = pushing.send(model, target).repo_url
    say(f"[bold green]Converted[/] {escape(str(output))}  ({model.num_parameters():,} parameters)")
    if url:
        say(f"[bold green]On the Hub[/] {escape(str(url))}")
    result(url or output)
    suggest("t2l", "make", "what the adapter should do", "--model", str(output))


def _converted(source: str, options: dict[str, Any], tasks: Path | None, status: Status) -> Text2LoraModel:
    """Load a checkpoint, with the name of the encoder that is given and the statistics of the tasks."""
    from text2lora.errors import TaskError
    from text2lora.modeling import Text2LoraModel
    from text2lora.names import absolute_name
    from text2lora.novelty import measure_descriptions
    from text2lora.training.task_files import read_wordings

    names, texts = read_wordings(tasks) if tasks else ([], [])
    model = Text2LoraModel.from_pretrained(source, **options)
    if options["encoder"]:
        status.update("loading the text encoder")
        model.config.encoder_name_or_path = absolute_name(model.encoder.name)
        model.config.encoder_revision = None
    if tasks:
        status.update("reading the descriptions")
        if (statistics := measure_descriptions(model.encoder, texts, names)) is None:
            raise TaskError(f"{tasks} has descriptions of fewer than two tasks: expected the training tasks")
        model.description_statistics = statistics
    return model
