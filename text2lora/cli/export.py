"""`t2l export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from text2lora.cli import options as opt
from text2lora.cli.terminal import App, err, quiet, result, say, suggest
from text2lora.files import atomic_file, size

if TYPE_CHECKING:
    from text2lora.adapter import LoraAdapter

app = App(help="Export an adapter for llama.cpp, as one merged model, or as a zip.\n\nExample: t2l export gguf city")

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write (default: named after the adapter).")
]


@app.command()
def gguf(
    adapter: opt.Adapter,
    subfolder: opt.Subfolder = None,
    output: Output = None,
    base: opt.Base = None,
    dtype: Annotated[
        Literal["f32", "f16", "bf16", "q8_0", "q4_0", "float32", "float16", "bfloat16"] | None,
        typer.Option(
            "--type",
            "--dtype",
            metavar="TYPE",
            help="f32, f16, bf16, or quantised: q8_0 or q4_0 (default: the adapter's).",
        ),
    ] = None,
    scale: opt.Scale = 1.0,
    ollama: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Also write a Modelfile for this Ollama model, for Ollama up to 0.34.0."),
    ] = None,
    force: opt.Force = False,
) -> None:
    """Write the adapter as a GGUF file for llama.cpp. The weights of the base model are not needed.

    Example: t2l export gguf city -o city.gguf
    """
    if ollama is not None and not ollama.strip():
        raise typer.BadParameter("expected an Ollama model, such as llama3.1:8b-instruct-fp16", param_hint="--ollama")
    target = _free(output or Path(f"{_name(adapter, subfolder)}.gguf"), force, ".gguf")
    if ollama:
        _free(target.with_suffix(".Modelfile"), force, ".Modelfile")
    quiet()
    from text2lora.export import export_gguf, write_modelfile

    with err.status("writing"):
        with atomic_file(target, replace=force) as temporary:
            export_gguf(_load(adapter, subfolder, scale), temporary, base=base, dtype=dtype)
        modelfile = write_modelfile(target, ollama) if ollama else None
    _written(target)
    if modelfile:
        _written(modelfile)
        suggest("ollama", "create", target.stem, "-f", str(modelfile))
    else:
        suggest("llama-server", "-m", "BASE.gguf", "--lora", str(target))


@app.command()
def merged(
    adapter: opt.Adapter,
    subfolder: opt.Subfolder = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write (default: named after the adapter).")
    ] = None,
    base: opt.Base = None,
    dtype: opt.Dtype = None,
    scale: opt.Scale = 1.0,
    force: opt.Force = False,
) -> None:
    """Merge the adapter into the base model and write it as one transformers model, with its tokenizer.

    Example: t2l export merged city -o city-model --dtype bfloat16
    """
    target = output or Path(f"{_name(adapter, subfolder)}-merged")
    wanted = opt.parse_dtype(dtype)
    quiet()
    from text2lora.export import export_merged

    with err.status("merging"):
        lora = _load(adapter, subfolder, scale)
        export_merged(lora, target, base=base, dtype=wanted, force=force)
    _written(target)
    suggest("llama.cpp/convert_hf_to_gguf.py", str(target), "--outfile", f"{target.name}.gguf")


@app.command("zip")
def zip_(
    adapter: opt.Adapter,
    subfolder: opt.Subfolder = None,
    output: Output = None,
    scale: opt.Scale = 1.0,
    force: opt.Force = False,
) -> None:
    """Write the adapter's files into a zip, for someone who uses PEFT.

    Example: t2l export zip city -o city.zip
    """
    target = _free(output or Path(f"{_name(adapter, subfolder)}.zip"), force, ".zip")
    quiet()
    from text2lora.export import export_zip

    with atomic_file(target, replace=force) as temporary:
        export_zip(_load(adapter, subfolder, scale), temporary)
    _written(target)
    suggest("unzip", str(target), "-d", f"{target.stem}-unzipped")


def _name(adapter: str, subfolder: str | None) -> str:
    return Path(adapter, subfolder or "").resolve().name


def _free(path: Path, force: bool, ending: str) -> Path:
    """The file to write, after a check that nothing else is lost: not the adapter's own files, nor each other."""
    from text2lora.errors import OutputError

    if path.suffix != ending:
        raise OutputError(f"{path} does not end in {ending}: choose a name that does")
    if path.exists() and not force:
        raise OutputError(f"{path} exists: choose another name, or replace it with --force")
    return path


def _load(adapter: str, subfolder: str | None, scale: float) -> LoraAdapter:
    from text2lora.adapter import LoraAdapter

    return LoraAdapter.from_pretrained(adapter, subfolder).scaled(scale)


def _written(path: Path) -> None:
    files = path.rglob("*") if path.is_dir() else [path]
    total = sum(file.stat().st_size for file in files if file.is_file())
    say(f"[bold green]Written[/] {escape(str(path))}  ({size(total)})")
    result(path)
