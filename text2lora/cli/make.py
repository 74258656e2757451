"""`t2l make`."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from text2lora.bundled import DEFAULT
from text2lora.cards import load_snippet
from text2lora.cli import options as opt
from text2lora.cli.terminal import err, out, print_json, quiet, result, sample_input, say, suggest, warn
from text2lora.errors import CheckpointError, InvalidDescriptionError, OutputError
from text2lora.files import atomic_folder, check_output, size
from text2lora.hub import ADAPTER_FILES, MARKERS
from text2lora.names import slug
from text2lora.push import PushTarget, check_description_of

if TYPE_CHECKING:
    import torch
    from huggingface_hub import CommitInfo
    from rich.status import Status

    from text2lora.adapter import LoraAdapter
    from text2lora.batch import AdapterSettings
    from text2lora.modeling import Text2LoraModel
    from text2lora.novelty import Novelty

NO_STATISTICS = "this checkpoint has no statistics of its training descriptions"

Descriptions = Annotated[
    list[str] | None,
    typer.Argument(help="What the adapter should do, in plain words; several descriptions make several adapters."),
]
DescriptionFile = Annotated[
    Path | None,
    typer.Option("--file", help="File of descriptions: .txt with one per line, or .jsonl with one object per line."),
]
Shard = Annotated[
    str | None,
    typer.Option(help="Make only one part of the file's adapters; 2/8 is the part of the second of eight machines."),
]
Mix = Annotated[
    str | None,
    typer.Option(help="Make one adapter from a mix of the descriptions, in these shares, such as 70,30."),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        help="Folder or Hub id of another copy of the text encoder (default: the one that the checkpoint names)."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Folder to write (default: named after the description; for several, `adapters`)."
    ),
]
FoldRslora = Annotated[
    bool, typer.Option("--fold-rslora", help="Fold rsLoRA into alpha, for engines that ignore rsLoRA.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse descriptions that are unlike all training descriptions.")
]


def make(
    descriptions: Descriptions = None,
    file: DescriptionFile = None,
    shard: Shard = None,
    mix: Mix = None,
    model: opt.Model = DEFAULT,
    subfolder: opt.Subfolder = None,
    encoder: Encoder = None,
    output: Output = None,
    example: opt.Example = None,
    examples: opt.ExampleFile = None,
    scale: opt.Scale = 1.0,
    dtype: opt.Dtype = None,
    fold_rslora: FoldRslora = False,
    device: opt.Device = "auto",
    strict: Strict = False,
    force: opt.Force = False,
    push: opt.Push = False,
    repo_id: opt.RepoId = None,
    private: opt.Private = False,
    create_pr: opt.CreatePr = False,
    token: opt.Token = None,
    as_json: opt.AsJson = False,
) -> None:
    """Make a LoRA adapter from a sentence, or many adapters from many sentences.

    Example: t2l make "Which city is mentioned? Just the name." -o city
    """
    pushing = opt.Pushing.of(push, repo_id, private, create_pr, token, force)
    pairs = opt.parse_examples(example, examples)
    if bool(descriptions) == bool(file) and not (pairs and not file):
        raise typer.BadParameter("give either descriptions or --file", param_hint="descriptions")
    if shard and not file:
        raise typer.BadParameter("works only with --file", param_hint="--shard")
    part = _parse_shard(shard) if shard else None
    many = file is not None or (len(descriptions or []) > 1 and mix is None)
    if many and (push or mix or pairs):
        hint = "--push" if push else "--mix" if mix else opt.EXAMPLES_HINT
        raise typer.BadParameter("works with one adapter at a time", param_hint=hint)
    if mix and pairs:
        raise typer.BadParameter("works without --mix", param_hint=opt.EXAMPLES_HINT)
    if pairs and not descriptions and not (output or repo_id):
        raise typer.BadParameter("needed with examples and no description, to name the adapter", param_hint="--output")
    wanted = opt.parse_dtype(dtype)
    quiet()
    from text2lora.batch import AdapterSettings, choose_shard, read_descriptions

    settings = AdapterSettings(scale, wanted, fold_rslora)
    load = partial(_load, model, subfolder, encoder, device, token)
    if many:
        texts = read_descriptions(file) if file else list(descriptions or [])
        texts = choose_shard(texts, *part) if part else texts
        _make_many(load, texts, output or Path("adapters"), settings, as_json, strict, force)
    else:
        made = _make_one(load, descriptions or [], mix, pairs, output, settings, pushing, strict, force)
        print_json(made.report()) if as_json else made.tell()


def _load(model: str, subfolder: str | None, encoder: str | None, device: str, token: str | None) -> Text2LoraModel:
    from text2lora.modeling import Text2LoraModel

    return Text2LoraModel.from_pretrained(
        model, subfolder=subfolder, device_map=opt.parse_device(device), token=token, encoder=encoder
    )


@dataclass
class _Made:
    """An adapter, how close its descriptions are to training, how long it took, and where it was put."""

    adapter: LoraAdapter
    novelties: Sequence[Novelty] | None
    encoder_seconds: float
    hypernetwork_seconds: float
    model: str
    scale: float
    folder: Path | None = None
    repo_id: str | None = None
    commit: CommitInfo | None = None

    @property
    def url(self) -> str | None:
        """The address of what was pushed; None if nothing was."""
        return str(self.commit.pr_url or self.commit.repo_url) if self.commit else None

    def report(self) -> dict[str, Any]:
        """What --json prints."""
        report: dict[str, Any] = {
            "description": self.adapter.metadata.get("description"),
            "path": str(self.folder) if self.folder else None,
            "bytes": self.adapter.num_bytes,
            "encoder_seconds": self.encoder_seconds,
            "hypernetwork_seconds": self.hypernetwork_seconds,
            "base_model": self.adapter.spec.base_model_name_or_path,
            "model": self.model,
            "scale": self.scale,
            "novelty": None if self.novelties is None else [novelty.as_dict() for novelty in self.novelties],
        }
        if "examples" in self.adapter.metadata:
            from text2lora.tuning import TUNING

            report |= {name: self.adapter.metadata.get(name) for name in TUNING}
        if self.commit:
            report |= {"url": self.url, "repo_id": self.repo_id, "commit": self.commit.oid}
        return report

    def tell(self) -> None:
        """Tell people what was made and how to load it, and a script where it is."""
        place, base = str(self.folder or self.repo_id), self.adapter.spec.base_model_name_or_path
        described = "description" in self.adapter.metadata
        seconds = f"{self.encoder_seconds * 1000:.0f} ms to read the description, " if described else ""
        seconds += f"{self.hypernetwork_seconds * 1000:.0f} ms to write"
        say(f"[bold green]Adapter[/] {escape(place)}  ({size(self.adapter.num_bytes)}; {seconds})")
        if self.novelties or described:
            show_novelties(self.novelties)
        if "examples" in self.adapter.metadata:
            from text2lora.tuning import tuning_report

            say(f"[dim]Tuned on[/] {tuning_report(self.adapter.metadata)}")
        if self.url:
            say(f"[bold green]On the Hub[/] {escape(self.url)}")
        result(self.url or place)
        proposed = self.commit is not None and self.commit.pr_url is not None and not self.folder
        if out.is_terminal and not proposed:  # there is nothing to load before a pull request is merged
            out.print("\nLoad it:\n")
            out.print(indent(load_snippet(base, place), "  "), markup=False, soft_wrap=True)
            suggest("t2l", "run", place, sample_input(base))


def _make_one(
    load: Callable[[], Text2LoraModel],
    descriptions: Sequence[str],
    mix: str | None,
    examples: list[tuple[str, str]],
    output: Path | None,
    settings: AdapterSettings,
    pushing: opt.Pushing | None,
    strict: bool,
    force: bool,
) -> _Made:
    """Write one adapter into a folder, push it, or both. What would fail at the end is refused before the work."""
    from text2lora.encoder import check_description

    texts = [check_description(text) for text in descriptions]
    shares = _parse_shares(mix, len(texts)) if mix is not None else [1.0]
    name = slug(" ".join(texts))
    folder = output or (None if pushing else Path(name))
    if folder:
        check_output(folder, ADAPTER_FILES, "an adapter", force)
    target = _check_push(pushing, name, texts, shares) if pushing else None
    with err.status("loading the model") as status:
        made = _generate(load(), texts, shares, examples, settings, strict, status)
        if folder:
            status.update("saving")
            with atomic_folder(folder, replace=force) as temporary:
                made.adapter.save_pretrained(temporary)
            made.folder = folder
        if target and pushing:
            status.update("sending")
            made.repo_id, made.commit = target.repo_id, pushing.send(made.adapter, target)
    return made


def _check_push(pushing: opt.Pushing, name: str, texts: Sequence[str], shares: Sequence[float]) -> PushTarget:
    from text2lora.arithmetic import describe_sum

    target = pushing.check(name, "adapter")
    if not (pushing.repo_id or pushing.force):  # two descriptions may give the same name
        total = sum(shares) or 1.0
        text = "".join(texts) if len(texts) < 2 else describe_sum(texts, [share / total for share in shares])
        check_description_of(target, text, pushing.token)
    return target


def _generate(
    t2l: Text2LoraModel,
    texts: list[str],
    shares: Sequence[float],
    examples: list[tuple[str, str]],
    settings: AdapterSettings,
    strict: bool,
    status: Status,
) -> _Made:
    encoder = t2l.encoder
    status.update("reading the description")
    begin = time.perf_counter()
    task_emb = encoder.encode(texts) if texts else None
    encoded = time.perf_counter()
    novelties = t2l.novelty(texts, task_emb) if texts else None
    if strict and texts:
        refuse_far(novelties)
    placed = time.perf_counter()
    adapter = None
    if len(texts) > 1:
        adapter = t2l.interpolate(texts, shares, settings.scale, task_emb)
    elif task_emb is not None:
        (adapter,) = t2l.generate_lora(texts, task_emb, settings.scale)
    seconds = time.perf_counter() - placed
    if examples:
        adapter = _tune(t2l, texts, task_emb, examples, settings.scale, adapter, status)
    assert adapter is not None
    adapter = (adapter.folded() if settings.fold_rslora else adapter).to(dtype=settings.dtype)
    return _Made(adapter, novelties, encoded - begin, seconds, t2l.config.name_or_path, settings.scale)


def _tune(
    t2l: Text2LoraModel,
    texts: list[str],
    task_emb: torch.Tensor | None,
    examples: list[tuple[str, str]],
    scale: float,
    untuned: LoraAdapter | None,
    status: Status,
) -> LoraAdapter:
    """The adapter tuned on examples. Ctrl-C keeps the one that the description gave."""
    doing = f"learning from {len(examples)} example{'s' * (len(examples) > 1)}"
    status.update(doing)

    def tell(step: int, steps: int) -> None:
        status.update(f"{doing}, step {step} of at most {steps}; Ctrl-C keeps what the description gives")

    try:
        if task_emb is None:
            return t2l.generate_lora(scale=scale, examples=examples, on_step=tell)
        return t2l.generate_lora(texts, task_emb, scale, examples=[examples], on_step=tell)[0]
    except KeyboardInterrupt:
        if untuned is None:
            raise
        err.print("[yellow]Stopped:[/] the adapter is what the description alone gives")
        return untuned


def refuse_far(novelties: Sequence[Novelty] | None) -> None:
    """Refuse descriptions that are far from all training descriptions.

    Raises:
        InvalidDescriptionError: one of them is.
        CheckpointError: the checkpoint has no statistics to compare with.
    """
    if novelties is None:
        raise CheckpointError(f"{NO_STATISTICS}: leave out --strict")
    for novelty in novelties:
        if novelty.warning:
            raise InvalidDescriptionError(novelty.warning)


def show_novelties(novelties: Sequence[Novelty] | None) -> None:
    """Print how close each description is to training, and a warning for one that is far from all of it."""
    if novelties is None:
        say(f"[dim]Nearest training tasks:[/] unknown, because {NO_STATISTICS}")
        return
    for novelty in novelties:
        if not novelty.warning:
            say(escape(str(novelty)))
        else:
            warn(novelty.warning)


def _make_many(
    load: Callable[[], Text2LoraModel],
    texts: Sequence[str],
    output: Path,
    settings: AdapterSettings,
    as_json: bool,
    strict: bool,
    force: bool,
) -> None:
    """Write a folder for each description into `output`, keeping the ones that are there unless `force` is set."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from text2lora.batch import write_adapters
    from text2lora.encoder import check_description

    texts = list(dict.fromkeys(check_description(text) for text in texts))
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file: choose another folder with --output")
    if (output / MARKERS["adapter"]).exists():
        raise OutputError(f"{output} is an adapter: choose another folder with --output")
    with err.status("loading the model"):
        t2l = load()
    if strict and texts:  # a shard may be empty
        with err.status("reading the descriptions"):
            refuse_far(t2l.novelty(texts))
    begin = time.perf_counter()
    rows: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task("making adapters", total=len(texts))
        try:
            for made in write_adapters(t2l, texts, output, settings, force):
                rows.append({"description": made.description, "path": str(made.folder), "skipped": made.skipped})
                progress.advance(bar)
        except KeyboardInterrupt:
            err.print(
                f"[yellow]Stopped:[/] {len(rows)} of {len(texts)} adapters are in {escape(str(output))}; the same "
                f"command{' without --force' * force} makes the others"
            )
            raise
    seconds = time.perf_counter() - begin
    if as_json:
        print_json(rows)
        return
    skipped = sum(row["skipped"] for row in rows)
    there, made_now = f", {skipped} existed already" if skipped else "", len(rows) - skipped
    say(
        f"[bold green]{made_now} adapter{'s' * (made_now != 1)}[/] in {escape(str(output))}{there}  "
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
    if count < 2 or len(shares) != count or not all(0 <= share < math.inf for share in shares) or not any(shares):
        raise typer.BadParameter(
            f"{mix!r} for {count} description{'s' * (count != 1)}: expected two or more descriptions and a share for "
            "each, such as 70,30, from 0 upwards and not all of them 0",
            param_hint="--mix",
        )
    return shares
