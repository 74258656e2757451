"""Reads the checkpoints of the reference implementation (SakanaAI/text-to-lora): `hypermod.pt` and its two side files.

Everything follows from the checkpoint: sizes from its tensors, the order of target modules from the order of its
`heads.*` tensors. The base model is not needed.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from text2lora.configuration import Text2LoraConfig
from text2lora.errors import CheckpointError
from text2lora.files import first_line, parse_yaml, read_text
from text2lora.hub import MARKERS, UPSTREAM_WEIGHTS, Source, pointer_fault
from text2lora.hypernetwork import build_hypernetwork
from text2lora.lora import LoraSpec
from text2lora.names import absolute_name

WEIGHTS_NAME, ARGS_NAME, ADAPTER_NAME = UPSTREAM_WEIGHTS, "args.yaml", MARKERS["adapter"]
FILES = (WEIGHTS_NAME, ARGS_NAME, ADAPTER_NAME)

PATHS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "model.layers.{layer}.self_attn."),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "model.layers.{layer}.mlp."),
}
"""Where the Llama, Mistral, Qwen and Gemma families keep their linear modules; other names need the base's config."""

TASK_ENCODERS = {"linear": "pooled", "softmax": "softmax", "vq": "vq", "discrete": "discrete"}

RENAMES = (
    ("layer_embedding.", "layer_depth_encoder."),
    ("module_embedding.", "layer_type_encoder."),
    ("block1.", "mlp1.mlp."),
    ("block2.", "mlp2.mlp."),
    ("block3.", "mlp3."),
    ("factor_norm.", "out_emb_norm."),
    ("rank_embedding.", "pos_emb."),
    ("offset_a.", "AB_offset.A."),
    ("offset_b.", "AB_offset.B."),
    ("std_a.", "std_recon_target.A."),
    ("std_b.", "std_recon_target.B."),
    ("task_encoder.proj.", "task_encoder.mlp.0."),
    ("task_encoder.codebook", "task_encoder.embed"),
)
"""(prefix here, prefix there); what is not listed has the same name. The task encoder's norm depends on its kind."""

OLD_FORMAT = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
"""How files of torch.save began before they were zip files, which have checksums."""
VQ_CODEBOOK = "task_encoder.codebook"  # [codes, width] here, [width, codes] there
SFR_INSTRUCTION = "Instruct: Retrieve semantically similar text.\nQuery: {description}"


@dataclass(frozen=True)
class UpstreamArgs:
    """The keys of `args.yaml` that decide what the tensors mean, spelled and defaulted as there."""

    model_dir: str = ""
    target_modules: list[str] = field(default_factory=list)
    emb_model: str = ""
    training_task: str = "sft"
    encoder_type: str = "linear"
    hypernet_latent_size: int = 128
    head_in_size: int = 512
    shared_AB_head: bool = False
    autoreg_gen: bool = False
    learnable_pos_emb: bool = False
    use_one_hot_task_emb: bool = False
    pred_z_score: bool = False
    factorized: bool = False
    delta_w_scaling: float = 10000

    @property
    def head(self) -> str:
        """The head's name here."""
        return (("large", "rankwise"), ("medium", "small"))[self.shared_AB_head][self.autoreg_gen]


def find_upstream(source: Source) -> dict[str, Path] | None:
    """Find the files of a checkpoint of the reference; None for any other checkpoint.

    Raises:
        CheckpointError: there is such a checkpoint, but it is incomplete.
    """

    def has(name: str) -> bool:
        try:
            return source.find(name) is not None
        except CheckpointError:  # what is wrong with the source, the caller's loader says
            return False

    if has("config.json") or not any(has(name) for name in (ARGS_NAME, WEIGHTS_NAME)):
        return None
    return source.fetch(FILES)


def read_upstream(
    files: Mapping[str, Path], load_base_config: Callable[[str], PreTrainedConfig] | None = None
) -> tuple[Text2LoraConfig, dict[str, torch.Tensor]]:
    """Read a checkpoint of the reference implementation.

    Args:
        files: the paths of `hypermod.pt`, `args.yaml` and `adapter_config.json`.
        load_base_config: loads the config of the base model that the checkpoint names. It is called if the base model
            is a folder, to compare it with the tensors, and for module names that are not in `PATHS`.

    Returns:
        The config, and the state dict of a `Text2LoraModel` with this config, in float32, without unused buffers.

    Raises:
        CheckpointError: a file is damaged, unsafe or incomplete, or contradicts another; the message names it.
    """
    args = _read_args(files[ARGS_NAME])
    lora = _read_adapter_config(files[ADAPTER_NAME])
    tensors = _read_tensors(files[WEIGHTS_NAME])
    config = _derive_config(files, args, lora, tensors, load_base_config)
    return config, _convert(files[WEIGHTS_NAME], args, config, tensors)


