"""`t2l make`, `t2l run` and `t2l info`."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from text2lora.cli.common import err, out, parse_device, parse_dtype, quiet, size
from text2lora.hub import BASES, load_snippet, resolve_name

Model = Annotated[str, typer.Option("--model", "-m", help="A checkpoint: `nano`, a folder or a Hub id.")]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def make(
    description: Annotated[str, typer.Argument(help="What the adapter should do, in plain words.")],
    model: Model = "nano",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; by default named after the text.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Strength of the adapter; 1.0 is as trained.")] = 1.0,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; by default the checkpoint's.")
    ] = None,
    fold_rslora: Annotated[
        bool, typer.Option("--fold-rslora", help="Write rsLoRA's factor into alpha, for engines that ignore rsLoRA.")
    ] = False,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an adapter that is already there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a LoRA adapter from a sentence.

    Example: t2l make "Return the city in capitals." -o city-upper
    """
    from text2lora.encoder import check_description
    from text2lora.errors import OutputError

    text = check_description(description)
    target = output or Path(slug(text))
    if target.exists() and not force and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target} exists: choose another folder with --output, or replace an adapter with --force")
    torch_dtype = parse_dtype(dtype)
    quiet()
    from text2lora.modeling import Text2LoraModel

    with err.status("loading the model") as status:
        t2l = Text2LoraModel.from_pretrained(model, device_map=parse_device(device))
        encoder = t2l.encoder
        status.update("reading the description")
        begin = time.perf_counter()
        task_emb = encoder.encode([text])
        encoded = time.perf_counter()
        adapter = t2l.generate_lora([text], task_emb=task_emb, scale=scale)[0]
        made = time.perf_counter()
        adapter = adapter.to(dtype=torch_dtype)
        status.update("saving")
        folder = adapter.save_pretrained(target, fold_rslora=fold_rslora)
    base = t2l.config.base_model_name_or_path
    if as_json:
        report = {
            "description": text,
            "path": str(folder),
            "bytes": adapter.num_bytes,
            "encoder_seconds": encoded - begin,
            "hypernetwork_seconds": made - encoded,
            "base_model": base,
            "model": model,
            "scale": scale,
        }
        print(json.dumps(report, ensure_ascii=False))
        return
    milliseconds = (
        f"{(encoded - begin) * 1000:.0f} ms to read the description, {(made - encoded) * 1000:.0f} ms to write"
    )
    out.print(f"[bold green]Adapter[/] {escape(str(folder))}  ({size(adapter.num_bytes)}; {milliseconds})")
    out.print("\nLoad it:\n")
    out.print(indent(load_snippet(base, str(folder)), "  "), markup=False, highlight=False)
    out.print(f'\nTry it:\n\n  t2l run {escape(str(folder))} "{escape(_sample_input(base))}"')


def run(
    adapter: Annotated[str, typer.Argument(help="A folder or Hub id of a LoRA adapter.")],
    inputs: Annotated[list[str], typer.Argument(help="One or more inputs.", metavar="INPUT...")],
    base: Annotated[str | None, typer.Option(help="The base model; by default the one that the adapter names.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show the answers of the base model and of the adapter side by side.

    Example: t2l run city-upper "order A1234: 2 x tent for Ada Berg, ship to Oslo, total $80.00, 2024-05-01"
    """
    quiet()
    from text2lora.adapter import LoraAdapter
    from text2lora.errors import CheckpointError

    lora = LoraAdapter.from_pretrained(adapter)
    name = base or lora.spec.base_model_name_or_path
    if not name:
        raise CheckpointError(f"{adapter} names no base model: pass --base")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from text2lora.inference import generate_answers

    with err.status("loading the base model") as status:
        try:
            path = resolve_name(name, BASES)
            tokenizer = AutoTokenizer.from_pretrained(path)
            model = AutoModelForCausalLM.from_pretrained(path, device_map=parse_device(device))
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(f"the base model {name!r} cannot be loaded ({reason}): pass --base") from error
        status.update("answering")
        before = generate_answers(model.eval(), tokenizer, inputs, max_new_tokens)
        after = generate_answers(lora.apply_to(model), tokenizer, inputs, max_new_tokens)
    rows = [{"input": i, "base": b, "adapter": a} for i, b, a in zip(inputs, before, after, strict=True)]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    out.print(answer_table(rows))


def answer_table(rows: list[dict[str, str]]) -> Table:
    """Inputs with the answers of base and adapter side by side."""
    table = Table("input", "base", "adapter", show_lines=True)
    for row in rows:
        table.add_row(
            escape(row["input"]), f"[dim]{escape(row['base'])}[/]", f"[bold green]{escape(row['adapter'])}[/]"
        )
    return table


def info(
    name: Annotated[str, typer.Argument(help="A checkpoint or an adapter: `nano`, a folder or a Hub id.")],
    as_json: AsJson = False,
) -> None:
    """Say what a checkpoint or an adapter is.

    Example: t2l info nano
    """
    quiet()
    facts = _facts(name)
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        table.add_row(
            f"[bold]{key.replace('_', ' ')}[/]", escape(", ".join(value) if isinstance(value, list) else str(value))
        )
    out.print(table)


def _facts(name: str) -> dict[str, Any]:
    from text2lora.adapter import CONFIG_NAME, LoraAdapter
    from text2lora.errors import CheckpointError
    from text2lora.hub import CHECKPOINTS, fetch_files

    path = resolve_name(name, CHECKPOINTS)
    try:
        fetch_files(path, [CONFIG_NAME])
    except CheckpointError:
        from text2lora.modeling import Text2LoraModel

        t2l = Text2LoraModel.from_pretrained(name)
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
    adapter = LoraAdapter.from_pretrained(path)
    return {
        "what": "LoRA adapter",
        "base_model": adapter.spec.base_model_name_or_path,
        "size": size(adapter.num_bytes),
        "dtype": str(next(iter(adapter.weights.values())).dtype).removeprefix("torch."),
        "target_modules": sorted(adapter.spec.target_modules),
        "r": adapter.spec.r,
        "alpha": adapter.spec.lora_alpha,
        "rslora": adapter.spec.use_rslora,
    }


def slug(text: str) -> str:
    """A folder name made of a description's words."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return words[:48].rstrip("-") or "adapter"


def _sample_input(base: str | None) -> str:
    if base in BASES:
        from text2lora.nano import sample_record

        return sample_record("order", 7)[0].replace("$", "\\$")
    return "your input"
