"""`t2l make`."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from text2lora.bundled import DEFAULT
from text2lora.cards import load_snippet
from text2lora.cli.common import (
    HUB,
    AsJson,
    Device,
    Force,
    Model,
    Subfolder,
    Token,
    complete_dtype,
    err,
    out,
    parse_device,
    parse_dtype,
    print_json,
    quiet,
    result,
    sample_input,
    say,
    size,
    suggest,
)
from text2lora.errors import CheckpointError, InvalidDescriptionError, OutputError
from text2lora.files import check_output
from text2lora.hub import check_description_of, push_target
from text2lora.names import slug

if TYPE_CHECKING:
    from text2lora.modeling import Text2LoraModel
    from text2lora.standing import Standing

NO_STATISTICS = "this checkpoint holds no statistics of its training descriptions"


def make(
    descriptions: Annotated[
        list[str] | None, typer.Argument(help="What the adapter should do, in plain words; several make several.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Descriptions: a .txt with one a line, or a .jsonl of objects.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Make one part of the file's adapters, as 2/8: the second of eight machines.")
    ] = None,
    mix: Annotated[
        str | None, typer.Option(help="Make one adapter between the descriptions, in these shares: 70,30.")
    ] = None,
    model: Model = DEFAULT,
    subfolder: Subfolder = None,
    encoder: Annotated[
        str | None, typer.Option(help="Folder or Hub id of the text encoder, in place of the one the checkpoint names.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; by default named after the text, or `adapters`.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Strength of the adapter; 1.0 is as trained.")] = 1.0,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16; by default the checkpoint's.", autocompletion=complete_dtype),
    ] = None,
    fold_rslora: Annotated[
        bool, typer.Option("--fold-rslora", help="Fold rsLoRA into alpha, for engines that ignore it.")
    ] = False,
    device: Device = "auto",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a description that is far from all of training.")
    ] = False,
    force: Force = False,
    push: Annotated[bool, typer.Option("--push", help="Put the adapter on the Hub.", rich_help_panel=HUB)] = False,
    repo_id: Annotated[
        str | None, typer.Option(help="USER/NAME or NAME; by default named after the text.", rich_help_panel=HUB)
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.", rich_help_panel=HUB)
    ] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.", rich_help_panel=HUB)] = False,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Make a LoRA adapter from a sentence, or many from many.

    Example: t2l make "Return the city in capitals." -o city-upper
    """
    if not push and (repo_id or private or create_pr):
        raise typer.BadParameter("missing beside an option for the Hub", param_hint="--push")
    if bool(descriptions) == bool(file):
        raise typer.BadParameter("give descriptions or --file, one of the two", param_hint="DESCRIPTION")
    if shard and not file:
        raise typer.BadParameter("works on the descriptions of a --file", param_hint="--shard")
    part = _parse_shard(shard) if shard else None
    many = bool(file) or (len(descriptions or []) > 1 and mix is None)
    if many and (push or mix):
        raise typer.BadParameter("works on one adapter at a time", param_hint="--push" if push else "--mix")
    torch_dtype = parse_dtype(dtype)

    def load() -> Text2LoraModel:
        from text2lora.modeling import Text2LoraModel

        return Text2LoraModel.from_pretrained(
            model, subfolder=subfolder or "", device_map=parse_device(device), token=token, encoder=encoder
        )

    if many:
        from text2lora.batch import AdapterSettings, choose_shard, read_descriptions

        quiet()
        texts = read_descriptions(file) if file else list(descriptions or [])
        texts = choose_shard(texts, *part) if part else texts
        settings = AdapterSettings(scale, torch_dtype, fold_rslora)
        _make_many(load, texts, output or Path("adapters"), settings, as_json, strict, force)
        return

    from text2lora.arithmetic import describe
    from text2lora.encoder import check_description

    texts = [check_description(text) for text in descriptions or []]
    shares = _parse_shares(mix, len(texts)) if mix is not None else [1.0]
    name = slug(" ".join(texts))
    target = output if push else output or Path(name)
    if target and target.exists() and not force and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target} exists: choose another folder with --output, or replace an adapter with --force")
    if target:  # before the work, so that a mount point or a folder without the right to write costs no time
        check_output(target, ["*"])
    quiet()
    if push:  # before the work is done
        with err.status("asking the Hub"):
            checked = push_target(repo_id or name, "adapter", token=token, create_pr=create_pr, force=force)
            if not repo_id and not force:
                total = sum(shares) or 1.0
                text = texts[0] if mix is None else describe(texts, [share / total for share in shares])
                check_description_of(checked, text, token)
            repo_id = checked.repo_id
    with err.status("loading the model") as status:
        t2l = load()
        reader = t2l.encoder
        status.update("reading the description")
        begin = time.perf_counter()
        task_emb = reader.encode(texts)
        encoded = time.perf_counter()
        standings = t2l.standing(texts, task_emb)
        if strict:
            refuse_far(standings)
        placed = time.perf_counter()
        if len(texts) > 1:
            adapter = t2l.interpolate(texts, shares, scale=scale)
        else:
            adapter = t2l.generate_lora(texts, task_emb=task_emb, scale=scale)[0]
        made = time.perf_counter()
        adapter = adapter.folded() if fold_rslora else adapter
        adapter = adapter.to(dtype=torch_dtype)
        status.update("saving")
        folder = adapter.save_pretrained(target) if target else None
        commit = None
        if push and repo_id:
            status.update("sending")
            commit = adapter.push_to_hub(
                repo_id,
                private=private or None,
                token=token,
                create_pr=create_pr,
                force=force,
            )
    base = t2l.config.base_model_name_or_path
    if as_json:
        report: dict[str, Any] = {
            "description": adapter.metadata["description"],
            "path": str(folder) if folder else None,
            "bytes": adapter.num_bytes,
            "encoder_seconds": encoded - begin,
            "hypernetwork_seconds": made - placed,
            "base_model": base,
            "model": model,
            "scale": scale,
            "standing": [standing.as_dict() for standing in standings] if standings is not None else None,
        }
        if commit:
            report |= {"url": str(commit.pr_url or commit.repo_url), "repo_id": repo_id, "commit": commit.oid}
        print_json(report)
        return
    milliseconds = (
        f"{(encoded - begin) * 1000:.0f} ms to read the description, {(made - placed) * 1000:.0f} ms to write"
    )
    shown = str(folder or repo_id)
    say(f"[bold green]Adapter[/] {escape(shown)}  ({size(adapter.num_bytes)}; {milliseconds})")
    show_standings(standings)
    if commit:
        say(f"[bold green]On the Hub[/] {escape(str(commit.pr_url or commit.repo_url))}")
    result(commit.pr_url or commit.repo_url if commit else folder)
    if not out.is_terminal or (create_pr and not folder):  # nothing to load before it is merged
        return
    out.print("\nLoad it:\n")
    out.print(indent(load_snippet(base, shown), "  "), markup=False, highlight=False, soft_wrap=True)
    suggest("t2l", "run", shown, sample_input(base))


