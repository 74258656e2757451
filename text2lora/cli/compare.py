"""`t2l compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from text2lora.bundled import DEFAULT
from text2lora.cli import options as opt
from text2lora.cli.check import load_check_tasks
from text2lora.cli.terminal import FoldedTable, err, inside, out, print_json, quiet, say, show, suggest, warn

if TYPE_CHECKING:
    from text2lora.evaluation.compare import Comparison


def compare(
    descriptions: Annotated[
        list[str], typer.Argument(help="Two or more wordings of a description.", metavar="wording")
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Input to answer; may be repeated (default: for `smol` and `nano`, two sample inputs)."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Tasks whose examples are scored: a YAML or JSON lines file, or a folder of them."),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Use at most this many examples of each task.")] = 32,
    model: opt.Model = DEFAULT,
    subfolder: opt.Subfolder = None,
    max_new_tokens: opt.MaxNewTokens = 64,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
) -> None:
    """Compare wordings of a description: the answers, the scores, and how similar the adapters are.

    Example: t2l compare "Which city is mentioned?" "the city, please" "city"
    """
    if len(descriptions) < 2:
        raise typer.BadParameter("expected two or more wordings", param_hint="WORDING")
    opt.check_texts(prompt or [], "--prompt")
    quiet()
    from text2lora.arithmetic import cosine_range
    from text2lora.evaluation.compare import compare_descriptions
    from text2lora.modeling import Text2LoraModel
    from text2lora.samples import BY_BASE

    with err.status("loading") as status:
        t2l = Text2LoraModel.from_pretrained(model, subfolder=subfolder, device_map=opt.parse_device(device))
        name = t2l.config.base_model_name_or_path
        chosen = load_check_tasks(tasks, name, examples, described=False) if tasks else []
        known = BY_BASE.get(name or "")
        prompts = prompt or (known.inputs[:2] if known else [])
        base, tokenizer = t2l.load_base_model(), t2l.base_tokenizer
        status.update("answering")
        found = compare_descriptions(t2l, base, tokenizer, descriptions, prompts, chosen, max_new_tokens)
        unrelated = None
        if known:
            samples = known.descriptions
            unrelated = cosine_range(t2l.generate_lora(samples, t2l.encoder.encode(samples)))
    if as_json:
        print_json(found.as_dict() | {"unrelated": unrelated}, indent=2)
        return
    _show(found)
    if unrelated:
        least, most = unrelated
        say(
            "[dim]For comparison, the adapters for the example descriptions, which ask for different things, have "
            f"cosines from {least:.2f} to {most:.2f}.[/]"
        )
    best = max(found.wordings, key=lambda wording: wording.exact_match or 0)  # the first where none was scored
    named = [] if model == DEFAULT else ["--model", model]
    suggest("t2l", "make", best.description or "", *named, *inside(subfolder))


def _show(found: Comparison) -> None:
    from text2lora.inference import without_loop

    heads = [wording.description or "" for wording in found.wordings]
    if out.is_terminal:
        for number, text in enumerate(heads, 1):
            out.print(f"[bold]{number}[/] {escape(text)}")
        heads = [str(number) for number in range(1, len(heads) + 1)]
    for wording in found.wordings:
        if wording.novelty and wording.novelty.warning:
            warn(wording.novelty.warning)
    columns = [("base", found.base), *zip(map(escape, heads), found.wordings, strict=True)]
    table = FoldedTable("", *(name for name, _ in columns), show_lines=True)
    for i, text in enumerate(found.prompts):
        table.add_row(
            f"[dim]{escape(text)}[/]",
            escape(without_loop(found.base.answers[i])),
            *(escape(wording.answers[i]) for wording in found.wordings),
        )
    if found.base.exact_match is not None:
        table.add_row("exact match", *(f"{wording.exact_match:.3f}" for _, wording in columns))
        table.add_row("loss", *(f"{wording.loss:.3f}" for _, wording in columns))
    if any(wording.novelty for wording in found.wordings):
        cells = [wording.novelty.nearest[0] if wording.novelty else None for _, wording in columns]
        table.add_row("nearest task", *(f"{escape(cell.task)} {cell.similarity:.2f}" if cell else "" for cell in cells))
    for name, row in zip(heads, found.cosines, strict=True):
        table.add_row(f"cosine of ΔW with {escape(name)}", "", *(f"{cosine:.2f}" for cosine in row))
    show(table)
