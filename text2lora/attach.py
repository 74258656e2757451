"""A LoRA on a live model: attach it with PEFT, or copy it into the parameters of one that is already there."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from text2lora.base import base_source
from text2lora.configuration import Text2LoraConfig
from text2lora.errors import CheckpointError, InvalidArgumentError, shown
from text2lora.lora import PLAIN_STARTS, Lora, LoraKey, find_unplain, lora_key, targeted_modules

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel


L = TypeVar("L", bound=Lora)
WRAPPER = "_text2lora_wrapper"
"""The attribute in which a plain base model keeps the PeftModel that `attach` made of it."""
MERGED = "_text2lora_merged"
"""The attribute that marks a plain model into which a model of `generate_adapter` merged its adapters."""
LIVE = "_text2lora_live"
"""The attribute in which a PeftModel keeps the layers of its adapters, by adapter name."""

_LOCK = threading.Lock()  # PEFT changes a model layer by layer


@dataclass(frozen=True)
class AttachedLora:
    """The layers of one named adapter, and the `config` with which they were made."""

    config: PeftConfig
    layers: dict[str, LoraLayer]

    @classmethod
    def of(cls, model: PeftModel, name: str) -> AttachedLora:
        """The layers of an adapter; those from the last call, if they are still in the model."""
        cache: dict[str, AttachedLora] = model.__dict__.setdefault(LIVE, {})
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
            found[lora_key(path, "A")] = layer.lora_A[name].weight
            found[lora_key(path, "B")] = layer.lora_B[name].weight
        return found


def check_model(model: object) -> None:
    """Refuse what is not a model.

    Raises:
        InvalidArgumentError: it is not.
    """
    if not isinstance(model, nn.Module):
        raise InvalidArgumentError(
            f"the model is {shown(model)}: expected a loaded base model, or a PeftModel around it"
        )
    if getattr(getattr(model, "config", None), "model_type", None) == Text2LoraConfig.model_type:
        raise InvalidArgumentError("the model is a checkpoint of text2lora: pass the base model, see load_base_model()")


def uncompiled(model: nn.Module) -> Any:
    """The model inside of what `torch.compile` made of it; any other model is not changed."""
    return getattr(model, "_orig_mod", model)


@torch.inference_mode(False)  # parameters made in it could not be written to outside
@torch.no_grad()
def attach(adapter: Lora, model: PreTrainedModel | PeftModel, name: str) -> PeftModel:
    """See `Lora.apply_to`."""
    from peft import PeftModel, get_peft_model

    check_adapter_name(name)
    check_model(model)
    model = uncompiled(model)
    with _LOCK:
        wrapper = model if isinstance(model, PeftModel) else _wrapper_of(model)
        if wrapper is None:
            fitted = fit_modules(adapter, model)
            with warnings.catch_warnings():  # PEFT reads what transformers has renamed
                warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
                wrapper = get_peft_model(model, _config(fitted, model), name, low_cpu_mem_usage=True)
            model.__dict__[WRAPPER] = wrapper  # past nn.Module's __setattr__, which would make it a submodule
            _assign(fitted, wrapper, name)
        else:
            _check_wrapper(wrapper)
            if name not in wrapper.peft_config or not _replace(adapter, wrapper, name):
                base = wrapper.get_base_model()
                fitted = fit_modules(adapter, base)
                if name in wrapper.peft_config:
                    wrapper.delete_adapter(name)
                wrapper.add_adapter(name, _config(fitted, base), low_cpu_mem_usage=True)
                _assign(fitted, wrapper, name)
        _activate(wrapper, name)
    config = wrapper.peft_config[name]
    config.base_model_name_or_path, config.revision = adapter.spec.base_model_name_or_path, adapter.spec.revision
    return wrapper


def check_adapter_name(name: str) -> None:
    """Refuse names that PEFT confuses with its own, or that torch does not allow for a module.

    Raises:
        InvalidArgumentError: the name cannot be used.
    """
    if (
        not isinstance(name, str)
        or "." in name
        or name in "lora_"
        or "lora_" in name
        or name.startswith("__")
        or hasattr(nn.ModuleDict, name)
        or hasattr(nn.ModuleDict(), name)
    ):
        raise InvalidArgumentError(
            f"{shown(name)} cannot be the name of an adapter: PEFT allows no dot, no part of 'lora_' and no attribute "
            "of a module; choose a word such as 'legal'"
        )


def _config(adapter: Lora, model: PreTrainedModel) -> Any:
    config, paths = adapter.spec.to_peft(), adapter.module_paths
    if set(targeted_modules(adapter.spec, _own_modules(model))) != paths:  # of a part of the model, or of some layers
        config.target_modules = paths
    config.base_model_name_or_path = None  # PEFT would warn and put the model's path there; it is set at the end
    return config


def _own_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that a model has without PEFT, by path; a LoRA layer stands for the one that it wraps."""
    return {p: m for p, m in model.named_modules() if ".lora_" not in p and not p.endswith(".base_layer")}


