"""`t2l bench`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from text2lora.cli.common import (
    App,
    AsJson,
    Device,
    FoldedTable,
    err,
    out,
    parse_device,
    parse_dtype,
    print_json,
    quiet,
    show,
    show_facts,
    size,
    suggest,
)

app = App(help="Measure speed on this machine.\n\nExample: t2l bench generate --shape nano")


@app.callback()
def _bench() -> None:
    pass


@app.command()
def generate(
    shape: Annotated[str, typer.Option(help="`llama-8b`, `gemma-2b` or `nano`; the weights are random.")] = "llama-8b",
    batch: Annotated[int, typer.Option(min=1, help="Adapters in a batch.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Times to measure one adapter; batches a fifth of it.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Time adapters on the CPU, beside the bare matrix products that they need.

    Example: t2l bench generate --shape llama-8b
    """
    quiet()
    from text2lora.evaluation.bench import SHAPES, shape_config, time_generation, time_replacement
    from text2lora.hub import CHECKPOINTS

    if shape not in SHAPES and shape not in CHECKPOINTS:
        known = ", ".join([*SHAPES, *CHECKPOINTS])
        raise typer.BadParameter(f"{shape!r} is not one of {known}", param_hint="--shape")
    with err.status("making adapters") as status:
        rows = time_generation(shape_config(shape), batch, repeat)
        status.update("replacing adapters")
        replacement = time_replacement()
    if as_json:
        report = {"shape": shape, "batch": batch, "times": [asdict(r) for r in rows], "replacement": replacement}
        print_json(report, indent=2)
        return
    table = FoldedTable("dtype", "products", "one adapter", "of products", f"each of {batch}", "of one", "error")
    for row in rows:
        table.add_row(
            row.dtype,
            f"{row.products * 1000:.1f} ms",
            f"{row.one * 1000:.1f} ms",
            f"{row.one / row.products:.2f}x",
            f"{row.batched * 1000:.1f} ms",
            f"{row.batched / row.one:.2f}x",
            f"{row.error:.4f}",
        )
    show(table)
    out.print(f"replacing the adapter of a live model, 64 modules: {replacement * 1000:.2f} ms")
    suggest("t2l", "bench", "start")