def _read_args(path: Path) -> UpstreamArgs:
    raw = parse_yaml(read_text(path, CheckpointError), f"{path} cannot be read as plain YAML", CheckpointError)
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is not a mapping of settings")
    values: dict[str, Any] = {}
    for name, default in vars(UpstreamArgs()).items():
        value = raw.get(name)
        if value is None:
            continue
        kind = (int, float) if isinstance(default, int | float) and not isinstance(default, bool) else type(default)
        if not isinstance(value, kind) or isinstance(value, bool) != isinstance(default, bool):
            raise CheckpointError(f"{path}: {name} is {value!r}, expected {type(default).__name__}")
        values[name] = value
    args = UpstreamArgs(**values)
    for name, known in (("encoder_type", TASK_ENCODERS), ("training_task", ("sft", "recon"))):
        if getattr(args, name) not in known:
            raise CheckpointError(f"{path}: {name} is {getattr(args, name)!r}, expected one of {', '.join(known)}")
    if not all(isinstance(name, str) for name in args.target_modules):
        raise CheckpointError(f"{path}: target_modules is {args.target_modules}, expected a list of names")
    if not args.delta_w_scaling > 0:
        raise CheckpointError(f"{path}: delta_w_scaling is {args.delta_w_scaling}, expected a number above zero")
    return args


def _read_adapter_config(path: Path) -> LoraSpec:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({first_line(error)})") from error
    return LoraSpec.from_json(content, str(path))


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in its order, after a check of the checksums, without running any code in the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises half a dozen kinds
        fault = f"{path} is truncated, or not a file of torch.save ({error})"
        if path.read_bytes()[: len(OLD_FORMAT)] == OLD_FORMAT:
            fault = f"{path} is in the format of PyTorch before 1.6: load it and save it again with torch.save"
        raise CheckpointError(pointer_fault(path.parent) or fault) from error
    if damaged:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong; download it again")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds more than tensors and would run code on loading: refused") from error
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)})") from error
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path} contains a {type(state).__name__}, expected a dict of tensors")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise CheckpointError(f"{path}: {key!r} is not a tensor of floating-point numbers")
        if value.is_sparse or value.is_quantized or value.layout != torch.strided:
            raise CheckpointError(f"{path}: {key!r} is not a dense tensor")
        if not value.isfinite().all():
            raise CheckpointError(f"{path}: {key!r} has NaN or infinite entries")
    return dict(state)


def _derive_config(
    files: Mapping[str, Path],
    args: UpstreamArgs,
    lora: LoraSpec,
    tensors: dict[str, torch.Tensor],
    load_base_config: Callable[[str], PreTrainedConfig] | None,
) -> Text2LoraConfig:
    weights = files[WEIGHTS_NAME]
    modules = _modules_of(files, args, lora, tensors)
    num_layers, r, _ = tensors[f"AB_offset.A.{modules[0]}"].shape
    if r != lora.r:
        raise CheckpointError(f"{files[ADAPTER_NAME]} says r {lora.r}, but {weights} is for r {r}")
    shapes = {m: [tensors[f"AB_offset.A.{m}"].shape[2], tensors[f"AB_offset.B.{m}"].shape[1]] for m in modules}
    has_offset = args.training_task == "sft" or args.factorized
    means = args.training_task == "recon" and args.factorized and args.pred_z_score
    if args.training_task == "recon" and args.pred_z_score and not args.factorized:
        raise CheckpointError(f"{files[ARGS_NAME]}: pred_z_score needs factorized; the reference refuses this too")
    codebook_size = _codebook_size(files, args, tensors)
    discrete = args.encoder_type == "discrete"
    latent_size = args.hypernet_latent_size if discrete else tensors["mixer.4.weight"].shape[0]
    if latent_size != args.hypernet_latent_size or tensors["mlp3.4.weight"].shape[0] != args.head_in_size:
        raise CheckpointError(
            f"{files[ARGS_NAME]} says hypernet_latent_size {args.hypernet_latent_size} and head_in_size "
            f"{args.head_in_size}, but {weights} has {latent_size} and {tensors['mlp3.4.weight'].shape[0]}"
        )
    base = args.model_dir.rstrip("/") or lora.base_model_name_or_path
    base = base and absolute_name(base)
    return Text2LoraConfig(
        base_model_name_or_path=base,
        base_model_revision=lora.revision,
        **_encoder_settings(args, base),
        task_emb_size=tensors["task_encoder.mlp.0.weight"].shape[1],
        task_encoder=TASK_ENCODERS[args.encoder_type],
        codebook_size=codebook_size,
        latent_size=latent_size,
        head_input_size=args.head_in_size,
        head=args.head,
        rank_position="learned" if args.learnable_pos_emb or not args.autoreg_gen else "rotary",
        head_bias=f"heads.{modules[0]}.bias" in tensors,
        output_std=means,
        offset=means or (has_offset and any(tensors[key].any() for key in tensors if key.startswith("AB_offset."))),
        num_layers=num_layers,
        target_modules=modules,
        module_shapes=shapes,
        **_module_paths(files[ADAPTER_NAME], modules, shapes, num_layers, base, load_base_config),
        lora_r=r,
        lora_alpha=float(lora.lora_alpha),
        use_rslora=lora.use_rslora,
    )


