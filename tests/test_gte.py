"""The GTE encoder of the released checkpoints, without its repository's code, against a forward written out here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from gte_format import HEADS, RAW, WIDTH, random_weights, write_gte
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from text2lora import CheckpointError, Text2LoraConfig, TextEncoder


@pytest.fixture
def gte_dir(tmp_path: Path, encoder_dir: Path) -> Path:
    return write_gte(tmp_path, encoder_dir)


def config(folder: Path, **kwargs: object) -> Text2LoraConfig:
    return Text2LoraConfig(
        encoder_name_or_path=str(folder),
        encoder_pooling="cls",
        encoder_full_stop=True,
        encoder_dtype="float32",
        **kwargs,
    )


def reference(weights: dict[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    """The first token's state [d] of one text."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), weights[f"new.{name}.weight"], weights[f"new.{name}.bias"], 1e-12)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, weights[f"new.{name}.weight"], weights.get(f"new.{name}.bias"))

    size, factor = WIDTH // HEADS, RAW["rope_scaling"]["factor"]
    powers = torch.arange(0, size, 2).float() / size
    frequencies = (RAW["rope_theta"] * factor) ** -powers / factor ** (2 / size)
    angles = torch.outer(torch.arange(len(ids)).float(), frequencies).repeat(1, 2)

    def rotate(x: torch.Tensor) -> torch.Tensor:  # [heads, tokens, size]
        turned = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1)
        return x * angles.cos() + turned * angles.sin()

    x = (
        weights["new.embeddings.word_embeddings.weight"][ids]
        + weights["new.embeddings.token_type_embeddings.weight"][0]
    )
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(RAW["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        qkv = linear(x, f"{prefix}.attention.qkv_proj").chunk(3, -1)
        q, k, v = (part.view(len(ids), HEADS, size).transpose(0, 1) for part in qkv)
        scores = (rotate(q) @ rotate(k).mT / size**0.5).softmax(-1)
        x = norm(
            x + linear((scores @ v).transpose(0, 1).reshape(len(ids), WIDTH), f"{prefix}.attention.o_proj"),
            f"{prefix}.attn_ln",
        )
        up, gate = linear(x, f"{prefix}.mlp.up_gate_proj").chunk(2, -1)
        x = norm(x + linear(up * F.gelu(gate), f"{prefix}.mlp.down_proj"), f"{prefix}.mlp_ln")
    return x[0]


@torch.no_grad()
def test_embeds_as_its_own_code_would(gte_dir: Path) -> None:
    encoder = TextEncoder.from_config(config(gte_dir))
    texts = ["return the city", "in upper case, and then some more of it.", "12"]
    made = encoder.encode(texts)
    weights = random_weights(len(encoder.tokenizer))
    for text, row in zip(["return the city.", texts[1], "12"], made, strict=True):  # full stop behind letters only
        expected = reference(weights, encoder.tokenizer(text)["input_ids"])
        torch.testing.assert_close(row, F.normalize(expected, dim=0) * WIDTH**0.5, rtol=1e-5, atol=1e-5)


def test_code_of_the_repository_is_not_run(gte_dir: Path) -> None:
    TextEncoder.from_config(config(gte_dir)).encode(["a text"])
    assert not (gte_dir / "ran").exists()


def test_the_frequencies_matter(gte_dir: Path) -> None:
    """A load that ignores the NTK scaling would pass unnoticed otherwise."""
    made = TextEncoder.from_config(config(gte_dir)).encode(["one two three four five six"])
    (gte_dir / "config.json").write_text(
        json.dumps(json.loads((gte_dir / "config.json").read_text()) | {"rope_scaling": None})
    )
    assert (TextEncoder.from_config(config(gte_dir)).encode(["one two three four five six"]) - made).abs().max() > 1e-3


@pytest.mark.parametrize(
    "change",
    [
        {"layer_norm_type": "rms_norm"},
        {"position_embedding_type": "absolute"},
        {"logn_attention_scale": True},
        {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.1}},
        {"rope_scaling": {"type": "yarn", "factor": 2.0}},
    ],
)
def test_unusual_variants_are_refused(gte_dir: Path, change: dict) -> None:
    (gte_dir / "config.json").write_text(json.dumps(json.loads((gte_dir / "config.json").read_text()) | change))
    with pytest.raises(CheckpointError, match=f"unusual {next(iter(change))}"):
        TextEncoder.from_config(config(gte_dir))


def test_weights_that_do_not_fit_are_refused(gte_dir: Path) -> None:
    weights = random_weights(len(AutoTokenizer.from_pretrained(gte_dir)))
    del weights["new.encoder.layer.1.mlp_ln.bias"]
    save_file(weights, gte_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"lacks weights or has unknown ones: layers\.1\.post_mlp_layernorm\.bias"
    ):
        TextEncoder.from_config(config(gte_dir))


def test_embeds_as_the_reference_does_with_cls_pooling(shared: Path) -> None:
    folder = shared / "fixtures" / "text_encoder" / "cls"
    encoder = TextEncoder.from_config(config(folder, encoder_max_length=8192))
    texts = json.loads((folder / "texts.json").read_text())["texts"]
    (expected,) = load_file(folder / "expected_embeddings.safetensors").values()
    torch.testing.assert_close(encoder.encode(texts), expected, rtol=1e-5, atol=1e-5)
