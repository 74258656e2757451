"""A tiny random text encoder in the format of Alibaba-NLP/gte-*: the hub's key names, and code that must not run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

RAW = {
    "architectures": ["NewModel"],
    "auto_map": {"AutoConfig": "configuration.NewConfig", "AutoModel": "modeling.NewModel"},
    "model_type": "new",
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": 32,
    "layer_norm_eps": 1e-12,
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pack_qkv": True,
    "pad_token_id": 0,
    "position_embedding_type": "rope",
    "rope_scaling": {"factor": 2.0, "type": "ntk"},
    "rope_theta": 500,
    "type_vocab_size": 2,
    "unpad_inputs": False,
    "use_memory_efficient_attention": False,
}
HEADS, WIDTH, HIDDEN = RAW["num_attention_heads"], RAW["hidden_size"], RAW["intermediate_size"]


def random_weights(vocab_size: int) -> dict[str, torch.Tensor]:
    shapes = {
        "embeddings.word_embeddings.weight": (vocab_size, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,),
    }
    for layer in range(RAW["num_hidden_layers"]):
        shapes |= {
            f"encoder.layer.{layer}.{name}": shape
            for name, shape in {
                "attention.qkv_proj.weight": (3 * WIDTH, WIDTH),
                "attention.qkv_proj.bias": (3 * WIDTH,),
                "attention.o_proj.weight": (WIDTH, WIDTH),
                "attention.o_proj.bias": (WIDTH,),
                "mlp.up_gate_proj.weight": (2 * HIDDEN, WIDTH),
                "mlp.down_proj.weight": (WIDTH, HIDDEN),
                "mlp.down_proj.bias": (WIDTH,),
                "attn_ln.weight": (WIDTH,),
                "attn_ln.bias": (WIDTH,),
                "mlp_ln.weight": (WIDTH,),
                "mlp_ln.bias": (WIDTH,),
            }.items()
        }
    generator = torch.Generator().manual_seed(0)
    return {f"new.{name}": torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}


def write_gte(folder: Path, tokenizer_dir: Path) -> Path:
    """Write the encoder with a tokenizer of another folder. If its code ever ran, a file `ran` would be there."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    tokenizer.save_pretrained(folder)
    save_file(random_weights(len(tokenizer)), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(RAW | {"vocab_size": len(tokenizer)}))
    for name in ("configuration", "modeling"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass New{name}: pass\n")
    return folder
