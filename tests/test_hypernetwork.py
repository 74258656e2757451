"""The hypernetwork, against plain loops. tests/test_upstream.py holds it against the reference implementation."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F

from text2lora import Text2LoraModel
from text2lora.hypernetwork import MixtureHyperNetwork, TrunkHyperNetwork

TRUNK_HEADS = ["large", "medium", "rankwise", "small"]
HEADS = [*TRUNK_HEADS, "mixture"]
VARIANTS = [*itertools.product(HEADS, ["pooled", "tokens"], [True, False])]


def variant(make_model, head: str, task_encoder: str = "pooled", offset: bool = True) -> Text2LoraModel:
    pooling = "none" if task_encoder == "tokens" else "mean"
    return make_model(
        ("v_proj", "q_proj", "down_proj"), head=head, task_encoder=task_encoder, encoder_pooling=pooling, offset=offset
    )


def task_embeddings(task_encoder: str, n: int) -> torch.Tensor:
    """[n, d], or [n, tokens, d] with a padded end in all rows but the first."""
    if task_encoder == "pooled":
        return torch.randn(n, 24)
    states = torch.randn(n, 6, 24)
    for i in range(1, n):
        states[i, 6 - i :] = 0
    return states


@pytest.mark.parametrize(("head", "task_encoder", "offset"), VARIANTS)
@torch.no_grad()
def test_every_module_gets_a_and_b_of_its_shape(make_model, head: str, task_encoder: str, offset: bool) -> None:
    weights = variant(make_model, head, task_encoder, offset)(task_embeddings(task_encoder, 2))
    shapes = {name: (tuple(a.shape), tuple(b.shape)) for name, (a, b) in weights.items()}
    assert shapes == {
        "v_proj": ((2, 2, 4, 32), (2, 2, 16, 4)),
        "q_proj": ((2, 2, 4, 32), (2, 2, 32, 4)),
        "down_proj": ((2, 2, 4, 48), (2, 2, 32, 4)),
    }
    assert list(weights) == ["v_proj", "q_proj", "down_proj"]


@pytest.mark.parametrize(("head", "task_encoder"), [*itertools.product(HEADS, ["pooled", "tokens"])])
@torch.no_grad()
def test_batch_of_two_equals_two_of_one(make_model, head: str, task_encoder: str) -> None:
    model = variant(make_model, head, task_encoder)
    task_emb = task_embeddings(task_encoder, 2)
    both = model(task_emb)
    for i in range(2):
        alone = model(task_emb[i : i + 1, : 6 - i] if task_encoder == "tokens" else task_emb[i : i + 1])
        for name in both:
            torch.testing.assert_close(both[name][0][i], alone[name][0][0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(both[name][1][i], alone[name][1][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_adapters_depend_on_the_description_the_layer_and_the_module(make_model, head: str) -> None:
    weights = variant(make_model, head, offset=False)(torch.randn(2, 24))
    a, b = weights["q_proj"]
    for factor in (a, b):
        assert not torch.allclose(factor[0], factor[1], atol=1e-3)
        assert not torch.allclose(factor[:, 0], factor[:, 1], atol=1e-3)
    assert not torch.allclose(a, weights["v_proj"][0], atol=1e-3)
    assert torch.linalg.matrix_rank(a[0, 0]) == 4  # ranks differ from each other


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_a_fresh_model_changes_nothing(make_config, base, ids, head: str) -> None:
    model = Text2LoraModel(make_config(head=head)).eval()
    weights = model(torch.randn(3, 24))
    for a, b in weights.values():
        assert b.abs().max() == 0
        assert a.abs().min(-1).values.max() > 0
    expected = base(ids).logits
    adapter = model.generate_lora(task_emb=torch.randn(1, 24))[0]
    torch.testing.assert_close(adapter.apply_to(base)(ids).logits, expected, rtol=0, atol=0)


def linear(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer.weight @ x + (0 if layer.bias is None else layer.bias)


def residual_free(block: torch.nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """LayerNorm, Linear, SiLU, Linear, SiLU on one vector."""
    norm, first, second = block[0], block[1], block[4]
    x = (x - x.mean()) / (x.var(unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
    return F.silu(linear(second, F.silu(linear(first, x))))


def reference(
    net: TrunkHyperNetwork, task_emb: torch.Tensor, layer: int, module: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper's forward for one description, one layer and one module, a vector at a time."""
    config = net.config
    name = config.target_modules[module]
    (d_in, d_out), r, head = config.module_shapes[name], config.lora_r, net.heads[name]
    z = net.task_encoder.norm(linear(net.task_encoder.proj, task_emb))
    e_layer = net.layer_embedding[1](net.layer_embedding[0].weight[layer])
    e_module = net.module_embedding[1](net.module_embedding[0].weight[module])
    x = torch.cat([z, e_layer, e_module])
    x = F.silu(linear(net.mixer[4], F.silu(linear(net.mixer[1], x))))
    x = x + residual_free(net.block1, x)

    def block2(x: torch.Tensor) -> torch.Tensor:
        return x + residual_free(net.block2, x)

    def finish(x: torch.Tensor) -> torch.Tensor:
        return linear(head, residual_free(net.block3, x))

    def place(x: torch.Tensor, rank: int) -> torch.Tensor:
        if config.rank_position == "learned":
            position = net.rank_embedding[1](net.rank_embedding[0].weight[rank])
            return x + block2(position) if config.head == "small" else block2(x + position)
        half = len(x) // 2
        turned = x.clone()
        for i in range(half):  # pairs (i, i + half) turn by rank * 10000^(-2i/L)
            angle = torch.tensor(rank * 10000.0 ** (-2 * i / len(x)))
            turned[i] = x[i] * angle.cos() - x[i + half] * angle.sin()
            turned[i + half] = x[i + half] * angle.cos() + x[i] * angle.sin()
        return block2(turned)

    if config.head == "large":
        out = finish(block2(x))
        a, b = out[: r * d_in].view(r, d_in), out[r * d_in :].view(r, d_out).T
    elif config.head == "rankwise":
        out = torch.stack([finish(place(x, rank)) for rank in range(r)])
        a, b = out[:, :d_in], out[:, d_in:].T
    else:
        both = []
        for factor in (0, 1):
            y = block2(x + net.factor_norm(net.factor_embedding[module, factor]))
            if config.head == "medium":
                both.append(finish(y).view(r, max(d_in, d_out)))
            else:
                both.append(torch.stack([finish(place(y, rank)) for rank in range(r)]))
        a, b = both[0][:, :d_in], both[1][:, :d_out].T
    if config.output_std:
        a, b = a * net.std_a[name][layer], b * net.std_b[name][layer]
    if config.offset:
        a, b = a + net.offset_a[name][layer], b + net.offset_b[name][layer]
    return a, b


