"""Where training runs: in one process or many, through accelerate."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from text2lora.errors import MissingExtraError, Text2LoraError, TrainingError
from text2lora.injection import LoraLinear
from text2lora.processor import is_slow, widen
from text2lora.training.quantized import Int8Linear
from text2lora.training.recipe import at_least, settings

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

AHEAD = 4
"""The number of steps that each worker prepares ahead."""


@settings
class EngineConfig:
    """Where and how training runs; the launcher (`torchrun`, `accelerate launch`) sets the number of processes.

    Attributes:
        device: `auto`, which uses the GPU if there is one, or `cpu`.
        mixed_precision: `no`, or `bf16` for autocast on devices that compute natively in bfloat16.
        gradient_checkpointing: Whether to save memory by recomputing the base's activations in the backward pass.
        compile: Whether to compile the base's layers with `torch.compile`, which delays the first step by a minute or
            two; on the CPU it needs a C++ compiler. Attention is then computed without a fused kernel, which is faster
            for short rows.
        int8: Whether the base's linear layers multiply 8-bit integers in training, in the forward and the backward
            pass; on the CPU only. Validation is in full precision. Use it with `compile`.
        workers: The number of processes that prepare the batches of the next steps of SFT while this one computes; 0
            prepares each batch when it is needed. A fast GPU would otherwise wait for the tokenizer. The processes are
            forked, so this needs Linux or macOS, and a source of tasks that does not use the GPU.
        shard_base: Whether to shard the frozen base over the processes (FSDP), layer by layer.
        trackers: Experiment trackers that accelerate supports: `trackio`, `tensorboard`, `wandb`, `mlflow`, ...; none
            by default.
        project: The project name under which the trackers store the run.
    """

    device: Literal["auto", "cpu"] = "auto"
    mixed_precision: Literal["no", "bf16"] = "no"
    gradient_checkpointing: bool = False
    compile: bool = False
    int8: bool = False
    workers: int = at_least(0, default=0)
    shard_base: bool = False
    trackers: list[str] = field(default_factory=list)
    project: str = "text2lora"


def is_main_process() -> bool:
    """Whether this is the only process, or the first one of a launcher: the one that reports and writes files.

    A launcher also sets WORLD_SIZE; a RANK without it was left behind by something else.
    """
    several = os.environ.get("WORLD_SIZE", "") not in ("", "0", "1")
    return not several or os.environ.get("RANK", "") in ("", "0")


def start_engine(config: EngineConfig, output_dir: Path, settings: object = None) -> Accelerator:
    """Create the accelerator of this process and start its trackers, whose files go into `output_dir`.

    They show the settings of the run, a dataclass, as its hyper-parameters.

    Raises:
        MissingExtraError: a tracker is not installed.
        TrainingError: accelerate does not know a tracker.
    """
    from accelerate import Accelerator, PartialState
    from accelerate.utils import parse_flag_from_env

    trackers = list(config.trackers)
    cpu = config.device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU")  # as Accelerator itself reads it
    device = PartialState(cpu=cpu).device
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".log_with")  # the error below covers it
            accelerator = Accelerator(
                cpu=cpu,
                mixed_precision="no" if is_slow(torch.bfloat16, device.type) else config.mixed_precision,
                log_with=trackers or None,
                project_dir=str(output_dir) if trackers else None,
            )
    except ValueError as error:
        if not trackers:
            raise
        raise TrainingError(f"trackers are {trackers}: {' '.join(str(error).split())}") from error
    if missing := set(trackers) - {str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with}:
        names = " ".join(sorted(missing))
        raise MissingExtraError(f"the tracker {names} is not installed: pip install {names}")
    if trackers:
        accelerator.init_trackers(config.project, plain_settings(settings))
    return accelerator


def plain_settings(settings: object, name: str = "") -> dict[str, Any]:
    """The settings of a run by the names that `--set` takes, such as `sft.fit.lr`; a list of values becomes text."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        settings = dataclasses.asdict(settings)
    if isinstance(settings, list) and any(isinstance(value, dict) for value in settings):
        settings = dict(enumerate(settings))
    if isinstance(settings, dict):
        parts = [plain_settings(value, f"{name}.{key}" if name else str(key)) for key, value in settings.items()]
        return {key: value for part in parts for key, value in part.items()}
    plain = settings is None or isinstance(settings, bool | int | float | str)
    return {name: settings if plain else json.dumps(settings)} if name else {}