def _wrapper_of(model: PreTrainedModel) -> PeftModel | None:
    """The PeftModel that was made of a plain model earlier, if it still wraps the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapper = model.__dict__.get(WRAPPER)
    if wrapper is not None and _is_around(wrapper, model):
        return wrapper
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise CheckpointError(
            "this base model already has PEFT layers that text2lora did not add: pass the PeftModel around it, or "
            "unload it"
        )
    if MERGED in model.__dict__:
        raise CheckpointError(
            "an adapter was merged into this model: pass the base model that adapters are for, or add adapters up with "
            "text2lora.combine before merging"
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
    for config in model.peft_config.values():
        if (start := getattr(config, "init_lora_weights", None)) not in PLAIN_STARTS:
            raise CheckpointError(
                f"this PeftModel holds an adapter with init_lora_weights {start!r}, which changed the base model's "
                "weights: load the base model again"
            )
    if not _is_around(model, model.get_base_model()):
        raise CheckpointError(
            "this PeftModel was unloaded, or its base model was wrapped again: pass the base model or the new PeftModel"
        )


def fit_modules(adapter: L, model: PreTrainedModel) -> L:
    """The adapter with its modules named as the model names them, after a check of all of them.

    transformers renames modules from time to time, mostly in models that also see, and still reads the earlier names;
    so does this function. The model may have modules of the same names in another part, such as a vision tower. In each
    part that the adapter is for, it must be for all layers, unless it says that it is for some.

    Raises:
        CheckpointError: the adapter is damaged, or the model does not have its modules or shapes.
    """
    modules, paths = _own_modules(model), adapter.module_paths
    whole = {lora_key(path, factor) for path in paths for factor in "AB"} == adapter.weights.keys()
    r = adapter.spec.r
    if not paths or not whole or any(a.shape[0] != r or b.shape[1] != r for _, a, b in adapter.pairs()):
        raise CheckpointError(f"this adapter is damaged: it does not have A and B of rank {r} for each of its modules")
    if not paths <= modules.keys():
        adapter = _rename(adapter, {path: _present_name(path, model) for path in paths})
        paths = adapter.module_paths
    base = adapter.spec.base_model_name_or_path or "another base model"
    advice = f"this adapter is for {base}", "pass the base model that it was made for"
    if getattr(model, "name_or_path", None) in (base, base_source(base)):
        advice = f"this adapter does not fit {base}, the base model that it names", "try peft.PeftModel.from_pretrained"
    parts = {re.sub(r"\d+", "0", path) for path in paths}
    extra = [p for p in targeted_modules(adapter.spec, modules) if p not in paths and re.sub(r"\d+", "0", p) in parts]
    if extra:
        more = f" and {len(extra) - 1} other modules" if len(extra) > 1 else ""
        raise CheckpointError(f"{advice[0]}: it has no weights for {extra[0]}{more} of the given model; {advice[1]}")
    for key, weight in adapter.weights.items():
        path, factor = LoraKey.parse(key)
        module = modules.get(path)
        size = None if module is None else _features(module)[0 if factor == "A" else 1]
        given = weight.shape[1 if factor == "A" else 0]
        if size != given:
            found = "no such linear module" if size is None else f"{size} features"
            raise CheckpointError(
                f"{advice[0]}: the adapter has {given} features for {path}, but the given model has {found}; "
                f"{advice[1]}"
            )
    return adapter


def _present_name(path: str, model: PreTrainedModel) -> str:
    """The present name of a module that was saved under an earlier name; other names do not change."""
    with contextlib.suppress(ImportError, AttributeError, TypeError):  # of an earlier transformers
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming, rename_source_key

        renamings = [change for change in get_model_conversion_mapping(model) if isinstance(change, WeightRenaming)]
        return str(rename_source_key(f"{path}.weight", renamings, [])[0]).removesuffix(".weight")
    return path


def _rename(adapter: L, names: Mapping[str, str]) -> L:
    """The adapter under other module paths."""
    weights = {}
    for key, weight in adapter.weights.items():
        path, factor = LoraKey.parse(key)
        weights[lora_key(names[path], factor)] = weight
    targets = tuple(names.get(target, target) for target in adapter.spec.target_modules)
    spec = dataclasses.replace(adapter.spec, target_modules=targets)
    return dataclasses.replace(adapter, weights=weights, spec=spec)


def _features(module: nn.Module) -> tuple[int | None, int | None]:
    """(in, out) features from the module's attributes, because the weights of a quantised module are packed."""
    from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, BaseTunerLayer):
        module = module.get_base_layer()
    if isinstance(module, nn.Linear | Conv1D) or hasattr(module, "in_features") or hasattr(module, "infeatures"):
        return _get_in_out_features(module)
    return None, None