@app.command()
def start(
    repeat: Annotated[int, typer.Option(min=1, help="Times to measure.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Time a whole `t2l make` in a fresh process, beside the imports that it cannot do without.

    Example: t2l bench start
    """
    quiet()
    from text2lora.evaluation.bench import time_start

    with err.status("starting processes"):
        made, imported = time_start(repeat)
    if as_json:
        print_json({"make": made, "imports": imported})
        return
    out.print(f"t2l make with nano: {made:.2f} s, of it {imported:.2f} s imports ({made / imported:.2f}x)")
    suggest("t2l", "bench", "memory")


@app.command()
def memory(
    shape: Annotated[str, typer.Option(help="`llama-8b` or `gemma-2b`; the weights are random.")] = "llama-8b",
    dtype: Annotated[str, typer.Option(help="Of the hypernetwork: float32, bfloat16 or float16.")] = "float32",
    as_json: AsJson = False,
) -> None:
    """Measure the peak memory of a whole `t2l make`, beside the weights that it needs. Takes gigabytes of disk.

    Example: t2l bench memory --shape llama-8b
    """
    quiet()
    from text2lora.evaluation.memory import BASE_PARAMETERS, measure_memory

    if shape not in BASE_PARAMETERS:
        raise typer.BadParameter(f"{shape!r} is not one of {', '.join(BASE_PARAMETERS)}", param_hint="--shape")
    with err.status("writing random weights, and making an adapter with them"):
        use = measure_memory(shape, parse_dtype(dtype))
    if as_json:
        print_json({"shape": shape, "dtype": dtype, **asdict(use)})
        return
    show_facts(
        {
            "hypernetwork and encoder": size(use.weights),
            "peak of t2l make": f"{size(use.peak)}  ({use.peak / use.weights:.2f}x)",
            "of it, imports alone": size(use.imports),
            "the base model would add": size(use.base),
        }
    )
    suggest("t2l", "doctor")


@app.command()
def standing(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with t2l_task_descriptions.jsonl.gz and t2l_eval_descriptions.jsonl.gz."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well the warning of `t2l make` tells junk from real descriptions that training did not see.

    With nano and its test descriptions, and with --data also with those of the reference and the demo's text encoder.

    Example: t2l bench standing --data ../shared/data
    """
    quiet()
    from text2lora.configuration import Text2LoraConfig
    from text2lora.encoder import TextEncoder
    from text2lora.errors import CheckpointError
    from text2lora.evaluation.standing import separate
    from text2lora.modeling import Text2LoraModel
    from text2lora.nano.source import read_split
    from text2lora.standing import measure_descriptions

    with err.status("reading the test descriptions of nano") as status:
        t2l = Text2LoraModel.from_pretrained("nano")
        if (statistics := t2l.description_statistics) is None:
            raise CheckpointError("nano has no statistics of its descriptions: run `t2l train standing nano`")
        junk = [text for _, text in read_split("junk")]
        found = {
            f"nano, {name}": separate(statistics, t2l.encoder, [text for _, text in read_split(split)], junk)
            for name, split in (
                ("seen tasks", "test_seen"),
                ("unseen tasks", "test_unseen"),
                ("free-form", "test_freeform"),
            )
        }
        if data:
            from text2lora.textfiles import read_lines
            from text2lora.training.tasks import read_wordings

            status.update("reading the training descriptions of the reference")
            rows = {row["task"]: row["descriptions"] for row in read_lines(data / "t2l_eval_descriptions.jsonl.gz")}
            junk += rows.pop("__random__")
            names, texts = read_wordings(data / "t2l_task_descriptions.jsonl.gz")
            unseen = {text for group in rows.values() for text in group}
            kept = [i for i, text in enumerate(texts) if text not in unseen]
            name = "sentence-transformers/all-MiniLM-L6-v2"
            encoder = TextEncoder.from_config(Text2LoraConfig(encoder_name_or_path=name, encoder_max_length=256))
            measured = measure_descriptions(encoder, [texts[i] for i in kept], [names[i] for i in kept])
            if measured is None:
                raise CheckpointError(f"{data} holds descriptions of fewer than two tasks")
            seen = set(names)
            for label, of_seen in (("seen tasks", True), ("unseen tasks", False)):
                real = [text for task, group in rows.items() if (task in seen) == of_seen for text in group]
                found[f"reference, {label}"] = separate(measured, encoder, real, junk)
    if as_json:
        print_json({name: asdict(row) for name, row in found.items()}, indent=2)
        return
    table = FoldedTable("unseen descriptions", "real", "junk", "ROC AUC", "junk warned of", "real ones warned of")
    for name, row in found.items():
        shares = f"{row.caught:.1%}", f"{row.warned:.1%}"
        table.add_row(name, str(row.real), str(row.junk), f"{row.auc:.4f}", *shares)
    show(table)
    suggest("t2l", "check", "nano")


@app.command()
def train(
    batch: Annotated[int, typer.Option(min=1, help="Rows, each with its own adapter.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a row.")] = 512,
    hidden: Annotated[int, typer.Option(min=64, help="Width of the base, a multiple of 64.")] = 1024,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the base.")] = 2,
    repeat: Annotated[int, typer.Option(min=1, help="Times to measure each way.")] = 5,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time a training step: the frozen base, with per-sample LoRA, and with LoRA repeated for every token.

    Example: t2l bench train --tokens 256
    """
    quiet()
    from text2lora.evaluation.bench_train import StepShape, time_step

    if hidden % 64:
        raise typer.BadParameter(f"{hidden} is not a multiple of 64", param_hint="--hidden")
    shape = StepShape(batch, tokens, hidden, layers, device=parse_device(device))
    with err.status("taking steps"):
        costs = time_step(shape, repeat)
    if as_json:
        more = {"overhead": costs.overhead, "speedup": costs.speedup}
        print_json({"shape": asdict(shape), "costs": asdict(costs) | more}, indent=2)
        return
    table = FoldedTable("step", "time", "LoRA part", "of the base", "memory beyond the base's")
    table.add_row("frozen base", f"{costs.base:.2f} s", "", "", "")
    for name, seconds, memory in (
        ("per-sample LoRA", costs.ours, costs.ours_memory),
        ("LoRA per token", costs.per_token, costs.per_token_memory),
    ):
        part = seconds - costs.base
        table.add_row(name, f"{seconds:.2f} s", f"{part:.2f} s", f"{part / costs.base:.0%}", size(memory))
    show(table)
    speed = costs.flops / costs.base
    out.print(
        f"the LoRA part is {costs.speedup:.1f} times as fast as per token; the base runs at {speed / 1e9:.0f} GFLOP/s, "
        f"{speed / costs.peak_flops:.0%} of what a large matrix product reaches here; drawing and tokenising the batch "
        f"takes {costs.data * 1000:.1f} ms"
    )
    suggest("t2l", "train", "sft", "examples/ten-tasks/recipe.yaml")


@app.command()
def recon(
    batch: Annotated[int, typer.Option(min=1, help="Adapters in a step.")] = 8,
    layers: Annotated[int, typer.Option(min=1, help="Layers, each with one module.")] = 8,
    hidden: Annotated[int, typer.Option(min=1, help="Features in and out of the module.")] = 2048,
    repeat: Annotated[int, typer.Option(min=1, help="Times to measure each way.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Time the reconstruction error of delta W, with and without forming delta W.

    Example: t2l bench recon --hidden 1024
    """
    quiet()
    from text2lora.evaluation.bench_train import time_recon

    with err.status("reconstructing"):
        costs = time_recon(batch, layers, hidden, repeat=repeat)
    if as_json:
        print_json(asdict(costs), indent=2)
        return
    table = FoldedTable("way", "time", "memory")
    table.add_row("Gram matrices", f"{costs.ours * 1000:.1f} ms", size(max(0, costs.ours_memory)))
    table.add_row("delta W", f"{costs.naive * 1000:.1f} ms", size(max(0, costs.naive_memory)))
    show(table)
    out.print(f"delta W takes {costs.naive / costs.ours:.1f} times as long")
    suggest("t2l", "train", "recon", "my-library.yaml")
