"""What the commands share."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from rich.console import Console

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

Model = Annotated[str, typer.Option("--model", "-m", help="A checkpoint: `nano`, a folder or a Hub id.")]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]

DTYPES = ("float32", "bfloat16", "float16")


def quiet() -> None:
    """Keep the bars and warnings of the libraries underneath off the terminal."""
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()  # retries of an unreachable Hub; the error at the end says it in one line


def parse_dtype(name: str | None) -> Any:
    """A torch dtype by its name; None stays None."""
    if name is None:
        return None
    if name not in DTYPES:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(DTYPES)}", param_hint="--dtype")
    import torch

    return getattr(torch, name)


def parse_device(name: str) -> str:
    """`auto` is the GPU where there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise typer.BadParameter(f"{name!r} cannot be used here ({reason})", param_hint="--device") from error
    return name


def size(num_bytes: int) -> str:
    """A size for people: 152 kB."""
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def sample_input(base: str | None) -> str:
    """An input that the base understands, quoted for a shell."""
    from text2lora.hub import BASES

    if base in BASES:
        from text2lora.nano import sample_record

        return sample_record("order", 7)[0].replace("$", "\\$")
    return "your input"
