"""Optimisers: Muon for matrices, AdamW for all other parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from text2lora.processor import is_slow

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""The coefficients a, b, c of one step: a X + b (X X^T) X + c (X X^T)^2 X."""
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95
"""The decay rate of Muon's momentum buffer."""
BETAS = (0.9, 0.98)
"""Of AdamW."""


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) with Nesterov momentum, its updates scaled to AdamW's size (Liu et al. 2025).

    Equals `torch.optim.Muon(..., adjust_lr_fn="match_rms_adamw")` bit for bit on devices with native bfloat16.
    Elsewhere it orthogonalises updates in float32, because PyTorch's version is up to forty times as slow there.

    Args:
        params: The matrices to train.
        lr: The learning rate, for updates whose entries have a root mean square of about 0.2.
        weight_decay: Decoupled weight decay, relative to `lr`.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without the closure, which nothing here needs
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            lr = group["lr"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - MOMENTUM)
                update = orthogonalise(parameter.grad.lerp(buffer, MOMENTUM))
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.add_(update, alpha=-lr * (0.2 * max(parameter.shape) ** 0.5))


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Approximate U V^T of a matrix [rows, columns] = U S V^T, with singular values between 0.5 and 1.5.

    It is computed and returned in bfloat16 if the device multiplies it natively, else in float32.
    """
    dtype = torch.float32 if is_slow(torch.bfloat16, matrix.device.type) else torch.bfloat16
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def build_optimizers(
    module: nn.Module, lr: float, adamw_lr: float, weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """Build optimisers: Muon for hidden matrices, with decoupled weight decay, AdamW for all other parameters.

    If `lr` is 0, AdamW trains the matrices, too.
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
        optimizers.append(Muon(matrices, lr, weight_decay))
    if rest:
        optimizers.append(torch.optim.AdamW(rest, lr=adamw_lr, betas=BETAS, weight_decay=0.0))
    return optimizers


def set_learning_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Set the learning rate of every group to `share` of its initial value."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * share


def schedule(step: float, steps: int, warmup: float) -> float:
    """The share of the peak learning rate at `step`: linear warm-up over `warmup` of the steps, then decay to zero."""
    rise = max(1.0, warmup * steps)
    return min((step + 1) / rise, (steps - step) / max(1.0, steps - rise))