def device_of(module: nn.Module) -> torch.device:
    """The device on which a module computes: that of its first weight, or its target if accelerate keeps it on disk."""
    weight = next(chain(module.parameters(), module.buffers()))
    if weight.device.type != "meta":
        return weight.device
    hook = getattr(module, "_hf_hook", None)
    hooks = [hook, *getattr(hook, "hooks", ())]  # one, or several in sequence
    found = next((device for each in hooks if (device := getattr(each, "execution_device", None)) is not None), None)
    return weight.device if found is None else torch.device(found)


def input_device(model: PreTrainedModel | PeftModel) -> torch.device:
    """The device on which a model expects its token ids."""
    return device_of(model.get_input_embeddings())


def _assign(adapter: Lora, model: PeftModel, name: str) -> None:
    """Give the parameters that PEFT has just made on the meta device their values."""
    default = model.get_base_model().dtype
    for path, layer in AttachedLora.of(model, name).layers.items():
        base = layer.get_base_layer()
        weight = next(chain(base.parameters(), base.buffers()))
        device = device_of(base)
        dtype = weight.dtype if weight.dtype.is_floating_point and weight.dtype.itemsize > 1 else default  # quantised
        for factor in "AB":
            value = adapter.weights[lora_key(path, factor)]
            # a copy, since a later replacement writes into the parameter
            value = value.to(device=device, dtype=dtype, copy=True)
            getattr(layer, f"lora_{factor}")[name].weight = nn.Parameter(value, requires_grad=False)


def _replace(adapter: Lora, model: PeftModel, name: str) -> bool:
    """Copy into the parameters of an adapter of the same layout; False if the layout differs."""
    live, spec = AttachedLora.of(model, name), adapter.spec
    if any(layer.merged for layer in live.layers.values()):
        model.base_model.unmerge_adapter()  # takes out what was merged, so it comes before the change
    weights, config = live.weights(name), live.config
    if (
        weights.keys() != adapter.weights.keys()
        or any(weight.shape != adapter.weights[key].shape for key, weight in weights.items())
        or find_unplain(config.to_dict())
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
    """Make an adapter active, frozen and in eval mode, unless it is: PEFT walks all modules for that."""
    live = AttachedLora.of(model, name)
    active = all(layer.active_adapters == [name] for layer in live.layers.values())
    if model.active_adapter != name or not active or any(w.requires_grad for w in live.weights(name).values()):
        model.set_adapter(name, inference_mode=True)
    if model.training or any(layer.training for layer in live.layers.values()):
        model.eval()
