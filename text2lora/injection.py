"""Per-sample LoRA: one frozen base, a different adapter for every group of rows of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from text2lora.configuration import Text2LoraConfig
from text2lora.hypernetwork import LoraWeights


class LoraInjector:
    """Adds LoRA updates to the target modules of a live model, without changing it.

    Args:
        model: the base; frozen by the caller.
        config: says which modules, where they are, and how strong an update is.
    """

    def __init__(self, model: nn.Module, config: Text2LoraConfig):
        self._scaling = config.lora_scaling
        self._modules = {
            name: [model.get_submodule(config.module_paths[name].format(layer=i)) for i in range(config.num_layers)]
            for name in config.target_modules
        }

    @contextmanager
    def inject(self, weights: LoraWeights) -> Iterator[None]:
        """Within the block, a batch of n * k rows passes through n adapters, k neighbouring rows each.

        Equal to PEFT's forward with the same adapter: y = W x + scaling * B A x. Where the base checkpoints its
        gradients, the backward pass belongs into the block too, for it runs the forward again.

        Args:
            weights: A [n, layers, r, in] and B [n, layers, out, r] by target module; gradients flow into them.
        """
        handles = [
            module.register_forward_hook(self._hook(down, up))
            for name, (a, b) in weights.items()  # unbound, for the gradient of a slice is as large as the whole
            for module, down, up in zip(
                self._modules[name], a.mT.unbind(1), (self._scaling * b).mT.unbind(1), strict=True
            )
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def _hook(down: torch.Tensor, up: torch.Tensor) -> Any:
        """What adds x `down` `up` to a module's output, for a group of rows each: [n, in, r] and [n, r, out]."""

        def add(module: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
            x = args[0]
            low = torch.bmm(x.reshape(len(down), -1, x.shape[-1]), down.to(x))  # [n, k * tokens, r]
            return torch.baddbmm(out.reshape(*low.shape[:2], -1), low, up.to(x)).view_as(out)

        return add