def _modules_of(
    files: Mapping[str, Path], args: UpstreamArgs, lora: LoraSpec, tensors: Mapping[str, torch.Tensor]
) -> list[str]:
    """The target modules, in the order of the heads. Other tensors that the config is derived from are checked, too."""
    weights = files[WEIGHTS_NAME]
    modules = list(dict.fromkeys(key.split(".")[1] for key in tensors if key.startswith("heads.")))
    if not modules:
        raise CheckpointError(f"{weights} has no heads.* tensors: not a hypernetwork of the reference implementation")
    for file, listed in ((ADAPTER_NAME, lora.target_modules), (ARGS_NAME, args.target_modules or modules)):
        if sorted(modules) != sorted(listed):
            raise CheckpointError(
                f"{files[file]} lists the target modules {sorted(listed)}, but {weights} has heads for "
                f"{sorted(modules)}"
            )
    if len(modules) > 1 and list(tensors) == sorted(tensors):
        raise CheckpointError(
            f"the tensors of {weights} are sorted by name, so the order of its target modules is lost: use the file "
            "that training wrote"
        )
    needed = [f"AB_offset.{letter}.{name}" for name in modules for letter in "AB"]
    needed += ["task_encoder.mlp.0.weight", "mixer.4.weight", "mlp3.4.weight"]
    if missing := [key for key in needed if key not in tensors]:
        raise CheckpointError(f"{weights} lacks {', '.join(missing)}")
    if bad := [key for key in needed if tensors[key].ndim != (3 if key.startswith("AB_") else 2)]:
        raise CheckpointError(f"{weights}: {bad[0]} has the shape {list(tensors[bad[0]].shape)}")
    return modules


def _codebook_size(files: Mapping[str, Path], args: UpstreamArgs, tensors: Mapping[str, torch.Tensor]) -> int:
    """The number of codes of the task encoder, or the usual one if the task encoder has none."""
    weights = files[WEIGHTS_NAME]
    if args.encoder_type == "discrete" and args.hypernet_latent_size != 128:
        raise CheckpointError(
            f"{files[ARGS_NAME]}: the discrete encoder fits a hypernet_latent_size of 128, not of "
            f"{args.hypernet_latent_size}; the reference cannot run this checkpoint either"
        )
    codes = {"softmax": "task_encoder.embed", "vq": "task_encoder.cluster_size", "discrete": "task_encoder.mlp.3.bias"}
    if args.encoder_type not in codes:
        return Text2LoraConfig.codebook_size
    if (name := codes[args.encoder_type]) not in tensors:
        raise CheckpointError(f"{weights} lacks {name}")
    return len(tensors[name])


def _encoder_settings(args: UpstreamArgs, base: str | None) -> dict[str, Any]:
    """How the reference embeds descriptions. It cannot use encoders other than these two families."""
    name = args.emb_model.rstrip("/")
    if args.use_one_hot_task_emb:
        return {"encoder_name_or_path": None, "encoder_pooling": "one-hot"}
    if name and "SFR" not in name and "gte" not in name:
        return {"encoder_name_or_path": None}
    common = {"encoder_normalize": True, "encoder_max_length": 8192}
    more: dict[str, Any]
    if "SFR" in name:
        more = {"encoder_pooling": "last", "encoder_instruction": SFR_INSTRUCTION, "encoder_dtype": "bfloat16"}
    elif name:
        more = {"encoder_pooling": "cls", "encoder_full_stop": True, "encoder_dtype": "float32"}
    else:  # the base model itself
        more = {"encoder_pooling": "last", "encoder_full_stop": True, "encoder_dtype": "bfloat16"}
    return {"encoder_name_or_path": name or base, **common, **more}


