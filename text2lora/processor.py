"""How the processor computes: which dtypes quickly, and from which addresses the same bits each time."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"),  # the last one on ARM
    torch.float16: ("avx512_fp16", "amx_fp16"),
}
"""By dtype, the processor capabilities that can multiply it; one of them is enough."""

MODEL_SHARE = 0.8
"""The share of the memory for a model's weights; the rest is for its computation and for the system."""


@functools.cache
def onednn_dtypes() -> tuple[torch.dtype, ...]:
    """The dtypes that oneDNN multiplies on this processor, if necessary in software; none if PyTorch lacks oneDNN."""
    found, ops = [torch.float32], torch.ops.mkldnn
    if not hasattr(ops, "_linear_pointwise"):
        return ()
    for dtype, check in ((torch.bfloat16, "_is_mkldnn_bf16_supported"), (torch.float16, "_is_mkldnn_fp16_supported")):
        if hasattr(ops, check) and getattr(ops, check)():
            found.append(dtype)
    return tuple(found)


@functools.cache
def is_slow(dtype: torch.dtype, device_type: str = "cpu") -> bool:
    """Whether a device of this type has no instructions for a half-precision dtype, so that float32 is faster.

    oneDNN calls bfloat16 supported on every processor with AVX-512, most of which widen each number first.
    """
    if device_type != "cpu" or dtype not in INSTRUCTIONS:
        return False
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return dtype not in onednn_dtypes() or not any(capabilities.get(name) for name in INSTRUCTIONS[dtype])


def widen(model: Module) -> Module:
    """Convert a model to float32 if its own dtype is slow on the processor and float32 fits into the memory.

    The values stay the same. A quantised model, or one that is not completely in memory, is not converted.
    """
    weights = list(model.parameters())
    slow = [is_slow(weight.dtype, weight.device.type) for weight in weights]
    whole = all(weight.device.type == "cpu" for weight in weights) and not getattr(model, "is_quantized", False)
    fits = 4 * sum(weight.numel() for weight in weights) <= MODEL_SHARE * host_memory()
    return model.float() if any(slow) and whole and fits else model


def align(model: nn.Module) -> None:
    """Move weights that a memory-mapped file left at odd addresses: there, CPU kernels sum in another order.

    With it, a checkpoint gives the same bits whatever file format it was read from.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % 64:
            parameter.data = parameter.data.clone()


def host_memory() -> int:
    """The memory of the machine in bytes, or what the control group gives to this container."""
    import psutil  # comes with accelerate

    limits = [psutil.virtual_memory().total]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(file)
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)
