"""LoRA weights in memory, in two forms: stacked by module, and under the keys of PEFT."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from text2lora.arguments import checked_class
from text2lora.bundled import BASE_OF
from text2lora.configuration import Text2LoraConfig
from text2lora.errors import CheckpointError, InvalidArgumentError, shown
from text2lora.files import check_model_name

if TYPE_CHECKING:
    from peft import LoraConfig

LoraWeights = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""By target module: A [n, N, r, in] and B [n, N, out, r] of n adapters in N layers."""
PEFT_PREFIX = "base_model.model."
FLOAT_MAX = torch.finfo(torch.float32).max

WITHOUT_EFFECT = {
    *("auto_mapping", "inference_mode", "peft_type", "peft_version", "task_type"),
    *("base_model_name_or_path", "lora_alpha", "r", "revision", "use_rslora"),  # which are read
    *("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules"),  # the weights say where they are
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config"),  # `init_lora_weights` says whether they count
    *("fan_in_fan_out", "lora_dropout", "megatron_core", "runtime_config"),  # of modules, training and the machine
}
"""Fields of `peft.LoraConfig` that change nothing of y = W x + scaling * B A x, once A and B are there."""

PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that start A and B; all others change the base's weights, too."""


@dataclass(frozen=True)
class LoraSpec:
    """What PEFT needs to know about a LoRA besides its weights; the fields are spelled as in `peft.LoraConfig`.

    `target_modules` are ends of the modules' paths in the base model: names, or whole paths if a name is ambiguous.
    """

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...]
    use_rslora: bool = False
    base_model_name_or_path: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        wrong, names = "", self.target_modules
        if isinstance(self.r, bool) or not isinstance(self.r, int) or not 1 <= self.r < 2**31:
            wrong = f"r is {shown(self.r)}: expected a whole number from 1 upwards"
        alpha = self.lora_alpha
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= FLOAT_MAX:
            wrong = f"lora_alpha is {shown(self.lora_alpha)}: expected a number"
        if not isinstance(self.use_rslora, bool):
            wrong = f"use_rslora is {shown(self.use_rslora)}: expected true or false"
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
            wrong = f"target_modules is {shown(names)}: expected a list of names"
        for name in ("base_model_name_or_path", "revision"):
            if not isinstance(getattr(self, name), str | None):
                wrong = f"{name} is {shown(getattr(self, name))}: expected a string or None"
        if wrong:
            raise CheckpointError(wrong)
        object.__setattr__(self, "target_modules", tuple(sorted(names)))  # which PEFT keeps as a set

    @property
    def scaling(self) -> float:
        """What PEFT multiplies B A with: alpha / sqrt(r) under rsLoRA, else alpha / r."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @property
    def module_names(self) -> tuple[str, ...]:
        """The names of the target modules, without the paths before them."""
        return tuple(dict.fromkeys(module.rpartition(".")[2] for module in self.target_modules))

    def base(self, other: str | os.PathLike[str] | None = None) -> tuple[str | None, str | None]:
        """The name and the revision of the base model, or of another one.

        Args:
            other: a folder or a Hub id, to use instead.
        """
        if other is None:
            return self.base_model_name_or_path, self.revision
        name = check_model_name(other)
        return BASE_OF.get(name, name), None

    def to_peft(self) -> LoraConfig:
        """The `peft.LoraConfig`, for inference."""
        from peft import LoraConfig

        return LoraConfig(**{key: value for key, value in self.to_json().items() if key != "peft_type"})

    @classmethod
    def from_json(cls, config: Any, source: str, target_modules: Sequence[str] | None = None) -> LoraSpec:
        """Read the contents of an `adapter_config.json`.

        Args:
            config: the contents.
            source: where they come from, for error messages.
            target_modules: the target modules, if the contents do not list them.

        Raises:
            CheckpointError: the contents are not those of a plain LoRA, or a value cannot be used.
        """
        kind = config.get("peft_type") if isinstance(config, dict) else None
        if kind != "LORA":
            raise CheckpointError(f"{source} is not a LoRA adapter of PEFT (peft_type {shown(kind)})")
        if fault := find_unplain(config):
            raise CheckpointError(f"{source} is not a plain LoRA adapter ({fault}): load it with peft.PeftModel")
        given = {f.name: config[f.name] for f in dataclasses.fields(cls) if f.name in config}
        given |= {} if target_modules is None else {"target_modules": target_modules}
        try:
            return cls(**{"r": None, "lora_alpha": None, "target_modules": None} | given)
        except CheckpointError as error:
            raise CheckpointError(f"{source} has an adapter_config.json that cannot be used: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The contents of `adapter_config.json`: the fields of `to_peft` that are not PEFT's defaults, and a few more.

        Older PEFTs refuse fields that they do not know. PEFT itself is not imported, because that takes a second.
        """
        fields = {
            "base_model_name_or_path": self.base_model_name_or_path,
            "inference_mode": True,
            "lora_alpha": self.lora_alpha,
            "peft_type": "LORA",
            "r": self.r,
            "target_modules": list(self.target_modules),
            "task_type": "CAUSAL_LM",
        }
        given = {"use_rslora": self.use_rslora, "revision": self.revision}
        return fields | {name: value for name, value in given.items() if value not in (None, False)}


@functools.cache
def _usual_lora_config() -> dict[str, Any]:
    """PEFT's defaults."""
    from peft import LoraConfig

    return LoraConfig().to_dict()


