"""The linear layer that the hypernetwork is made of."""

from __future__ import annotations

import functools

import torch
from torch import nn


@functools.cache
def _onednn_dtypes() -> tuple[torch.dtype, ...]:
    """What oneDNN multiplies on this CPU; nothing where PyTorch was built without it."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return ()
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,)


class Linear(nn.Linear):
    """`nn.Linear`, which on the CPU and without a gradient goes through oneDNN, as compiled models do.

    PyTorch itself takes MKL for float32: a third of the speed on an AMD processor.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        on_cpu = x.device.type == "cpu" and not torch.is_grad_enabled()
        if on_cpu and x.dtype == self.weight.dtype and x.dtype in _onednn_dtypes():
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return super().forward(x)
