"""`t2l run` and `t2l info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from text2lora import base as bases
from text2lora import hub
from text2lora.bundled import CHECKPOINTS
from text2lora.cli.common import (
    Adapter,
    AsJson,
    Base,
    Device,
    FoldedTable,
    Subfolder,
    check_texts,
    complete_adapter,
    complete_checkpoint,
    err,
    inside,
    out,
    parse_device,
    print_json,
    quiet,
    sample_input,
    show,
    show_facts,
    size,
    suggest,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from text2lora.adapter import LoraAdapter


def run(
    adapter: Adapter,
    inputs: Annotated[list[str], typer.Argument(help="One or more inputs.", metavar="input")],
    subfolder: Subfolder = None,
    base: Base = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show the answers of the base model and of the adapter side by side.

    Example: t2l run city-upper "order A1234: 2 x tent for Ada Berg, ship to Oslo, total $80.00, 2024-05-01"
    """
    check_texts(inputs, "INPUT")
    quiet()
    from text2lora.adapter import LoraAdapter
    from text2lora.inference import generate_answers
    from text2lora.samples import BY_BASE

    lora = LoraAdapter.from_pretrained(adapter, subfolder)
    with err.status("loading the base model") as status:
        model, tokenizer = load_base(lora, base, device)
        status.update("answering")
        before = generate_answers(model, tokenizer, inputs, max_new_tokens)
        after = generate_answers(lora.apply_to(model), tokenizer, inputs, max_new_tokens)
    rows = [{"input": i, "base": b, "adapter": a} for i, b, a in zip(inputs, before, after, strict=True)]
    if as_json:
        print_json(rows, indent=2)
        return
    show(answer_table(rows, header=out.is_terminal))
    known = BY_BASE.get(base or lora.spec.base_model_name_or_path or "")
    if out.is_terminal and known and known.note:
        out.print(f"[dim]{escape(known.note)}[/]", highlight=False)
    suggest("t2l", "chat", adapter, *inside(subfolder))


def load_base(lora: LoraAdapter, base: str | None, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model of an adapter, or another one, with its tokenizer.

    Raises:
        CheckpointError: the adapter names none, or it cannot be had.
    """
    name, revision = base or lora.spec.base_model_name_or_path, None if base else lora.spec.revision
    return bases.load_base_with_tokenizer(name, revision, parse_device(device))


def answer_table(rows: list[dict[str, str]], header: bool = True) -> FoldedTable:
    """Inputs with the answers of base and adapter side by side."""
    table = FoldedTable("input", "base", "adapter", show_lines=True, show_header=header)
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
    subfolder: Subfolder = None,
    as_json: AsJson = False,
) -> None:
    """Say what a checkpoint or an adapter is.

    Example: t2l info nano
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
    from text2lora.upstream import find_upstream

    path = hub.resolve_name(name, CHECKPOINTS)
    has_config = hub.find_file(path, hub.MARKERS["adapter"], subfolder) is not None
    if not has_config or find_upstream(path, subfolder):  # the reference's checkpoints hold such a file too
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
        "bytes": adapter.num_bytes,
        "dtype": str(next(iter(adapter.weights.values())).dtype).removeprefix("torch."),
        "target_modules": sorted(adapter.spec.module_names),
        "r": adapter.spec.r,
        "alpha": adapter.spec.lora_alpha,
        "rslora": adapter.spec.use_rslora,
    }