def _module_paths(
    path: Path,
    modules: list[str],
    shapes: dict[str, list[int]],
    num_layers: int,
    base: str | None,
    load_base_config: Callable[[str], PreTrainedConfig] | None,
) -> dict[str, Any]:
    unknown = [name for name in modules if name not in PATHS]
    if not base or load_base_config is None or not (unknown or os.path.isdir(base)):
        if unknown:
            raise CheckpointError(f"{path}: the place of {unknown[0]} in the base model is known only from its config")
        return {"module_paths": {name: PATHS[name] + name for name in modules}}
    try:
        base_config = load_base_config(base)
    except Exception as error:  # which depends on what is wrong with its file
        raise CheckpointError(f"the config of the base model {base} cannot be loaded ({first_line(error)})") from error
    fitted = Text2LoraConfig.from_base_config(base_config, modules)
    if fitted.num_layers != num_layers or fitted.module_shapes != shapes:
        raise CheckpointError(
            f"{path}: the checkpoint is for {num_layers} layers with the shapes {shapes}, but the base model has "
            f"{fitted.num_layers} with {fitted.module_shapes}"
        )
    return {"module_paths": fitted.module_paths, "whole_paths": fitted.whole_paths}


def _convert(
    path: Path, args: UpstreamArgs, config: Text2LoraConfig, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Rename, strictly: the file has exactly the tensors that the reference writes for this config."""
    with torch.device("meta"):
        ours = {key: list(value.shape) for key, value in build_hypernetwork(config).state_dict().items()}
    expected = _dead_buffers(config)
    for key, shape in ours.items():
        expected |= dict.fromkeys(_upstream_names(key, config), _upstream_shape(key, shape, config))
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    wrong = [
        f"{name} {list(tensors[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in tensors and list(tensors[name].shape) != shape
    ]
    faults = (("lacks", missing), ("has unknown tensors", extra), ("has tensors of a wrong shape", wrong))
    if found := [f"{what}: {', '.join(names)}" for what, names in faults if names]:
        raise CheckpointError(f"{path} {'; '.join(found)}")
    state = {}
    for key in ours:
        parts = [tensors[name].float() for name in _upstream_names(key, config)]
        value = torch.stack(parts).unflatten(0, (-1, 2)) if key == "factor_embedding" else sum(parts[1:], parts[0])
        if key.startswith("std_"):
            value = value + 1e-10
        elif key == VQ_CODEBOOK and config.task_encoder == "vq":
            value = value.T
        elif key.startswith("heads.") and args.training_task == "recon" and not args.factorized:
            value = value / args.delta_w_scaling**0.5  # trained on delta W times delta_w_scaling
        state[f"hypernet.{key}"] = value.contiguous()
    return state


def _dead_buffers(config: Text2LoraConfig) -> dict[str, list[int]]:
    """Tensors that the reference writes whether they are used or not, with their shapes."""
    layers, r = config.num_layers, config.lora_r
    buffers: dict[str, list[int]] = {}
    for name, (d_in, d_out) in config.module_shapes.items():
        for kind in ("AB_offset", "mean_recon_target", "std_recon_target"):
            buffers |= {f"{kind}.A.{name}": [layers, r, d_in], f"{kind}.B.{name}": [layers, d_out, r]}
    if config.task_encoder == "vq":
        codes, width = config.codebook_size, config.latent_size // 2
        buffers |= {"task_encoder.cluster_size": [codes], "task_encoder.embed_avg": [width, codes]}
    return buffers


def _upstream_names(key: str, config: Text2LoraConfig) -> list[str]:
    """The names of the reference's tensors from which one of our tensors is made."""
    if key == "factor_embedding":
        return [f"out_emb.{name}.{letter}" for name in config.target_modules for letter in "AB"]
    if key.startswith("task_encoder.norm."):
        there = "task_encoder.mlp.1." if config.task_encoder == "pooled" else "task_encoder.ln."
        return [there + key.removeprefix("task_encoder.norm.")]
    for ours, theirs in RENAMES:
        if key.startswith(ours):
            name = theirs + key.removeprefix(ours)
            offset_of_z_scores = config.output_std and name.startswith("AB_offset.")
            return [name, name.replace("AB_offset.", "mean_recon_target.")] if offset_of_z_scores else [name]
    return [key]


def _upstream_shape(key: str, shape: list[int], config: Text2LoraConfig) -> list[int]:
    """The shape that those tensors have in the reference."""
    if key == "factor_embedding":
        return shape[2:]  # one vector per module and factor
    return shape[::-1] if key == VQ_CODEBOOK and config.task_encoder == "vq" else shape
