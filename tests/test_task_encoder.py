"""Task encoders with a codebook, against plain formulas. The other two are tested with the hypernetwork."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

KINDS = ["softmax", "vq", "discrete"]


@pytest.fixture
def encoder(make_model, request):
    model = make_model(task_encoder=request.param, codebook_size=6, encoder_pooling="cls")
    return model.hypernet.task_encoder


def mlp(encoder, x: torch.Tensor) -> torch.Tensor:
    first, second = encoder.mlp[0], encoder.mlp[3]
    return second.weight @ F.silu(first.weight @ x + first.bias) + second.bias


@pytest.mark.parametrize("encoder", ["softmax"], indirect=True)
@torch.no_grad()
def test_softmax_mixes_the_codes(encoder) -> None:
    x = torch.randn(24)
    shares = mlp(encoder, x).exp() / mlp(encoder, x).exp().sum()
    expected = encoder.norm(sum(share * code for share, code in zip(shares, encoder.codebook, strict=True)))
    torch.testing.assert_close(encoder(x[None])[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoder", ["vq"], indirect=True)
@torch.no_grad()
def test_vq_takes_the_nearest_code(encoder) -> None:
    for x in torch.randn(10, 24):
        distances = [(mlp(encoder, x) - code).norm() for code in encoder.codebook]
        expected = encoder.norm(encoder.codebook[distances.index(min(distances))])
        torch.testing.assert_close(encoder(x[None])[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoder", ["discrete"], indirect=True)
@torch.no_grad()
def test_discrete_gives_one_hot_vectors(encoder) -> None:
    x = torch.randn(10, 24)
    expected = F.one_hot(torch.stack([mlp(encoder, row).argmax() for row in x]), 6).float()
    torch.testing.assert_close(encoder(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_that_learns_gets_a_gradient(make_model, kind: str) -> None:
    model = make_model(task_encoder=kind, codebook_size=6, encoder_pooling="cls")
    model.zero_grad()
    sum((a.square().sum() + b.square().sum()) for a, b in model(torch.randn(3, 24)).values()).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == (["hypernet.task_encoder.codebook"] if kind == "vq" else [])


@pytest.mark.parametrize("kind", KINDS)
def test_saved_models_load_with_every_kind(make_model, tmp_path, kind: str) -> None:
    model = make_model(task_encoder=kind, codebook_size=6, encoder_pooling="cls")
    model.save_pretrained(tmp_path)
    task_emb = torch.randn(1, 24)
    loaded = type(model).from_pretrained(tmp_path)
    for key, value in model.generate_lora(task_emb=task_emb)[0].weights.items():
        assert torch.equal(loaded.generate_lora(task_emb=task_emb)[0].weights[key], value)