@pytest.mark.parametrize(
    ("head", "more"),
    [
        *itertools.product(TRUNK_HEADS, [{"offset": False}, {"output_std": True}, {"head_bias": False}]),
        *itertools.product(["rankwise", "small"], [{"rank_position": "rotary"}, {"lora_r": 1}]),
    ],
)
@torch.no_grad()
def test_forward_equals_plain_loops(make_model, head: str, more: dict) -> None:
    net = make_model(("v_proj", "q_proj", "down_proj"), head=head, **more).hypernet
    task_emb = torch.randn(2, 24)
    weights = net(task_emb)
    for layer, (module, name) in itertools.product(range(2), enumerate(net.config.target_modules)):
        for task in range(2):
            a, b = reference(net, task_emb[task], layer, module)
            torch.testing.assert_close(weights[name][0][task, layer], a, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(weights[name][1][task, layer], b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [{"offset": False}, {"output_std": True}, {}])
@torch.no_grad()
def test_a_mixture_is_a_sum_of_shared_matrices(make_model, more: dict) -> None:
    """Every layer's matrices, one at a time, from the coefficients and the columns of the heads."""
    net = make_model(("v_proj", "q_proj", "down_proj"), head="mixture", **more).hypernet
    assert isinstance(net, MixtureHyperNetwork)
    config, task_emb = net.config, torch.randn(2, 24)
    weights, h, r = net(task_emb), config.head_input_size, config.lora_r
    for task, layer, (module, name) in itertools.product(range(2), range(2), enumerate(config.target_modules)):
        z = net.task_encoder.norm(linear(net.task_encoder.proj, task_emb[task]))
        mixing = linear(net.coefficients[1], F.gelu(z)).view(2, 3, 2, h)[layer, module]
        d_in, d_out = config.module_shapes[name]
        a = sum(mixing[0, k] * net.heads[name]["a"].weight[:, k].view(r, d_in) for k in range(h))
        b = sum(mixing[1, k] * net.heads[name]["b"].weight[:, k].view(r, d_out) for k in range(h)).T
        if config.output_std:
            a, b = a * net.std_a[name][layer], b * net.std_b[name][layer]
        if config.offset:
            a, b = a + net.offset_a[name][layer], b + net.offset_b[name][layer]
        torch.testing.assert_close(weights[name][0][task, layer], a, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weights[name][1][task, layer], b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_and_its_length_do_not_matter_to_the_token_encoder(make_model) -> None:
    encoder = variant(make_model, "large", "tokens").hypernet.task_encoder
    states = torch.randn(1, 5, 24)
    torch.testing.assert_close(encoder(F.pad(states, (0, 0, 0, 7))), encoder(states), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_every_token_matters_to_the_token_encoder(make_model) -> None:
    encoder = variant(make_model, "large", "tokens").hypernet.task_encoder
    states = torch.randn(1, 5, 24)
    for token in range(5):
        changed = states.clone()
        changed[0, token] += 1.0 * torch.randn(24)
        assert (encoder(changed) - encoder(states)).abs().max() > 1e-4


def test_dropout_acts_in_training_only(make_model) -> None:
    model = copy.deepcopy(make_model(dropout=0.5))
    task_emb = torch.randn(1, 24)
    assert torch.equal(model(task_emb)["q_proj"][0], model(task_emb)["q_proj"][0])
    model.train()
    assert not torch.equal(model(task_emb)["q_proj"][0], model(task_emb)["q_proj"][0])


@pytest.mark.parametrize(("head", "task_encoder"), [*itertools.product(HEADS, ["pooled", "tokens"])])
def test_every_weight_gets_a_gradient(make_model, head: str, task_encoder: str) -> None:
    model = copy.deepcopy(variant(make_model, head, task_encoder))
    weights = model(task_embeddings(task_encoder, 2))
    sum((a.square().sum() + b.square().sum()) for a, b in weights.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
