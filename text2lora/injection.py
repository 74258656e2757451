"""A LoRA for every row: one frozen base, a different adapter for every group of rows of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from text2lora.configuration import Text2LoraConfig
from text2lora.errors import CheckpointError
from text2lora.lora import Lora, LoraWeights

Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""By the path of a module: the transposes of A [n, in, r] and of B [n, r, out], its strength in the latter."""


class LoraInjector:
    """Adds LoRA updates to the target modules of a live model, without changing it.

    Args:
        model: the base model, which the caller has frozen.
        config: the config that names the modules, their places and the strength of an update.
    """

    def __init__(self, model: nn.Module, config: Text2LoraConfig):
        self._scaling = config.lora_scaling
        try:
            self._modules = {
                name: [model.get_submodule(config.module_paths[name].format(layer=i)) for i in range(config.num_layers)]
                for name in config.target_modules
            }
        except AttributeError as error:
            raise CheckpointError(
                f"the model is not laid out as the checkpoint's base model ({error}): pass the base model that the "
                "checkpoint names"
            ) from error

    @contextmanager
    def inject(self, weights: LoraWeights) -> Iterator[None]:
        """Within the block, a batch of n * k rows passes through n adapters, k neighbouring rows each.

        The result equals PEFT's forward pass with the same adapter: y = W x + scaling * B A x. If the base model uses
        gradient checkpointing, run the backward pass inside the block too, because it repeats the forward pass.

        Args:
            weights: A [n, layers, r, in] and B [n, layers, out, r] by target module; gradients flow into them.
        """
        with _added(
            (module, down, up)
            for name, (a, b) in weights.items()  # unbound, for the gradient of a slice is as large as the whole
            for module, down, up in zip(
                self._modules[name], a.mT.unbind(1), (self._scaling * b).mT.unbind(1), strict=True
            )
        ):
            yield


def factors_of(adapter: Lora, device: torch.device) -> Factors:
    """An adapter as `inject_rows` takes it, with one row, on a device."""
    made = {}
    for path, a, b in adapter.pairs():
        made[path] = a.to(device).mT[None], (adapter.spec.scaling * b.to(device)).mT[None]
    return made


def stack_factors(rows: Sequence[Factors]) -> Factors:
    """Several adapters as one of as many rows. An empty one is the base alone; ranks and modules may differ.

    The same object in all rows is returned as it is: one adapter serves a batch of any size.
    """
    if all(row is rows[0] for row in rows):
        return rows[0]
    stacked = {}
    for path in dict.fromkeys(path for row in rows for path in row):
        down, up = next(row[path] for row in rows if path in row)
        none = down[:, :, :0], up[:, :0]
        r = max(row[path][0].shape[2] for row in rows if path in row)
        pairs = [row.get(path, none) for row in rows]
        stacked[path] = (
            torch.cat([F.pad(down, (0, r - down.shape[2])) for down, _ in pairs]),
            torch.cat([F.pad(up, (0, 0, 0, r - up.shape[1])) for _, up in pairs]),
        )
    return stacked


@contextmanager
def inject_rows(model: nn.Module, factors: Factors) -> Iterator[None]:
    """Within the block, a batch of n * k rows passes through the n adapters of `factors`, k neighbouring rows each.

    The base model is not changed, and no other thread may use it inside the block.
    """
    with _added((model.get_submodule(path), down, up) for path, (down, up) in factors.items()):
        yield


@contextmanager
def _added(updates: Iterable[tuple[nn.Module, torch.Tensor, torch.Tensor]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, down, up in updates:
            if isinstance(module, LoraLinear):
                module.update = down, up
                stack.callback(setattr, module, "update", None)
            else:
                stack.callback(module.register_forward_hook(_hook(down, up)).remove)
        yield


class LoraLinear(nn.Linear):
    """A frozen linear layer with a place for an update, for compiled models, where hooks cannot change.

    Args:
        linear: The layer whose weights it shares.

    Attributes:
        update: Factors as in `Factors`, while one is injected.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.update: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer, and the update if there is one."""
        out = self.multiply(x)
        return out if self.update is None else _add(x, out, *self.update)

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer without its update."""
        return super().forward(x)


def _add(x: torch.Tensor, out: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Add x `down` `up` to a module's output, for a group of rows each: [n, in, r] and [n, r, out]."""
    low = torch.bmm(x.reshape(len(down), -1, x.shape[-1]), down.to(x))  # [n, k * tokens, r]
    return torch.baddbmm(out.reshape(*low.shape[:2], -1), low, up.to(x)).view_as(out)


def _hook(down: torch.Tensor, up: torch.Tensor) -> Any:
    """The forward hook that adds an update to a module's output."""
    return lambda module, args, out: _add(args[0], out, down, up)
