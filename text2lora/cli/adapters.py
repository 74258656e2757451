"""`t2l run` and `t2l info`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from text2lora import base as bases
from text2lora import hub
from text2lora.cli.common import (
    Adapter,
    AsJson,
    Base,
    Device,
    complete_adapter,
    complete_checkpoint,
    err,
    parse_device,
    quiet,
    sample_input,
    show,
    size,
    suggest,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from text2lora.adapter import LoraAdapter


def run(
    adapter: Adapter,
    inputs: Annotated[list[str], typer.Argument(help="One or more inputs.", metavar="INPUT...")],
    base: Base = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show the answers of the base model and of the adapter side by side.

    Example: t2l run city-upper "order A1234: 2 x tent for Ada Berg, ship to Oslo, total $80.00, 2024-05-01"
    """
    quiet()
    from text2lora.adapter import LoraAdapter
    from text2lora.inference import generate_answers

    lora = LoraAdapter.from_pretrained(adapter)
    with err.status("loading the base model") as status:
        model, tokenizer = load_base(lora, base, device)
        status.update("answering")
        before = generate_answers(model, tokenizer, inputs, max_new_tokens)
        after = generate_answers(lora.apply_to(model), tokenizer, inputs, max_new_tokens)
    rows = [{"input": i, "base": b, "adapter": a} for i, b, a in zip(inputs, before, after, strict=True)]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    show(answer_table(rows))
    suggest("t2l", "chat", adapter)


def load_base(lora: LoraAdapter, base: str | None, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model of an adapter, or another one, with its tokenizer.

    Raises:
        CheckpointError: the adapter names none, or it cannot be had.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from text2lora.processor import widen

    name, revision = base or lora.spec.base_model_name_or_path, None if base else lora.spec.revision
    tokenizer = bases.load_base(AutoTokenizer, name, revision)
    model = bases.load_base(AutoModelForCausalLM, name, revision, device_map=parse_device(device))
    return widen(model).eval(), tokenizer


def answer_table(rows: list[dict[str, str]], header: bool = True) -> Table:
    """Inputs with the answers of base and adapter side by side."""
    table = Table("input", "base", "adapter", show_lines=True, show_header=header)
    for row in rows:
        table.add_row(
            escape(row["input"]), f"[dim]{escape(row['base'])}[/]", f"[bold green]{escape(row['adapter'])}[/]"
        )
    return table


def info(
    name: Annotated[
        str,
        typer.Argument(
            help="A checkpoint or an adapter: `nano`, a folder or a Hub id.",
            autocompletion=lambda incomplete: [*complete_checkpoint(incomplete), *complete_adapter(incomplete)],
        ),
    ],
    subfolder: Annotated[str | None, typer.Option(help="Inside it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a checkpoint or an adapter is.

    Example: t2l info nano
    """
    quiet()
    facts = _facts(name, subfolder)
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        table.add_row(
            f"[bold]{key.replace('_', ' ')}[/]", escape(", ".join(value) if isinstance(value, list) else str(value))
        )
    show(table)
    if facts["what"] == "LoRA adapter":
        suggest("t2l", "run", name, sample_input(facts["base_model"]))
    else:
        where = ["--subfolder", subfolder] if subfolder else []
        suggest("t2l", "make", "what the adapter should do", "--model", name, *where)


def _facts(name: str, subfolder: str | None) -> dict[str, Any]:
    from text2lora.adapter import CONFIG_NAME, WEIGHTS_NAME, LoraAdapter
    from text2lora.errors import CheckpointError

    path = hub.resolve_name(name, hub.CHECKPOINTS)
    try:
        hub.fetch_files(path, [CONFIG_NAME, WEIGHTS_NAME], subfolder)
    except CheckpointError:
        from text2lora.modeling import Text2LoraModel

        t2l = Text2LoraModel.from_pretrained(name, subfolder=subfolder or "")
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
    adapter = LoraAdapter.from_pretrained(path, subfolder)
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
