"""Optimisers: Muon for matrices, AdamW for the rest."""

from __future__ import annotations

import torch
from torch import nn


def build_optimizers(
    module: nn.Module, lr: float, adamw_lr: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.98)
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024; scaled to AdamW's step size, Liu et al. 2025) on hidden matrices, AdamW elsewhere.

    Args:
        module: its parameters that require a gradient are optimised.
        lr: learning rate of the matrices; 0 gives all parameters to AdamW.
        adamw_lr: learning rate of embeddings, gains and biases.
        weight_decay: decoupled, on the matrices only.
        betas: of AdamW.
    """
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    for parameter in module.parameters():
        if parameter.requires_grad:
            hidden = lr > 0 and parameter.ndim == 2 and id(parameter) not in embeddings
            (matrices if hidden else rest).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    if rest:
        optimizers.append(torch.optim.AdamW(rest, lr=adamw_lr, betas=betas, weight_decay=0.0))
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Set every group to `share` of the learning rate it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * share


def schedule(step: int, steps: int, warmup: float) -> float:
    """The learning rate's share at `step`: linear warm-up over a share `warmup` of the steps, then decay to zero."""
    rise = max(1.0, warmup * steps)
    return min((step + 1) / rise, (steps - step) / max(1.0, steps - rise))
