"""`t2l info` and `t2l list`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from text2lora import hub
from text2lora.bundled import CHECKPOINTS
from text2lora.cards import card_metadata
from text2lora.cli import options as opt
from text2lora.cli.terminal import (
    FoldedTable,
    inside,
    out,
    print_json,
    quiet,
    sample_input,
    say,
    show,
    show_facts,
    suggest,
)
from text2lora.errors import CheckpointError
from text2lora.files import size
from text2lora.names import resolve_name

if TYPE_CHECKING:
    from text2lora.adapter import LoraAdapter


SHOWN = 200
"""The most characters of a description that a list shows at a terminal."""


def answer_table(rows: list[dict[str, str]], header: bool = True) -> FoldedTable:
    """Inputs with the answers of base and adapter side by side."""
    from text2lora.inference import without_loop

    table = FoldedTable("input", "base", "adapter", show_lines=True, show_header=header)
    for row in rows:
        base, adapter = escape(without_loop(row["base"])), escape(row["adapter"])
        table.add_row(escape(row["input"]), f"[dim]{base}[/]", f"[bold green]{adapter}[/]")
    return table


def info(
    name: Annotated[
        str,
        typer.Argument(
            help="Checkpoint or adapter: `smol`, `nano`, a folder or a Hub id.",
            autocompletion=lambda incomplete: [*opt.complete_checkpoint(incomplete), *opt.complete_adapter(incomplete)],
        ),
    ],
    subfolder: opt.Subfolder = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show details of a checkpoint or adapter.

    Example: t2l info smol
    """
    quiet()
    facts = _facts(name, subfolder)
    if as_json:
        print_json(facts, indent=2)
        return
    shown: dict[str, str] = {}
    for key, value in facts.items():
        if key == "bytes":
            key, value = "size", size(value)
        shown[key.replace("_", " ")] = escape(", ".join(value) if isinstance(value, list) else str(value))
    show_facts(shown)
    if facts["what"] == "LoRA adapter":
        suggest("t2l", "run", name, *inside(subfolder), sample_input(facts["base_model"]))
    else:
        suggest("t2l", "make", "what the adapter should do", "--model", name, *inside(subfolder))


def _facts(name: str, subfolder: str | None) -> dict[str, Any]:
    from text2lora.adapter import LoraAdapter
    from text2lora.shards import find_in_shards
    from text2lora.upstream import find_upstream

    path = resolve_name(name, CHECKPOINTS)
    if not find_in_shards(path, subfolder):
        source = hub.Source.of(path, subfolder)
        if not any(source.find(file) for file in (*hub.MARKERS.values(), hub.UPSTREAM_WEIGHTS)):
            folder, markers = Path(path, source.subfolder), hub.MARKERS.values()
            hint = next(filter(None, (hub.look_inside(folder, marker) for marker in markers)), "")
            raise CheckpointError(
                f"{name} is neither an adapter nor a checkpoint: {hint}expected a folder with {' or '.join(markers)}"
            )
        # the reference's checkpoints hold such a file too
        if not source.find(hub.MARKERS["adapter"]) or find_upstream(source):
            return _facts_of_checkpoint(name, subfolder)
    return _facts_of_adapter(LoraAdapter.from_pretrained(path, subfolder))


def _facts_of_checkpoint(name: str, subfolder: str | None) -> dict[str, Any]:
    from text2lora.modeling import Text2LoraModel

    t2l = Text2LoraModel.from_pretrained(name, subfolder=subfolder)
    config = t2l.config
    return {
        "what": "text2lora checkpoint",
        "base_model": config.base_model_name_or_path,
        "encoder": config.encoder_name_or_path,
        "task_encoder": config.task_encoder,
        "head": config.head,
        "parameters": t2l.num_parameters(),
        "layers": config.num_layers,
        "target_modules": config.target_modules,
        "r": config.lora_r,
        "alpha": config.lora_alpha,
        "rslora": config.use_rslora,
    }


def _facts_of_adapter(adapter: LoraAdapter) -> dict[str, Any]:
    return {
        "what": "LoRA adapter",
        **{name: adapter.metadata[name] for name in ("description", "checkpoint") if name in adapter.metadata},
        "base_model": adapter.spec.base_model_name_or_path,
        "bytes": adapter.num_bytes,
        "dtype": str(next(iter(adapter.weights.values())).dtype).removeprefix("torch."),
        "target_modules": sorted(adapter.spec.module_names),
        "r": adapter.spec.r,
        "alpha": adapter.spec.lora_alpha,
        "rslora": adapter.spec.use_rslora,
    }


def list_adapters(
    folder: Annotated[Path, typer.Argument(help="Folder to search, two levels deep.")] = Path(),
    as_json: opt.AsJson = False,
) -> None:
    """List the adapters in a folder.

    Example: t2l list
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: name a folder that contains adapters")
    found = [
        _entry(file.parent)
        for pattern in ("", "*/", "*/*/")
        for file in sorted(folder.glob(f"{pattern}{hub.MARKERS['adapter']}"))
        if not (file.parent / hub.UPSTREAM_WEIGHTS).exists()  # a checkpoint of the reference holds such a file too
    ]
    if as_json:
        print_json(found, indent=2)
        return
    if not found:
        say(f"No adapters in {escape(str(folder.absolute()))}")
        suggest("t2l", "make", "what the adapter should do")
        return
    table = FoldedTable("adapter", "description", "base", "size", box=None, show_header=out.is_terminal)
    table.columns[0].no_wrap = True  # a name is there to be copied
    for entry in found:
        told = entry["error"] or entry["description"] or ""
        told = shorten(told, SHOWN, placeholder=" …") if out.is_terminal else told
        table.add_row(escape(entry["path"]), escape(told), escape(entry["base_model"] or ""), size(entry["bytes"]))
    show(table)
    if good := [entry for entry in found if not entry["error"]]:
        suggest("t2l", "run", good[0]["path"], sample_input(good[0]["base_model"]))


def _entry(folder: Path) -> dict[str, Any]:
    """What a folder's files say of an adapter, without loading its weights."""
    from safetensors import SafetensorError, safe_open

    weights, card = folder / "adapter_model.safetensors", folder / hub.CARD_NAME
    entry: dict[str, Any] = {"path": str(folder), "description": None, "base_model": None, "bytes": 0, "error": None}
    try:
        config = json.loads((folder / hub.MARKERS["adapter"]).read_text(encoding="utf-8"))
        with safe_open(weights, "numpy"):  # refuses a file that is cut off
            pass
        with weights.open("rb") as file:  # which begins with the length of its header
            entry["bytes"] = max(0, weights.stat().st_size - 8 - int.from_bytes(file.read(8), "little"))
        entry["base_model"] = config.get("base_model_name_or_path")
        if card.exists():
            metadata = card_metadata(card.read_text(encoding="utf-8", errors="replace"))
            entry["description"] = metadata.get("description")
    except (OSError, ValueError, AttributeError, SafetensorError):
        entry["error"] = f"cannot be read: t2l info {shlex.quote(str(folder))} says why"
    return entry
