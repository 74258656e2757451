"""A LoRA on a live model: attach it with PEFT, or copy it into the parameters of one that is already there."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from text2lora.errors import CheckpointError, shown

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel

    from text2lora.adapter import LoraAdapter, LoraSpec

PREFIX = "base_model.model."
WRAPPER = "_text2lora_wrapper"
"""Where a plain base keeps the PeftModel that `attach` made of it."""
LIVE = "_text2lora_live"
"""Where a PeftModel keeps the layers of its adapters, by adapter name."""
PLAIN = {"bias": "none", "use_dora": False, "lora_bias": False, "rank_pattern": {}, "alpha_pattern": {}}
"""What a config of PEFT says of a LoRA that is A, B and one scaling."""

_LOCK = threading.Lock()  # PEFT changes a model layer by layer


@dataclass(frozen=True)
class LiveLora:
    """The layers of one named adapter; `config` is the one they were made with."""

    config: PeftConfig
    layers: dict[str, LoraLayer]

    @classmethod
    def of(cls, model: PeftModel, name: str) -> LiveLora:
        """The layers of an adapter, from the last call where they are still the live ones."""
        cache: dict[str, LiveLora] = model.__dict__.setdefault(LIVE, {})
        config = model.peft_config[name]
        if name not in cache or cache[name].config is not config:  # PEFT makes a new config with new layers
            from peft.tuners.lora import LoraLayer

            modules = model.get_base_model().named_modules()
            cache[name] = cls(config, {p: m for p, m in modules if isinstance(m, LoraLayer) and name in m.lora_A})
            for gone in cache.keys() - model.peft_config.keys():
                del cache[gone]
        return cache[name]

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """Its parameters, by the key of PEFT's files."""
        found = {}
        for path, layer in self.layers.items():
            found[f"{PREFIX}{path}.lora_A.weight"] = layer.lora_A[name].weight
            found[f"{PREFIX}{path}.lora_B.weight"] = layer.lora_B[name].weight
        return found


@torch.inference_mode(False)  # parameters made in it could not be written to outside
@torch.no_grad()
def attach(adapter: LoraAdapter, model: PreTrainedModel | PeftModel, name: str) -> PeftModel:
    """See `LoraAdapter.apply_to`."""
    from peft import PeftModel, get_peft_model

    check_adapter_name(name)
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"the model is {shown(model)}: expected a loaded base model, or a PeftModel around it")
    with _LOCK:
        wrapper = model if isinstance(model, PeftModel) else _wrapper_of(model)
        if wrapper is None:
            check_modules(adapter, model)
            wrapper = get_peft_model(model, _config(adapter.spec), name, low_cpu_mem_usage=True)
            model.__dict__[WRAPPER] = wrapper  # past nn.Module's __setattr__, which would make it a submodule
            _assign(adapter, wrapper, name)
        else:
            _check_wrapper(wrapper)
            if name not in wrapper.peft_config or not _replace(adapter, wrapper, name):
                check_modules(adapter, wrapper.get_base_model())
                if name in wrapper.peft_config:
                    wrapper.delete_adapter(name)
                wrapper.add_adapter(name, _config(adapter.spec), low_cpu_mem_usage=True)
                _assign(adapter, wrapper, name)
        _activate(wrapper, name)
    config = wrapper.peft_config[name]
    config.base_model_name_or_path, config.revision = adapter.spec.base_model_name_or_path, adapter.spec.revision
    return wrapper


def check_adapter_name(name: str) -> None:
    """Refuse the names that PEFT cannot tell from its own, or that torch cannot give a module.

    Raises:
        CheckpointError: it is such a name.
    """
    if (
        not isinstance(name, str)
        or not name
        or "." in name
        or name in "lora_"
        or "lora_" in name
        or name.startswith("__")
        or hasattr(nn.ModuleDict, name)
        or hasattr(nn.ModuleDict(), name)
    ):
        raise CheckpointError(
            f"{shown(name)} cannot name an adapter: PEFT takes no dot, no part of 'lora_' and no attribute of a "
            "module; choose a word such as 'legal'"
        )


def _config(spec: LoraSpec) -> Any:
    config = spec.to_peft()
    config.base_model_name_or_path = None  # PEFT would warn and put the model's path there; it is set at the end
    return config


