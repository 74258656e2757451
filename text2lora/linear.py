"""The linear layer that the hypernetwork is made of."""

from __future__ import annotations

import torch
from torch import nn

from text2lora.processor import is_slow, onednn_dtypes

WIDEN_FROM, WIDENED = 16, 256
"""Rows of input from which widening half-precision weights pays, and rows of weights that are widened at a time."""


class Linear(nn.Linear):
    """`nn.Linear`, which on the CPU and without a gradient goes through oneDNN, as compiled models do.

    PyTorch itself takes MKL for float32: a third of the speed on an AMD processor. Half-precision weights are widened
    piece by piece on a processor that cannot multiply them.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        if x.device.type != "cpu" or torch.is_grad_enabled() or x.dtype != self.weight.dtype:
            return super().forward(x)
        if is_slow(x.dtype) and x[..., 0].numel() >= WIDEN_FROM:
            wide, bias = x.float(), None if self.bias is None else self.bias.float()
            parts = [_multiply(wide, weight.float()) for weight in self.weight.split(WIDENED)]
            out = torch.cat(parts, -1)
            return (out if bias is None else out + bias).to(x.dtype)
        return _multiply(x, self.weight, self.bias)


def _multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if x.dtype in onednn_dtypes():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return nn.functional.linear(x, weight, bias)
