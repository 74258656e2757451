"""How well the similarity to training tasks tells real descriptions from junk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from text2lora.encoder import TextEncoder
from text2lora.evaluation.metrics import roc_auc
from text2lora.standing import DescriptionStatistics


@dataclass(frozen=True)
class Separation:
    """Unseen real descriptions beside junk.

    Attributes:
        auc: how often a real one is closer to training than a junk one: the area under the ROC curve.
        caught: the share of junk that gets a warning.
        warned: the share of real ones that does.
        real, junk: how many there are.
        curve: points of the ROC curve, (share of real ones warned, share of junk caught), by rising threshold.
    """

    auc: float
    caught: float
    warned: float
    real: int
    junk: int
    curve: list[tuple[float, float]]


def separate(
    statistics: DescriptionStatistics, encoder: TextEncoder, real: Sequence[str], junk: Sequence[str]
) -> Separation:
    """Measure how well the warning tells junk from real descriptions that training did not see."""

    def similarities(texts: Sequence[str]) -> torch.Tensor:
        embedded = encoder.encode(texts)
        found = [statistics.place(text, emb).similarity for text, emb in zip(texts, embedded, strict=True)]
        return torch.tensor(found, dtype=torch.double)

    good, bad = similarities(real), similarities(junk)
    curve = [
        ((good < at).double().mean().item(), (bad < at).double().mean().item())
        for at in sorted({*good.tolist(), *bad.tolist(), 2.0})
    ]
    return Separation(
        auc=roc_auc(bad, good),
        caught=(bad < statistics.threshold).double().mean().item(),
        warned=(good < statistics.threshold).double().mean().item(),
        real=len(real),
        junk=len(junk),
        curve=curve,
    )