class Ahead(Generic[T]):
    """What each step needs, by the step's number; steps are asked for in order.

    `close` ends the workers. It has to be called: they ignore SIGTERM, with which Python ends processes at its exit.

    Args:
        prepare: What a step needs; a function of the step alone.
        steps: The number of steps.
        workers: The number of processes that prepare steps ahead of time; see `EngineConfig`.
    """

    def __init__(self, prepare: Callable[[int], T], steps: int, workers: int):
        self._prepare, self._steps, self._workers = prepare, steps, workers
        self._pickled: Any = None

    def __getitem__(self, step: int) -> T:
        if not self._workers:
            return self._prepare(step)
        if self._pickled is None:
            if "fork" not in multiprocessing.get_all_start_methods():
                raise TrainingError(f"workers is {self._workers}: expected 0, for this system cannot fork processes")
            loader = DataLoader(
                _ByStep(self._prepare),
                batch_size=None,
                sampler=range(step, self._steps),
                num_workers=self._workers,
                prefetch_factor=AHEAD,
                worker_init_fn=_leave_signals,
                multiprocessing_context="fork",
                generator=torch.Generator(),  # leaves torch's own random numbers as they are
            )
            self._pickled = iter(loader)
        prepared: T | Exception = pickle.loads(next(self._pickled))
        if isinstance(prepared, Exception):
            raise prepared
        return prepared

    def close(self) -> None:
        """End the workers."""
        if self._pickled is not None:
            self._pickled._shutdown_workers()  # torch calls it when nothing refers to them, as the frames of errors do


@dataclass(frozen=True)
class _ByStep(Dataset[bytes]):
    """What a worker prepares, or the error, as bytes: they need no shared memory, of which containers have little."""

    prepare: Callable[[int], Any]

    def __getitem__(self, step: int) -> bytes:
        try:
            return pickle.dumps(self.prepare(step))
        except Text2LoraError as error:
            return pickle.dumps(error)


def _leave_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM are for the training process alone, which saves the run and then ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def prepare_base(base: PreTrainedModel, config: EngineConfig, accelerator: Accelerator) -> PreTrainedModel:
    """Freeze the base and move it to its device, in float32 if its dtype is slow there; make it fast, if asked to.

    Raises:
        TrainingError: an option does not suit the base, the device or another option.
    """
    base.requires_grad_(False).eval()
    if config.shard_base:
        _shard(base, accelerator)
    elif not getattr(base, "is_quantized", False) and getattr(base, "hf_device_map", None) is None:
        base.to(accelerator.device)
        widen(base)
    if config.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
        base.train()  # transformers uses gradient checkpointing in training mode only
        for module in base.modules():
            for name in ("p", "attention_dropout"):  # of nn.Dropout, and of attention layers
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
    if config.compile or config.int8:
        _speed_up(base, config, accelerator.device)
    return base


def _decoder_layers(base: PreTrainedModel) -> nn.ModuleList:
    return max((module for module in base.modules() if isinstance(module, nn.ModuleList)), key=len)


def _speed_up(base: PreTrainedModel, config: EngineConfig, device: torch.device) -> None:
    """Compile the base's layers, let them multiply 8-bit integers, or both."""
    if config.shard_base:
        raise TrainingError("shard_base does not work with compile or int8: leave out one of them")
    if config.int8 and device.type != "cpu":
        raise TrainingError(f"int8 is for the CPU, and the device is {device.type}: leave it out, or set device: cpu")
    layers, kind = _decoder_layers(base), Int8Linear if config.int8 else LoraLinear
    for path, module in list(layers.named_modules()):
        parent, _, name = path.rpartition(".")
        if type(module) is nn.Linear or isinstance(module, LoraLinear):
            setattr(layers.get_submodule(parent), name, kind(module))
        elif any(weight.ndim > 1 for weight in module.parameters(recurse=False)):
            raise TrainingError(
                f"the base's layers hold a {type(module).__name__} ({path}), and compile and int8 expect nn.Linear "
                "only: leave them out"
            )
    if config.compile:
        base.set_attn_implementation("eager")
        for layer in layers:
            layer.compile(dynamic=True)


def _shard(base: PreTrainedModel, accelerator: Accelerator) -> None:
    if accelerator.num_processes == 1:
        raise TrainingError("shard_base needs several processes: start with torchrun --nproc_per_node N")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for layer in _decoder_layers(base):
        fully_shard(layer, mesh=mesh)
    # keep the embeddings whole: the output layer, which may share their weights, is called separately
    fully_shard(base.base_model, mesh=mesh, ignored_params={base.get_input_embeddings().weight})
