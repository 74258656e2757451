"""The linear layer that the hypernetwork is made of."""

from __future__ import annotations

import torch
from torch import nn

from text2lora.processor import is_slow, onednn_dtypes

FEW, MANY = 16, 512
"""Rows of input from which widening half-precision weights pays, and from which the products take most of the time."""
WIDENED = 2**18
"""Weights that are widened at a time: 1 MB of float32, which stays in the cache of a core."""


class Linear(nn.Linear):
    """`nn.Linear`, which on the CPU and without a gradient goes through oneDNN, as compiled models do.

    PyTorch itself takes MKL for float32: a third of the speed on an AMD processor. Half-precision weights are widened
    piece by piece on a processor that cannot multiply them.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        if x.device.type != "cpu" or torch.is_grad_enabled() or x.dtype != self.weight.dtype:
            return super().forward(x)
        if is_slow(x.dtype) and x[..., 0].numel() >= FEW:
            return self._multiply_widened(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
        return _multiply(x, self.weight, self.bias)

    def _multiply_widened(self, x: torch.Tensor) -> torch.Tensor:
        """The products with weights that are widened piece by piece, always into the same memory."""
        step, many = max(1, WIDENED // self.in_features), len(x) >= MANY
        wide = x.float() if many else x.float().t().contiguous()
        out, piece = x.new_empty(len(x), self.out_features), wide.new_empty(step, self.in_features)
        for start in range(0, self.out_features, step):
            weight = self.weight[start : start + step]
            weight = piece[: len(weight)].copy_(weight)
            product = _multiply(wide, weight) if many else (weight @ wide).t()  # twice as fast for a few rows
            if self.bias is not None:
                product += self.bias[start : start + step]
            out[:, start : start + step] = product
        return out


def _multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if x.dtype in onednn_dtypes():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return nn.functional.linear(x, weight, bias)