def refuse_far(standings: Sequence[Standing] | None) -> None:
    """Stop at a description that is far from all of training.

    Raises:
        InvalidDescriptionError: there is one.
        CheckpointError: that cannot be told.
    """
    if standings is None:
        raise CheckpointError(f"{NO_STATISTICS}: leave out --strict")
    for standing in standings:
        if standing.warning:
            raise InvalidDescriptionError(standing.warning)


def show_standings(standings: Sequence[Standing] | None) -> None:
    """A line for each description, and a warning for one that is far from all of training."""
    if standings is None:
        say(f"[dim]Standing[/] unknown: {NO_STATISTICS}")
        return
    for standing in standings:
        say(f"[dim]Standing[/] {escape(str(standing))}")
        if standing.warning:
            err.print(f"[bold yellow]Warning:[/] {escape(standing.warning)}", highlight=False)


def _make_many(
    load: Any, texts: Sequence[str], output: Path, settings: Any, as_json: bool, strict: bool, force: bool
) -> None:
    """A folder per description under `output`; what is there is kept, so that the same command goes on, or forced."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from text2lora.batch import write_adapters
    from text2lora.encoder import check_description

    texts = list(dict.fromkeys(check_description(text) for text in texts))
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file: choose another folder with --output")
    with err.status("loading the model"):
        t2l = load()
    if strict and texts:  # a shard may be empty
        with err.status("reading the descriptions"):
            refuse_far(t2l.standing(texts))
    begin = time.perf_counter()
    rows: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("making adapters", total=len(texts))
        for made in write_adapters(t2l, texts, output, settings, force):
            rows.append({"description": made.description, "path": str(made.folder), "skipped": made.skipped})
            progress.advance(bar)
    seconds = time.perf_counter() - begin
    if as_json:
        print_json(rows)
        return
    skipped = sum(row["skipped"] for row in rows)
    there = f", {skipped} were there already" if skipped else ""
    say(
        f"[bold green]{len(rows) - skipped} adapters[/] in {escape(str(output))}{there}  "
        f"({size(t2l.adapter_bytes)} each; {seconds:.1f} s)"
    )
    for row in rows:
        result(row["path"])
    if rows:
        suggest("t2l", "run", rows[0]["path"], sample_input(t2l.config.base_model_name_or_path))


def _parse_shard(shard: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,6})/([1-9]\d{0,6})", shard)
    number, count = map(int, found.groups()) if found else (1, 0)
    if number > count:
        raise typer.BadParameter(f"{shard!r}: expected NUMBER/COUNT, from 1/8 to 8/8", param_hint="--shard")
    return number, count


def _parse_shares(mix: str, count: int) -> list[float]:
    try:
        shares = [float(part) for part in mix.split(",")]
    except ValueError:
        shares = []
    if count < 2 or len(shares) != count:
        raise typer.BadParameter(
            f"{mix!r} for {count} descriptions: expected two or more, and a number for each, as 70,30",
            param_hint="--mix",
        )
    return shares
