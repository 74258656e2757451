"""The frozen base's linear layers in 8 bits, for faster training on processors that multiply integers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from text2lora.injection import LoraLinear


class Int8Linear(LoraLinear):
    """A frozen linear layer that multiplies 8-bit integers while gradients are computed; else, in full precision.

    Both passes are quantised: the input and the gradient row by row when they come, and the weight once, with a scale
    for each of its rows in the forward pass and for each of its columns in the backward pass. A scale maps the largest
    magnitude to 127. The gradients are those of the layer in full precision, up to rounding.

    Args:
        linear: The layer whose weights it shares.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__(linear)
        for name, weight in (("forward", self.weight), ("backward", self.weight.T)):
            values, scales = _quantize(weight.detach().float())
            self.register_buffer(f"{name}_values", values.T.contiguous(), persistent=False)
            self.register_buffer(f"{name}_scales", scales[:, 0], persistent=False)

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer without its update."""
        if not torch.is_grad_enabled():
            return super().multiply(x)
        out = _Multiply.apply(x, self.forward_values, self.forward_scales, self.backward_values, self.backward_scales)
        return out if self.bias is None else out + self.bias


class _Multiply(torch.autograd.Function):
    """x W^T in the forward pass, and g W in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *weight: torch.Tensor) -> torch.Tensor:
        """Multiply by the transpose of the weight."""
        ctx.save_for_backward(*weight[2:])
        return _multiply(x, *weight[:2])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Multiply by the weight."""
        return _multiply(gradients[0], *ctx.saved_tensors), None, None, None, None


def _quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers [rows, columns] and the scale of each row, [rows, 1], whose product is about `x`."""
    scales = (x.abs().amax(1, keepdim=True) / 127).clamp_min(1e-30)
    return (x / scales).round().to(torch.int8), scales


def _multiply(x: torch.Tensor, values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Multiply x [..., in] by integers [in, out] with a scale for each output, [out]."""
    rows, row_scales = _quantize(x.reshape(-1, x.shape[-1]).float())
    out = torch._int_mm(rows, values).float() * row_scales * scales  # no public function multiplies integers
    return out.to(x.dtype).view(*x.shape[:-1], -1)
