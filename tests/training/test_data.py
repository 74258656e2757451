"""Embedded descriptions, and how they are blurred."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import randomise
from transformers import BertModel

from text2lora import TextEncoder
from text2lora.training.data import DescriptionBank, perturb

TEXTS = ["upper case the city", "a", "the city, then the case"]


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_bank_gives_what_the_encoder_gives(make_config, pooling: str) -> None:
    task_encoder = "tokens" if pooling == "none" else "pooled"
    encoder = TextEncoder.from_config(make_config(encoder_pooling=pooling, task_encoder=task_encoder))
    bank = DescriptionBank(encoder, TEXTS)
    assert len(bank) == 3
    for rows in ([0, 1, 2], [2, 0], [1], [1, 1]):
        expected = encoder.encode([TEXTS[i] for i in rows])
        assert bank[rows].dtype == torch.float32
        torch.testing.assert_close(bank[rows], expected, rtol=2e-3, atol=2e-3)  # kept in half precision


def test_cache_is_read_again(encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "descriptions.safetensors"
    first = DescriptionBank(encoder, TEXTS, cache)
    assert load_file(cache)["lengths"].tolist() == [1, 1, 1]
    monkeypatch.setattr(TextEncoder, "encode", lambda *args: pytest.fail("encoded again"))
    assert torch.equal(DescriptionBank(encoder, TEXTS, cache)[[0, 1, 2]], first[[0, 1, 2]])


def test_cache_of_other_descriptions_is_not_used(encoder: TextEncoder, tmp_path: Path) -> None:
    cache = tmp_path / "descriptions.safetensors"
    DescriptionBank(encoder, TEXTS, cache)
    other = DescriptionBank(encoder, TEXTS[::-1], cache)
    torch.testing.assert_close(other[[0]], encoder.encode(TEXTS[2:]), rtol=2e-3, atol=2e-3)


def test_cache_of_an_encoder_that_was_trained_on_in_place_is_not_used(
    make_config, encoder_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(encoder_dir, tmp_path / "encoder")
    config = make_config(encoder_name_or_path=str(tmp_path / "encoder"))
    DescriptionBank(TextEncoder.from_config(config), TEXTS, tmp_path / "cache.safetensors")
    changed = BertModel.from_pretrained(encoder_dir)
    randomise(changed, seed=9)
    changed.save_pretrained(tmp_path / "encoder")
    encoder = TextEncoder.from_config(config)
    again = DescriptionBank(encoder, TEXTS, tmp_path / "cache.safetensors")
    torch.testing.assert_close(again[[0, 1, 2]], encoder.encode(TEXTS), rtol=1e-3, atol=1e-3)


def test_noise_leaves_padding_zero_and_keeps_the_first_token() -> None:
    task_emb = torch.randn(4, 6, 8)
    task_emb[1, 3:] = 0
    made = perturb(task_emb, 0.5, 0.9)
    assert not made[1, 3:].any()
    assert made[:, 0].any(-1).all()
    assert not made.ne(0).any(-1)[:, 1:].all()
    kept = made.ne(0).any(-1)
    assert torch.equal(made[~kept], torch.zeros_like(made[~kept]))


def test_noise_has_its_standard_deviation() -> None:
    task_emb = torch.ones(200, 100)
    assert (perturb(task_emb, 0.1, 0.5) - task_emb).std().item() == pytest.approx(0.1, rel=0.05)


def test_share_of_tokens_is_left_out() -> None:
    made = perturb(torch.ones(100, 101, 2), 0.0, 0.3)
    assert made[:, 1:, 0].mean().item() == pytest.approx(0.7, abs=0.02)


def test_without_noise_nothing_changes() -> None:
    task_emb = torch.randn(3, 8)
    assert torch.equal(perturb(task_emb, 0.0, 0.0), task_emb)


def test_embeddings_too_large_for_half_precision_are_kept(make_config) -> None:
    encoder = TextEncoder.from_config(make_config(encoder_normalize=False))
    with torch.no_grad():
        for norm in encoder.model.modules():
            if isinstance(norm, torch.nn.LayerNorm):
                norm.weight.mul_(1e6)
    bank = DescriptionBank(encoder, TEXTS)
    assert encoder.encode(TEXTS).abs().max() > torch.finfo(torch.half).max
    assert torch.equal(bank[[0, 1, 2]], encoder.encode(TEXTS))
