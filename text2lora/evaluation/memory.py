"""How much memory an adapter takes to make, beside the weights that it needs; on random weights of the real sizes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, GteConfig, GteModel

from text2lora.base import packaged_model
from text2lora.errors import MissingExtraError
from text2lora.evaluation.bench import shape_config
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


TELL_PEAK = """
import atexit, pathlib, re, resource, sys

def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # rusage would count the parent's memory at the fork
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

atexit.register(lambda: print(peak()))
"""
"""Code that ends a process with its largest resident set, in bytes."""


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


def peak_of(code: str, **env: str) -> int:
    """The largest resident set of a Python process that runs `code`, in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", f"{TELL_PEAK}\n{code}"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.strip().split("\n")[-1])
