"""The peak memory of a whole `t2l make`, beside the weights that it needs; on random weights of the real sizes.

    python examples/benchmarks/memory.py --shape llama-8b

writes gigabytes into a temporary folder.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from generation import shape_config
from measuring import markdown, peak_of
from transformers import AutoTokenizer, GteConfig, GteModel

from text2lora.base import packaged_model
from text2lora.errors import MissingExtraError
from text2lora.files import size
from text2lora.installation import install_command
from text2lora.modeling import Text2LoraModel

BASE_PARAMETERS = {"llama-8b": 8_030_261_248, "gemma-2b": 2_614_341_888}
"""Of the base models; loaded in bfloat16 they take two bytes each."""

GTE_LARGE = {
    "vocab_size": 30528,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 8192,
    "type_vocab_size": 2,
}
"""The sizes of gte-large-en-v1.5, the released checkpoints' text encoder."""


@dataclass(frozen=True)
class MemoryUse:
    """Bytes.

    Attributes:
        weights: hypernetwork and text encoder.
        peak: the largest resident set of a whole `t2l make`.
        imports: the largest resident set of a process that imports torch, transformers and peft.
        base: what the base model's weights in bfloat16 would add, by its number of parameters.
    """

    weights: int
    peak: int
    imports: int
    base: int


def measure_memory(shape: str, dtype: torch.dtype = torch.float32) -> MemoryUse:
    """Write a checkpoint and an encoder of the real sizes to a temporary folder, and run `t2l make` on them.

    Raises:
        MissingExtraError: the extra `demo`, whose tokenizer is borrowed, is not installed.
    """
    tokenizer = packaged_model("sentence-transformers/all-MiniLM-L6-v2")
    if tokenizer is None:
        raise MissingExtraError(f"a tokenizer is needed: {install_command('demo')}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder / "encoder")
        encoder = GteModel(GteConfig(**GTE_LARGE))
        encoder.save_pretrained(folder / "encoder")
        config = shape_config(shape)
        config.encoder_name_or_path, config.encoder_pooling = str(folder / "encoder"), "cls"
        model = Text2LoraModel(config).to(dtype)
        model.save_pretrained(folder / "checkpoint")
        weights = sum(p.nbytes for part in (encoder, model) for p in part.parameters())
        del encoder, model
        make = ["make", "Answer in one word.", "-m", folder / "checkpoint", "-o", folder / "adapter", "--json"]
        code = f"import sys; sys.argv = {['t2l', *map(str, make)]}; from text2lora.cli import main; main()"
        return MemoryUse(
            weights=weights,
            peak=peak_of(code),
            imports=peak_of("import torch, transformers, peft"),
            base=2 * BASE_PARAMETERS[shape],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=list(BASE_PARAMETERS), default="llama-8b")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="dtype of the weights"
    )
    options = parser.parse_args()
    use = measure_memory(options.shape, getattr(torch, options.dtype))
    head = [
        f"Hypernetwork for {options.shape}",
        "Hypernetwork and encoder",
        "Peak of `t2l make`",
        "The base model would add",
    ]
    peak = f"{size(use.peak)} ({use.peak / use.weights:.2f}x)"
    print(markdown([head, [options.dtype, size(use.weights), peak, size(use.base)]]))
    print(f"\nThe imports alone: {size(use.imports)}")


if __name__ == "__main__":
    main()
