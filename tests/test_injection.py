"""Per-sample LoRA in training equals PEFT's LoRA in use."""

from __future__ import annotations

import pytest
import torch

from text2lora.injection import LoraInjector

MODULES = ("v_proj", "q_proj", "down_proj")


@pytest.mark.parametrize("rslora", [True, False])
@torch.no_grad()
def test_forward_equals_peft_for_a_batch_of_different_adapters(make_model, load_base, rslora: bool) -> None:
    model, base = make_model(MODULES, use_rslora=rslora), load_base()
    task_emb, ids = torch.randn(3, 24), torch.randint(5, 261, (6, 7))
    plain = base(ids).logits
    with LoraInjector(base, model.config).inject(model(task_emb)):
        made = base(ids).logits
    for i, adapter in enumerate(model.generate_lora(task_emb=task_emb)):
        rows = slice(2 * i, 2 * i + 2)  # two neighbouring rows an adapter
        expected = adapter.apply_to(load_base())(ids[rows]).logits
        assert (expected - plain[rows]).abs().max() > 0.1
        torch.testing.assert_close(made[rows], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_base_is_as_before_after_the_block_and_after_an_error(make_model, base, ids) -> None:
    model, plain = make_model(MODULES), base(ids).logits
    injector = LoraInjector(base, model.config)
    with pytest.raises(ZeroDivisionError), injector.inject(model(torch.randn(1, 24))):
        _ = 1 / 0
    assert torch.equal(base(ids).logits, plain)


def test_gradient_reaches_the_weights_passed_and_nothing_else(make_model, base, ids) -> None:
    model = make_model(MODULES)
    base.requires_grad_(False)
    weights = {
        name: (a.detach().requires_grad_(), b.detach().requires_grad_())
        for name, (a, b) in model(torch.randn(2, 24)).items()
    }
    with LoraInjector(base, model.config).inject(weights):
        base(ids).logits.square().mean().backward()
    assert all(factor.grad.abs().sum() > 0 for factors in weights.values() for factor in factors)
    assert all(p.grad is None for p in base.parameters())


def test_no_layer_costs_a_gradient_as_large_as_all_layers(make_model, base, ids) -> None:
    """A slice's gradient is a tensor of zeros as large as what it was cut from: a fifth of a training step."""
    model = make_model(MODULES)
    weights = model(torch.randn(2, 24))
    leaves = {name: (a.detach().requires_grad_(), b.detach().requires_grad_()) for name, (a, b) in weights.items()}
    base.requires_grad_(False)
    with LoraInjector(base, model.config).inject(leaves), torch.profiler.profile() as profile:
        base(ids).logits.square().mean().backward()
    names = {event.key for event in profile.key_averages()}
    assert "UnbindBackward0" in names
    assert "aten::select_backward" not in names


@torch.no_grad()
def test_adapters_take_the_dtype_of_the_base(make_model, load_base, ids) -> None:
    model, base = make_model(MODULES), load_base(dtype=torch.bfloat16)
    with LoraInjector(base, model.config).inject(model(torch.randn(2, 24))):
        assert base(ids).logits.dtype == torch.bfloat16
