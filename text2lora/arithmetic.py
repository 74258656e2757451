"""Weighted sums of adapters, as PEFT's `add_weighted_adapter` makes them, without a base model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Literal, get_args

import torch

from text2lora.adapter import LoraAdapter
from text2lora.arguments import checked
from text2lora.errors import CheckpointError, InvalidArgumentError, shown
from text2lora.lora import LoraSpec, lora_key
from text2lora.names import library_version

Method = Literal["cat", "linear", "svd"]
Factors = list[tuple[float, torch.Tensor, torch.Tensor]]
"""Of one module: weight times scaling, A [r, in] and B [out, r] of each adapter, in float32."""


def combine(adapters: Sequence[LoraAdapter], weights: Sequence[float], method: Method = "cat") -> LoraAdapter:
    """Make one adapter whose effect is the weighted sum of several.

    Args:
        adapters: the adapters to add up, for the same base model and with the same target modules.
        weights: one number for each adapter, of either sign; they are not normalised to sum to 1.
        method: how to add: `cat` gives the exact sum of the delta W, whose rank is the sum of the ranks. `svd` gives
            the best approximation of that sum at the largest of the ranks. `linear` adds up the As and the Bs, each
            with the root of its weight, at their common rank; this is cheap, but a rough approximation, because it
            also multiplies each A with every B.

    Returns:
        The adapter, with alpha = r and no rsLoRA, in the first one's dtype. Its metadata names the parts, with their
        commits if they are from the Hub, and what all of them have in common.

    Raises:
        InvalidArgumentError: the method is unknown, or there is not one number for each adapter.
        CheckpointError: the adapters do not fit together.
    """
    listed = isinstance(adapters, Sequence) and all(isinstance(adapter, LoraAdapter) for adapter in adapters)
    if not listed or not adapters:
        raise InvalidArgumentError(f"adapters are {shown(adapters)}: expected a list of LoraAdapters, at least one")
    if not isinstance(method, str) or method not in get_args(Method):
        raise InvalidArgumentError(f"method is {shown(method)}: expected 'cat', 'linear' or 'svd'")
    factors = numbers(weights)
    if len(adapters) != len(factors) or not all(map(math.isfinite, factors)):
        raise InvalidArgumentError(
            f"weights are {shown(weights)}: expected a finite number for each of the {len(adapters)} adapters"
        )
    _check(adapters, method)
    first, ranks = adapters[0], [adapter.spec.r for adapter in adapters]
    r = sum(ranks) if method == "cat" else max(ranks)
    made: dict[str, torch.Tensor] = {}
    for path, a, _ in first.pairs():
        dtype, key_a, key_b = a.dtype, lora_key(path, "A"), lora_key(path, "B")
        parts: Factors = [
            (factor * adapter.spec.scaling, adapter.weights[key_a].float(), adapter.weights[key_b].float())
            for factor, adapter in zip(factors, adapters, strict=True)
        ]
        a, b = _linear(parts) if method == "linear" else _cat(parts)
        if method == "svd":
            a, b = _truncate(a, b, r)
        made[key_a], made[key_b] = a.to(dtype), b.to(dtype).contiguous()
    base = next((name for adapter in adapters if (name := adapter.spec.base_model_name_or_path)), None)
    revisions = {adapter.spec.revision for adapter in adapters}
    revision = revisions.pop() if len(revisions) == 1 else None
    spec = LoraSpec(r, float(r), first.spec.target_modules, base_model_name_or_path=base, revision=revision)
    return LoraAdapter(made, spec, _metadata(adapters, factors, method))


@checked(CheckpointError)
def cosine_matrix(adapters: Sequence[LoraAdapter]) -> torch.Tensor:
    """How alike the effects of adapters are: the cosine of their delta W over all modules, [n, n] in float64.

    It is computed as <B1 A1, B2 A2> = sum of (B1' B2) * (A1 A2'), from matrices of the size of the ranks, without
    forming delta W. An adapter of zeros has a cosine of 0 with every other.

    Raises:
        CheckpointError: the adapters are not for the same modules.
    """
    if not adapters:
        raise CheckpointError("no adapters were given: expected one or more")
    _check_modules(adapters, "compare")
    owner = torch.arange(len(adapters)).repeat_interleave(torch.tensor([adapter.spec.r for adapter in adapters]))
    scaling = torch.tensor([adapter.spec.scaling for adapter in adapters], dtype=torch.double)
    products = torch.zeros(len(adapters), len(adapters), dtype=torch.double)
    for path, _, _ in adapters[0].pairs():
        a = torch.cat([adapter.weights[lora_key(path, "A")].float() for adapter in adapters])  # [all ranks, in]
        b = torch.cat([adapter.weights[lora_key(path, "B")].float() for adapter in adapters], 1)
        gram = ((a @ a.T) * (b.T @ b)).double()  # [all ranks, all ranks]
        rows = torch.zeros(len(adapters), len(owner), dtype=torch.double).index_add_(0, owner, gram)
        products.index_add_(1, owner, rows)
    products *= torch.outer(scaling, scaling)
    norms = products.diagonal().clamp_min(0).sqrt()
    cosine = products / torch.outer(norms, norms)
    return cosine.nan_to_num(0, 0, 0).clamp(-1, 1).fill_diagonal_(1)


def cosine_range(adapters: Sequence[LoraAdapter]) -> tuple[float, float]:
    """The smallest and the largest cosine between two different ones of several adapters, see `cosine_matrix`.

    Those of adapters that do different things are a scale for other cosines.

    Raises:
        CheckpointError: there are fewer than two adapters, or see `cosine_matrix`.
    """
    if len(adapters) < 2:
        raise CheckpointError(f"{len(adapters)} adapters have no cosine between them: expected two or more")
    found = cosine_matrix(adapters)
    pairs = found[torch.ones_like(found, dtype=torch.bool).triu(1)]
    return float(pairs.min()), float(pairs.max())


def numbers(weights: Sequence[float]) -> list[float]:
    """The weights as Python floats, or an empty list if one is not a number."""
    if isinstance(weights, str | bytes | bytearray | Mapping | Set):  # digits, keys, or numbers in no order
        return []
    try:
        return [float(weight) for weight in weights]
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last from tensors
        return []


def describe_sum(descriptions: Sequence[str], weights: Sequence[float]) -> str:
    """`0.7 x "Reason about law." + 0.3 x "Write plainly."`"""
    return " + ".join(f'{weight:.3g} x "{text}"' for text, weight in zip(descriptions, weights, strict=True))


def _check(adapters: Sequence[LoraAdapter], method: Method) -> None:
    first = adapters[0]
    for other in adapters[1:]:
        names = first.spec.base_model_name_or_path, other.spec.base_model_name_or_path
        if None not in names and names[0] != names[1]:
            raise CheckpointError(
                f"these adapters are for {names[0]} and {names[1]}: combine adapters of the same base model"
            )
    _check_modules(adapters, "combine")
    ranks = sorted({adapter.spec.r for adapter in adapters})
    if method == "linear" and len(ranks) > 1:
        raise CheckpointError(
            f"these adapters have ranks {ranks}: 'linear' needs adapters of the same rank, 'cat' and 'svd' do not"
        )


def _metadata(adapters: Sequence[LoraAdapter], weights: Sequence[float], method: str) -> dict[str, str]:
    """Where a sum comes from: each part, and what is true of all of them."""
    common = set.intersection(*(set(adapter.metadata.items()) for adapter in adapters))
    of_one = ("description", "scale", "adapter", "adapter_commit", "text2lora")
    found = {key: value for key, value in common if key not in of_one and not key.startswith("part_")}
    for number, part in enumerate((adapter.metadata for adapter in adapters), 1):
        if "adapter" in part:
            found[f"part_{number}"] = f"{part['adapter']}@{part.get('adapter_commit', '')}".rstrip("@")
    descriptions = [adapter.metadata.get("description", "an adapter") for adapter in adapters]
    made = {"description": describe_sum(descriptions, weights), "combined by": method, "text2lora": library_version()}
    return dict(sorted(found.items())) | made


def _check_modules(adapters: Sequence[LoraAdapter], verb: str) -> None:
    features = [{path: (a.shape[1], b.shape[0]) for path, a, b in adapter.pairs()} for adapter in adapters]
    if any(found != features[0] for found in features):
        raise CheckpointError(
            f"these adapters have different modules or shapes: {verb} adapters of the same base model"
        )


def _cat(parts: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([scale * a for scale, a, _ in parts], 0), torch.cat([b for _, _, b in parts], 1)


def _linear(parts: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    a = sum(math.copysign(math.sqrt(abs(scale)), scale) * a for scale, a, _ in parts)
    b = sum(math.sqrt(abs(scale)) * b for scale, _, b in parts)
    return torch.as_tensor(a), torch.as_tensor(b)


def _truncate(a: torch.Tensor, b: torch.Tensor, r: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best B A of rank r, through the SVD of a small matrix: delta W itself [out, in] is never made."""
    q_b, r_b = torch.linalg.qr(b)  # [out, k] [k, k]
    q_a, r_a = torch.linalg.qr(a.T)  # [in, k] [k, k]
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    a, b = vh[:r] @ q_a.T, q_b @ u[:, :r] * s[:r]
    missing = r - a.shape[0]  # where a module has fewer features than r
    return torch.nn.functional.pad(a, (0, 0, 0, missing)), torch.nn.functional.pad(b, (0, missing))
