"""Several models that share the weights of one base model: each has its own modules and LoRA."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from peft import LoraModel, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from text2lora.adapter import LoraAdapter
from text2lora.attach import MERGED, WRAPPER, check_model, uncompiled
from text2lora.errors import CheckpointError


class SharedLoraModel(LoraModel):
    """LoRA on a base model whose weights other models read too. Nothing that it does affects the others.

    Merging copies the weights that the adapter changes, and a model that leaves PEFT is a copy with its own weights.
    """

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = True) -> None:
        """See PEFT; safe merging makes new weights instead of writing into the old ones."""
        super().merge_adapter(adapter_names, safe_merge=True)

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = True, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """See PEFT; the model gets its own weights."""
        merged = self._own(super().merge_and_unload(progressbar, True, adapter_names))
        merged.__dict__[MERGED] = True
        return merged

    def unload(self) -> nn.Module:
        """See PEFT; the model gets its own weights."""
        return self._own(super().unload())

    @staticmethod
    def _own(model: nn.Module) -> nn.Module:
        tensors = chain(model.parameters(), model.buffers())
        quantised = {id(tensor): tensor for tensor in tensors if type(tensor) not in (nn.Parameter, torch.Tensor)}
        return copy.deepcopy(model, quantised)  # which are never written into


def apply_apart(adapter: LoraAdapter, model: PreTrainedModel | PeftModel, adapter_name: str = "default") -> PeftModel:
    """Attach an adapter as `LoraAdapter.apply_to` does, but leave a plain model as it is.

    The result shares the weights of a plain model. A model with PEFT layers gets the adapter in place.

    Raises:
        CheckpointError: see `LoraAdapter.apply_to`.
    """
    model = uncompiled(model)
    plain = isinstance(model, nn.Module) and not isinstance(model, PeftModel)
    if not plain or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        return adapter.apply_to(model, adapter_name)
    wrapper = adapter.apply_to(share(model), adapter_name)
    wrapper.base_model.__class__ = SharedLoraModel
    return wrapper


def share(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model, with its hooks and devices, whose tensors share memory with the original.

    Each parameter is a new object over the same memory, so it can be moved or replaced in the copy alone. Tied
    parameters stay tied.

    Raises:
        CheckpointError: the model has something that cannot be copied.
    """
    memo: dict[int, Any] = {id(parameter): _alias(parameter) for parameter in model.parameters()}
    memo[id(model.__dict__.get(WRAPPER))] = None  # of adapters that were unloaded
    try:
        with _TensorsShared():
            return copy.deepcopy(model, memo)
    except (TypeError, copy.Error, RuntimeError) as error:
        raise CheckpointError(
            f"the given base model has something that cannot be copied ({error}): attach the adapter to the model "
            "itself with generate_lora(...).apply_to(base)"
        ) from error


def fingerprint(model: nn.Module) -> tuple[int, list[torch.Tensor]]:
    """What tells whether the parameters of a model were changed in place, here or in models that `share` made of it.

    torch counts what most optimisers and `load_state_dict` write, but not what fused optimisers, PEFT's merges, NumPy
    and others write into a parameter's `data`. So up to 8 numbers of each parameter are remembered too.

    Returns:
        The changes that torch has counted, and the numbers, a tensor for each device and dtype.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.device.type != "meta"]
    counted = sum(parameter._version for parameter in parameters if not parameter.is_inference())
    samples: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for parameter in parameters:
        flat = parameter.detach().flatten()
        samples.setdefault((flat.device, flat.dtype), []).append(flat[:: max(1, len(flat) // 8)][:8])
    return counted, [torch.cat(parts) for parts in samples.values()]


def is_changed(model: nn.Module, since: tuple[int, list[torch.Tensor]]) -> bool:
    """Whether the parameters of a model were changed since its `fingerprint` was taken."""
    counted, samples = fingerprint(model)
    same = len(samples) == len(since[1]) and all(map(_same_bits, samples, since[1]))
    return counted != since[0] or not same


def _same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two vectors hold the same numbers; NaN is the same as NaN."""
    same = one.dtype == two.dtype and one.device == two.device and one.shape == two.shape
    return same and torch.equal(one.view(torch.uint8), two.view(torch.uint8))


def freeze(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """A copy of the base model that shares its memory (see `share`), to be read from only.

    It is in eval mode, nothing in it requires a gradient, and adapters have no effect in it. Merged adapters are
    unmerged first, in the model that is given.

    Raises:
        InvalidArgumentError: it is not a model.
        CheckpointError: see `share`.
    """
    check_model(model)
    model = uncompiled(model)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and module.merged:
            module.unmerge()
    copied = share(model.get_base_model() if isinstance(model, PeftModel) else model).eval().requires_grad_(False)
    for module in copied.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
            module.requires_grad_(False)
    return copied


def _alias(parameter: nn.Parameter) -> nn.Parameter:
    if type(parameter) is nn.Parameter:
        return nn.Parameter(parameter.detach(), parameter.requires_grad)  # torch counts the changes of both together
    alias = copy.copy(parameter)
    return alias if type(alias) is type(parameter) else parameter  # some quantised ones cannot be copied as they are


class _TensorsShared(TorchFunctionMode):
    """While it is on, `copy.deepcopy` shares the memory of every tensor that it meets: buffers, offloaded weights."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__:
            return args[0].detach()
        return func(*args, **(kwargs or {}))
