"""The modules of a base model that can carry a LoRA, according to PEFT."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from text2lora.errors import CheckpointError
from text2lora.files import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class TargetModules:
    """Linear modules that every layer of a base model has, each under one name and with one shape.

    Attributes:
        shapes: (in, out) features by name, in the requested order or the model's.
        paths: the path of each module in the base model, with `{layer}` for the layer's number.
        num_layers: layers of the base.
        whole_paths: whether other modules of the base have the same names, so that only whole paths tell them apart.
    """

    shapes: dict[str, tuple[int, int]]
    paths: dict[str, str]
    num_layers: int
    whole_paths: bool = False


def find_target_modules(base_config: PreTrainedConfig, names: Sequence[str] | None = None) -> TargetModules:
    """The linear modules of a decoder's layers that can carry a LoRA.

    PEFT says which ones: it puts a LoRA on each of them in a model without weights. So experts that are one tensor,
    routers, and layers whose weights are read past them are found before anything is trained. Of a model that also sees
    or hears, the modules are those of its language model. A name that occurs twice in a layer cannot be used, such as
    GPT-2's `c_proj`, which is in attention and in the MLP.

    Args:
        base_config: the base model's config; no weights are loaded.
        names: the modules to use; None is all of them.

    Raises:
        CheckpointError: a name is not one of these modules, or the model has none.
    """
    model = empty_model(base_config)
    found = _uniform_modules(model)
    counts = Counter(path.rpartition(".")[2] for path, _ in model.named_modules())
    chosen = [*found.shapes] if names is None else [*dict.fromkeys(names)]
    if not chosen or not found.shapes.keys() >= {*chosen} or _fault(model, found, chosen):
        faults = {name: _fault(empty_model(base_config), found, [name]) for name in found.shapes}
        able = [name for name, fault in faults.items() if not fault]
        if names is not None or not able:
            raise CheckpointError(_advice(base_config.model_type, chosen, faults))
        chosen = able
    return TargetModules(
        {name: found.shapes[name] for name in chosen},
        {name: found.paths[name] for name in chosen},
        found.num_layers,
        any(counts[name] > found.num_layers for name in chosen),
    )


def _advice(model_type: str, chosen: Sequence[str], faults: Mapping[str, str]) -> str:
    """What is wrong with the modules chosen, and which ones there are; `faults` are those of all linear modules."""
    able = ", ".join(name for name, fault in faults.items() if not fault)
    if not able:
        return (
            f"a {model_type} model has no linear module that is in all of its layers, with one name and one shape, and "
            "can carry a LoRA: choose another base model"
        )
    if wrong := next((name for name in chosen if faults.get(name)), None):
        return (
            f"the target module {wrong!r} of a {model_type} model cannot carry a LoRA ({faults[wrong]}): expected some "
            f"of {able}"
        )
    missing = [name for name in chosen if name not in faults]
    return (
        f"target modules {missing} are not linear modules of every layer of a {model_type} model: expected some of "
        f"{able}"
    )


def _uniform_modules(model: PreTrainedModel) -> TargetModules:
    """The linear modules that all layers of a model's decoder have once, with one shape."""
    from transformers.pytorch_utils import Conv1D

    decoder = model.get_decoder()
    start = next((f"{path}." for path, module in model.named_modules() if path and module is decoder), "")
    shapes: dict[str, dict[int, tuple[int, int]]] = {}
    paths: dict[str, set[str]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and path.startswith(start):
            out_features, in_features = module.weight.shape if isinstance(module, nn.Linear) else module.weight.T.shape
            name, layer = path.rpartition(".")[2], re.search(r"(?<=\.)\d+(?=\.)", path)
            template = f"{path[: layer.start()]}{{layer}}{path[layer.end() :]}" if layer else path
            paths.setdefault(name, set()).add(template)
            if layer:
                shapes.setdefault(name, {})[int(layer[0])] = (in_features, out_features)
    num_layers = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    same = {
        name: next(iter(by_layer.values()))
        for name, by_layer in shapes.items()
        if len(paths[name]) == 1 and by_layer.keys() == {*range(num_layers)} and len({*by_layer.values()}) == 1
    }
    return TargetModules(same, {name: next(iter(paths[name])) for name in same}, num_layers)


def _fault(model: PreTrainedModel, found: TargetModules, names: Sequence[str]) -> str:
    """Why PEFT cannot put LoRAs on the modules of these names and on no others, in one line; empty where it can.

    The model keeps the LoRAs.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    wanted = {found.paths[name].format(layer=layer): name for layer in range(found.num_layers) for name in names}
    try:
        with torch.device("meta"):
            inject_adapter_in_model(LoraConfig(r=1, target_modules=list(wanted)), model)
            taken = {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}
            if taken.keys() != wanted.keys():
                return "PEFT puts the LoRA on other modules"
            for path in list(wanted)[: len(names)]:
                in_features, out_features = found.shapes[wanted[path]]
                out = taken[path](torch.empty(1, 1, in_features, dtype=next(taken[path].parameters()).dtype))
                if out.shape != (1, 1, out_features):
                    return "its output is not one tensor"
            if _uncalled(model, taken):
                return "the model reads its weight without calling it"
    except Exception as error:  # which depends on what PEFT, or the module, is not made for
        return first_line(error)
    return ""


def _uncalled(model: PreTrainedModel, modules: Mapping[str, nn.Module]) -> set[str]:
    """Modules that a model on the meta device does not call when it reads a text; none where that cannot be tried."""
    left = {*modules}
    for path, module in modules.items():
        module.register_forward_hook(lambda *_, path=path: left.discard(path))
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=False)
    except Exception:  # some models branch on values, and the meta device has none
        return set()
    return left


def empty_model(base_config: PreTrainedConfig) -> PreTrainedModel:
    """A model on the meta device, made from its config: modules and shapes, without weights and without a download.

    Raises:
        CheckpointError: the config is not a decoder's, or has a value that no model can have.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(base_config)
    except Exception as error:  # which depends on what is wrong with the config, or on a package
        if "Unrecognized configuration class" in str(error):
            raise CheckpointError(
                f"a {base_config.model_type} model does not generate text: pass a decoder-only model"
            ) from error
        raise CheckpointError(
            f"a {base_config.model_type} model cannot be made from its config ({first_line(error)})"
        ) from error