def find_unplain(lora_config: Mapping[str, Any]) -> str | None:
    """The first field of a saved `peft.LoraConfig` that makes it more than A, B and one scaling, with its value.

    A field that PEFT does not know, of a later version perhaps, counts unless it is empty.
    """
    usual = _usual_lora_config()
    for name, value in lora_config.items():
        if name == "init_lora_weights":
            is_plain = isinstance(value, str | bool | None) and value in PLAIN_STARTS
        else:
            is_plain = name in WITHOUT_EFFECT or value == usual.get(name) or not (value or usual.get(name))
        if not is_plain:
            return f"{name} is {str(value)[:60]!r}" if isinstance(value, str) else f"{name} is {str(value)[:60]}"
    return None


def targeted_modules(spec: LoraSpec, paths: Iterable[str]) -> list[str]:
    """The modules, out of some paths, that PEFT finds by the target modules, which are ends of paths."""
    ends = tuple(f".{target}" for target in spec.target_modules)
    return [path for path in paths if f".{path}".endswith(ends)]


@checked_class(InvalidArgumentError)
@dataclass(frozen=True, repr=False, eq=False)
class Lora:
    """One LoRA in memory; `LoraAdapter` adds files, the Hub and models.

    Attributes:
        weights: the matrices by their keys in PEFT, such as
            `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` [r, in].
        spec: the rank, alpha, target modules and base model.
        metadata: where the LoRA comes from: description, checkpoint, encoder, library version.
    """

    weights: Mapping[str, torch.Tensor]
    spec: LoraSpec
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Whether the other one has the same weights, bit for bit, on any device, and the same spec and metadata."""
        if not isinstance(other, Lora) or (self.spec, self.metadata) != (other.spec, other.metadata):
            return False
        same = self.weights.keys() == other.weights.keys()
        pairs = ((weight, other.weights[key]) for key, weight in self.weights.items()) if same else ()
        return same and all(torch.equal(mine, theirs.to(mine.device)) for mine, theirs in pairs)

    __hash__ = None  # type: ignore[assignment]  # the weights can be changed in place

    @property
    def module_paths(self) -> set[str]:
        """Where in the base the weights belong."""
        return {key.path for key in map(LoraKey.parse, self.weights)}

    def pairs(self) -> Iterable[tuple[str, torch.Tensor, torch.Tensor]]:
        """The path of each module with its A [r, in] and B [out, r]."""
        for key, a in self.weights.items():
            if (parsed := LoraKey.parse(key)).factor == "A":
                yield parsed.path, a, self.weights[lora_key(parsed.path, "B")]


class LoraKey(NamedTuple):
    """PEFT's key of a weight, in its parts: the module's path in the base, and `A` or `B`."""

    path: str
    factor: str

    @classmethod
    def parse(cls, key: str) -> LoraKey:
        """Split a key into its parts. Any other text is split in the same places, without a check."""
        path, _, factor = key.removeprefix(PEFT_PREFIX).rpartition(".lora_")
        return cls(path, factor.removesuffix(".weight"))


def lora_key(path: str, factor: str) -> str:
    """PEFT's key of the weight `A` or `B` of the module at a path of the base."""
    return f"{PEFT_PREFIX}{path}.lora_{factor}.weight"


def layer_keys(config: Text2LoraConfig, module: str, factor: str) -> list[str]:
    """PEFT's keys of a target module's A or B, layer by layer."""
    path = config.module_paths[module]
    return [lora_key(path.format(layer=layer), factor) for layer in range(config.num_layers)]


def map_factors(change: Callable[[torch.Tensor], torch.Tensor], weights: LoraWeights) -> LoraWeights:
    """Stacked LoRAs whose every A and B was changed in the same way."""
    return {name: (change(a), change(b)) for name, (a, b) in weights.items()}


def concatenate(parts: Sequence[LoraWeights]) -> LoraWeights:
    """Several stacks of LoRAs as one, in their order."""
    return {
        name: (torch.cat([part[name][0] for part in parts]), torch.cat([part[name][1] for part in parts]))
        for name in parts[0]
    }


def unstack(config: Text2LoraConfig, weights: LoraWeights, count: int) -> list[dict[str, torch.Tensor]]:
    """Stacked LoRAs as `count` mappings by PEFT's key, on the CPU; no tensor keeps the stack alive."""
    states: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    for name, factors in weights.items():
        for letter, factor in zip("AB", factors, strict=True):
            keys = layer_keys(config, name, letter)
            for state, layers in zip(states, factor.cpu(), strict=True):
                for key, weight in zip(keys, layers, strict=True):  # torch transposes matrices faster than stacks
                    state[key] = weight.clone(memory_format=torch.contiguous_format)
    return states


def stack(config: Text2LoraConfig, loras: Sequence[Mapping[str, torch.Tensor]]) -> LoraWeights:
    """Mappings by PEFT's key, of the config's modules and layers, as stacked LoRAs in float32."""
    found = {}
    for name in config.target_modules:
        a, b = (
            torch.stack(
                [torch.stack([lora[key].float() for key in layer_keys(config, name, letter)]) for lora in loras]
            )
            for letter in "AB"
        )
        found[name] = a, b
    return found


def spec_of(config: Text2LoraConfig) -> LoraSpec:
    """What a checkpoint's config says of the LoRAs that it makes."""
    targets = config.target_modules
    if config.whole_paths:
        targets = [config.module_paths[name].format(layer=i) for i in range(config.num_layers) for name in targets]
    return LoraSpec(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        target_modules=tuple(targets),
        use_rslora=config.use_rslora,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.base_model_revision,
    )
