"""Weighted sums of adapters, against PEFT's."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from test_adapter import logits, make_adapter

from text2lora import CheckpointError, LoraAdapter, combine, library_version
from text2lora.errors import InvalidArgumentError


def deltas(adapter: LoraAdapter) -> dict[str, torch.Tensor]:
    """The plain reference: scaling * B A of each module."""
    a_keys = [key for key in adapter.weights if "lora_A" in key]
    return {
        key: adapter.spec.scaling * adapter.weights[key.replace("lora_A", "lora_B")] @ adapter.weights[key]
        for key in a_keys
    }


def weighted(adapters: list[LoraAdapter], weights: list[float]) -> dict[str, torch.Tensor]:
    each = [deltas(adapter) for adapter in adapters]
    return {key: sum(w * delta[key] for w, delta in zip(weights, each, strict=True)) for key in each[0]}


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], atol: float = 1e-5) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=1e-4, atol=atol)


@pytest.mark.parametrize("method", ["cat", "linear", "svd"])
@pytest.mark.parametrize("weights", [[0.7, 0.3], [1.0, -0.5], [0.0, 2.0]])
def test_equals_peft(load_base, ids, method: str, weights: list[float]) -> None:
    # without rsLoRA: PEFT 0.21 keeps `use_rslora` in the sum's config, so that its sum is sqrt(r) too strong
    adapters = [make_adapter(1, use_rslora=False), make_adapter(2, use_rslora=False, lora_alpha=3.0)]
    model = adapters[1].apply_to(adapters[0].apply_to(load_base()), "second")
    model.add_weighted_adapter(["default", "second"], weights, "sum", combination_type=method)
    model.set_adapter("sum", inference_mode=True)
    made = combine(adapters, weights, method).apply_to(load_base())
    torch.testing.assert_close(logits(made, ids), logits(model, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("method", "r"), [("cat", 4), ("svd", 2)])
def test_pefts_own_sum_of_rslora_adapters_is_too_strong_by_the_root_of_its_rank(load_base, method, r) -> None:
    """As docs/how-to/many.md warns: the day this fails, that warning and the comment above can go."""
    adapters = [make_adapter(1), make_adapter(2)]
    model = adapters[1].apply_to(adapters[0].apply_to(load_base()), "second")
    model.add_weighted_adapter(["default", "second"], [0.7, 0.3], "sum", combination_type=method)
    made = deltas(combine(adapters, [0.7, 0.3], method))
    modules = dict(model.named_modules())
    theirs = {key: modules[key.removesuffix(".lora_A.weight")].get_delta_weight("sum") for key in made}
    close(theirs, {key: r**0.5 * delta for key, delta in made.items()})


def test_cat_is_the_exact_sum_under_any_scaling_and_rank() -> None:
    adapters = [make_adapter(1, r=2), make_adapter(2, r=3, use_rslora=False), make_adapter(3, r=4, lora_alpha=1.5)]
    weights = [0.5, -1.25, 2.0]
    made = combine(adapters, weights)
    assert (made.spec.r, made.spec.lora_alpha, made.spec.use_rslora) == (9, 9.0, False)
    close(deltas(made), weighted(adapters, weights))


def test_svd_is_the_best_sum_of_its_rank() -> None:
    adapters = [make_adapter(1, r=2), make_adapter(2, r=3)]
    made = combine(adapters, [0.6, 0.4], "svd")
    assert made.spec.r == 3
    for key, delta in weighted(adapters, [0.6, 0.4]).items():
        u, s, vh = torch.linalg.svd(delta, full_matrices=False)
        torch.testing.assert_close(deltas(made)[key], u[:, :3] * s[:3] @ vh[:3], rtol=1e-4, atol=1e-5)
    wide = [make_adapter(seed, r=20) for seed in (1, 2)]  # more ranks than v_proj has features
    full = combine(wide, [1, 1], "svd")
    assert {key: w.shape for key, w in full.weights.items()} == {key: w.shape for key, w in wide[0].weights.items()}
    key = next(key for key in deltas(full) if "v_proj" in key)  # whose delta W has no more than these ranks
    torch.testing.assert_close(deltas(full)[key], weighted(wide, [1, 1])[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["cat", "linear", "svd"])
def test_one_adapter_stays_what_it_is(method: str) -> None:
    close(deltas(combine([make_adapter()], [1.0], method)), deltas(make_adapter()))


def test_the_sum_names_its_parts_and_keeps_the_dtype(tmp_path) -> None:
    made = combine([make_adapter(1).to(torch.bfloat16), make_adapter(2)], [0.7, 0.3])
    assert made.metadata["description"] == '0.7 x "Do it." + 0.3 x "Do it."'
    assert made.metadata["combined by"] == "cat"
    assert {value.dtype for value in made.weights.values()} == {torch.bfloat16}
    again = LoraAdapter.from_pretrained(made.save_pretrained(tmp_path / "sum"))
    assert all(torch.equal(again.weights[key], value) for key, value in made.weights.items())


def test_the_sum_claims_only_what_is_true_of_all_its_parts() -> None:
    shared = {"checkpoint": "org/t2l", "encoder": "org/gte", "text2lora": "0.0.1", "scale": "2"}
    metadata = [
        {"adapter": "me/a", "adapter_commit": "1" * 40, "checkpoint_commit": "a" * 40, "description": "One."},
        {"adapter": "me/b", "adapter_commit": "2" * 40, "checkpoint_commit": "b" * 40, "description": "Two."},
        {"checkpoint_commit": "b" * 40, "description": "Three."},
    ]
    parts = [
        dataclasses.replace(make_adapter(i, revision=f"r{i}" if i else None), metadata=shared | found)
        for i, found in enumerate(metadata)
    ]
    made = combine(parts, [1, 2, 3], "svd")
    assert made.metadata == {
        "checkpoint": "org/t2l",
        "encoder": "org/gte",
        "part_1": f"me/a@{'1' * 40}",
        "part_2": f"me/b@{'2' * 40}",
        "description": '1 x "One." + 2 x "Two." + 3 x "Three."',
        "combined by": "svd",
        "text2lora": library_version(),
    }
    assert made.spec.revision is None
    again = combine([made, made], [1, 1])
    assert again.metadata["combined by"] == "cat"
    assert not any(key.startswith("part_") for key in again.metadata)
    assert combine(parts[2:], [1]).metadata["checkpoint_commit"] == "b" * 40


def test_what_does_not_go_together_is_refused() -> None:
    one, two = make_adapter(1), make_adapter(2)
    with pytest.raises(InvalidArgumentError, match="expected 'cat', 'linear' or 'svd'"):
        combine([one, two], [1, 1], "ties")
    for weights in ([1.0], [1.0, float("nan")], [], [1, "x"], ["x", "y"], None):
        said = f"weights are {weights}: expected a finite number for each of the 2 adapters"
        with pytest.raises(InvalidArgumentError, match=re.escape(said)):
            combine([one, two], weights)
    with pytest.raises(InvalidArgumentError, match=r"adapters are \[\]: expected a list of LoraAdapters, at least one"):
        combine([], [])
    with pytest.raises(CheckpointError, match="different modules or shapes"):
        combine([one, make_adapter(2, layers=1)], [1, 1])
    with pytest.raises(CheckpointError, match=r"ranks \[2, 3\]: 'linear' needs adapters of the same rank"):
        combine([one, make_adapter(2, r=3)], [1, 1], "linear")
    with pytest.raises(CheckpointError, match="for my/base and your/base"):
        combine([make_adapter(base_model_name_or_path=f"{who}/base") for who in ("my", "your")], [1, 1])


def test_a_string_is_not_a_list_of_weights(t2l) -> None:
    for weights in (b"73", bytearray(b"73"), {"7": 1, "3": 2}, {7.0, 3.0}):
        with pytest.raises(InvalidArgumentError, match="weights are "):
            combine([make_adapter(0), make_adapter(1)], weights)
    with pytest.raises(InvalidArgumentError, match="weights are '73'"):
        combine([make_adapter(0), make_adapter(1)], "73")
    with pytest.raises(InvalidArgumentError, match="weights are '73'"):
        t2l.interpolate(["the city", "lower case"], "73")