def _wrapper_of(model: PreTrainedModel) -> PeftModel | None:
    """The PeftModel that was made of a plain model earlier, if it is still the one around it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapper = model.__dict__.get(WRAPPER)
    if wrapper is not None and _is_around(wrapper, model):
        return wrapper
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise CheckpointError(
            "this base has PEFT layers already that were not made here: pass the PeftModel around it, or unload it"
        )
    return None


def _is_around(wrapper: PeftModel, model: PreTrainedModel) -> bool:
    """PEFT keeps the configs of a wrapped model on the model too, and takes them away when it is unloaded."""
    return getattr(model, "peft_config", None) is wrapper.peft_config


def _check_wrapper(model: PeftModel) -> None:
    from peft import LoraModel

    if not isinstance(model.base_model, LoraModel):
        kind = next(iter(model.peft_config.values())).peft_type
        raise CheckpointError(f"this PeftModel holds {kind!s}, not LoRA: pass its base model")
    if not _is_around(model, model.get_base_model()):
        raise CheckpointError("this PeftModel was unloaded, or its base wrapped again: pass its base or the new one")


def check_modules(adapter: LoraAdapter, model: PreTrainedModel) -> None:
    """Compare every A and B with the model's linear module before anything is touched.

    Raises:
        CheckpointError: the adapter is damaged, or the model has not its modules or shapes.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    base, targets = adapter.spec.base_model_name_or_path or "another base", adapter.spec.target_modules
    r = adapter.spec.r
    modules = {p: m for p, m in model.named_modules() if ".lora_" not in p and not p.endswith(".base_layer")}
    paths = {key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in adapter.weights}
    whole = {f"{PREFIX}{path}.lora_{letter}.weight" for path in paths for letter in "AB"} == adapter.weights.keys()
    if not whole or any(w.shape[0 if ".lora_A." in key else 1] != r for key, w in adapter.weights.items()):
        raise CheckpointError(f"this adapter is damaged: it does not have A and B of rank {r} for each of its modules")
    extra = [p for p in modules if p.rpartition(".")[2] in targets and p not in paths]
    if extra:
        raise CheckpointError(
            f"this adapter is for {base}: it has nothing for {extra[0]} and {len(extra) - 1} other modules of the "
            "model given; pass the base it was made for"
        )
    for key, weight in adapter.weights.items():
        path, factor = key.removeprefix(PREFIX).removesuffix(".weight").rsplit(".", 1)
        module = modules.get(path)
        module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        size = None if module is None else _features(module)[0 if factor == "lora_A" else 1]
        given = weight.shape[1 if factor == "lora_A" else 0]
        if size != given:
            found = "no such linear module" if size is None else f"{size} features"
            raise CheckpointError(
                f"this adapter is for {base}: {path} has {given} features there, but {found} in the model given; "
                "pass the base it was made for"
            )


def _features(module: nn.Module) -> tuple[int | None, int | None]:
    """(in, out) features by the module's own account: the weights of a quantised one are packed."""
    from peft.tuners.tuners_utils import _get_in_out_features
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear | Conv1D) or hasattr(module, "in_features") or hasattr(module, "infeatures"):
        return _get_in_out_features(module)
    return None, None


def _assign(adapter: LoraAdapter, model: PeftModel, name: str) -> None:
    """Give the parameters that PEFT has just made on the meta device their values."""
    default = model.get_base_model().dtype
    for path, layer in LiveLora.of(model, name).layers.items():
        base = layer.get_base_layer()
        weight = next(chain(base.parameters(), base.buffers()))
        dtype = weight.dtype if weight.dtype.is_floating_point and weight.dtype.itemsize > 1 else default  # quantised
        for factor in ("lora_A", "lora_B"):
            value = adapter.weights[f"{PREFIX}{path}.{factor}.weight"]
            # a copy, since a later replacement writes into the parameter
            value = value.to(device=weight.device, dtype=dtype, copy=True)
            getattr(layer, factor)[name].weight = nn.Parameter(value, requires_grad=False)


def _replace(adapter: LoraAdapter, model: PeftModel, name: str) -> bool:
    """Copy into the parameters of an adapter of the same layout; False where the layout is another one."""
    live, spec = LiveLora.of(model, name), adapter.spec
    if any(layer.merged for layer in live.layers.values()):
        model.base_model.unmerge_adapter()  # takes out what was merged, so it comes before the change
    weights, config = live.weights(name), live.config
    if (
        weights.keys() != adapter.weights.keys()
        or any(weight.shape != adapter.weights[key].shape for key, weight in weights.items())
        or any(getattr(config, field, default) != default for field, default in PLAIN.items())
        or config.modules_to_save
    ):
        return False
    for key, weight in weights.items():
        weight.copy_(adapter.weights[key])
    config.r, config.lora_alpha, config.use_rslora = spec.r, spec.lora_alpha, spec.use_rslora
    for layer in live.layers.values():
        layer.lora_alpha[name], layer.use_rslora[name] = spec.lora_alpha, spec.use_rslora
        layer.scaling[name] = spec.scaling
    return True


def _activate(model: PeftModel, name: str) -> None:
    """Make an adapter the active one, frozen and in eval mode; PEFT walks all modules, so only where it is not so."""
    live = LiveLora.of(model, name)
    active = all(layer.active_adapters == [name] for layer in live.layers.values())
    if model.active_adapter != name or not active or any(w.requires_grad for w in live.weights(name).values()):
        model.set_adapter(name, inference_mode=True)
    if model.training or any(layer.training for layer in live.layers.values()):
        model.eval()
