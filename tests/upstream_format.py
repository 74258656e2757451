"""Made-up checkpoints in the format of the reference implementation: tiny, random, whole."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml

ARGS = {
    "model_dir": "meta-llama/Llama-3.1-8B-Instruct",
    "emb_model": "Alibaba-NLP/gte-large-en-v1.5",
    "encoder_type": "linear",
    "hypernet_latent_size": 16,
    "head_in_size": 12,
    "training_task": "sft",
    "lr": 2.5e-05,
}
ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]}
SHAPES = {"v_proj": (8, 4), "q_proj": (8, 6)}
LAYERS, RANK, EMBEDDING = 2, 2, 24


def tensors(width: int = 16, task_encoder: dict[str, tuple[int, ...]] | None = None) -> dict[str, torch.Tensor]:
    """The state dict of a large head, in the reference's order."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for kind in ("AB_offset", "mean_recon_target", "std_recon_target"):
        for letter in "AB":
            for name in sorted(SHAPES):
                d_in, d_out = SHAPES[name]
                state[f"{kind}.{letter}.{name}"] = torch.zeros(
                    LAYERS, *((RANK, d_in) if letter == "A" else (d_out, RANK))
                )

    def add(name: str, *shape: int) -> None:
        state[name] = torch.randn(shape, generator=generator) * 0.3

    def linear(name: str, d_in: int, d_out: int) -> None:
        add(f"{name}.weight", d_out, d_in)
        add(f"{name}.bias", d_out)

    def norm(name: str, size: int) -> None:
        add(f"{name}.weight", size)
        add(f"{name}.bias", size)

    if task_encoder is None:
        linear("task_encoder.mlp.0", EMBEDDING, 8)
        norm("task_encoder.mlp.1", 8)
        for kind, count in (("depth", LAYERS), ("type", len(SHAPES))):
            add(f"layer_{kind}_encoder.0.weight", count, 4)
            norm(f"layer_{kind}_encoder.1", 4)
    else:
        for name, shape in task_encoder.items():
            add(name, *shape)
    linear("mixer.1", width, 4 * width)
    linear("mixer.4", 4 * width, width)
    for name in ("mlp1.mlp", "mlp2.mlp"):
        norm(f"{name}.0", width)
        linear(f"{name}.1", width, 4 * width)
        linear(f"{name}.4", 4 * width, width)
    norm("mlp3.0", width)
    linear("mlp3.1", width, 4 * width)
    linear("mlp3.4", 4 * width, 12)
    for name, (d_in, d_out) in SHAPES.items():
        linear(f"heads.{name}", 12, RANK * (d_in + d_out))
    return state


def write_checkpoint(folder: Path, state: object = None, args: dict | None = None, adapter: dict | None = None) -> Path:
    """Write a whole checkpoint with a large head; anything given replaces that part of it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors() if state is None else state, folder / "hypermod.pt")
    (folder / "args.yaml").write_text(yaml.safe_dump(ARGS | (args or {})))
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | (adapter or {})))
    return folder
