"""The state of a run on disk: all that it needs to resume exactly where it stopped."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from text2lora.errors import OutputError, TrainingError
from text2lora.files import atomic_file, first_line, temporary_prefix
from text2lora.hub import CHECKPOINT_FILES

FOLDER = "state"


@dataclass
class RunState:
    """The progress of a run, which its steps change.

    Attributes:
        step: The number of completed steps.
        loss: The running mean of the loss.
        seconds: The time spent so far.
        best: The best validation score so far, or None.
        settings: The settings that the run was started with.
        figures: The figures of the best validation, or of the last one if there is no score.
    """

    step: int
    loss: float
    seconds: float
    best: float | None
    settings: Mapping[str, Any]
    figures: Mapping[str, float] = field(default_factory=dict)


def state_path(output_dir: Path, step: int) -> Path:
    """The path of the state after `step` steps."""
    return output_dir / FOLDER / f"step-{step:08d}.pt"


def save_state(
    output_dir: Path, state: RunState, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], keep: int = 1
) -> None:
    """Write the state atomically, then remove all but the newest `keep`.

    Raises:
        TrainingError: the state cannot be written; earlier states are kept.
    """
    path = state_path(output_dir, state.step)
    parts: dict[str, Any] = {"run": asdict(state), "module": _trained(module)}
    parts["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
    _write(parts, path)
    for old in sorted(path.parent.glob("step-*.pt"))[:-keep]:
        old.unlink()


def find_state(output_dir: Path) -> Path | None:
    """The newest state of an unfinished run, if any."""
    return max((output_dir / FOLDER).glob("step-*.pt"), default=None)


def find_states(folder: Path) -> list[Path]:
    """All states of unfinished runs in a folder and its subfolders."""
    return sorted(folder.glob(f"**/{FOLDER}/step-*.pt"))


def load_state(path: Path, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> RunState:
    """Restore the module and the optimisers from a saved state.

    Raises:
        TrainingError: the file is damaged or belongs to another run.
    """
    try:
        parts = torch.load(path, map_location="cpu", weights_only=True)
        _restore(module, parts["module"])
        for optimizer, state in zip(optimizers, parts["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        return RunState(**parts["run"])
    except Exception as error:
        raise TrainingError(f"{path} cannot be resumed ({first_line(error)}): delete it, or use its recipe") from error


def save_best(output_dir: Path, module: nn.Module) -> None:
    """Save the weights with the best validation score so far."""
    _write(_trained(module), output_dir / FOLDER / "best.pt")


def load_best(output_dir: Path, module: nn.Module) -> None:
    """Restore the weights that `save_best` saved, if any.

    Raises:
        TrainingError: the file is damaged.
    """
    path = output_dir / FOLDER / "best.pt"
    if path.is_file():
        try:
            _restore(module, torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises many types
            raise TrainingError(
                f"{path}, the best weights, cannot be read ({first_line(error)}): start again in another folder"
            ) from error


def save_checkpoint(output_dir: Path, model: PreTrainedModel, **options: Any) -> None:
    """Write the files of `save_pretrained`, each atomically, in place of all those of an earlier checkpoint.

    Raises:
        TrainingError: a file cannot be written; earlier files are kept.
    """
    try:
        written: set[str] = set()
        prefix = temporary_prefix(output_dir / "checkpoint")
        with tempfile.TemporaryDirectory(prefix=prefix, dir=output_dir) as temporary:
            model.save_pretrained(temporary, **options)
            for path in sorted(Path(temporary).iterdir()):
                os.replace(path, output_dir / path.name)
                written.add(path.name)
        for path in (path for pattern in CHECKPOINT_FILES for path in output_dir.glob(pattern)):
            if path.name not in written:  # of an earlier checkpoint, whose weights they describe
                path.unlink()
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _cannot_write(output_dir, error) from error


def remove_states(output_dir: Path) -> None:
    """Remove the files that only an unfinished run needs."""
    shutil.rmtree(output_dir / FOLDER, ignore_errors=True)


def _trained(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def _restore(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if parameters.keys() != weights.keys():
        raise ValueError("its weights do not match the model's")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def _write(content: object, path: Path) -> None:
    try:
        with atomic_file(path) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: Exception) -> TrainingError:
    cause = error.__cause__ or error if isinstance(error, OutputError) else error
    reason = getattr(cause, "strerror", None) or " ".join(str(cause).split())[:120]
    return TrainingError(f"{path} cannot be written ({reason}): the last good state is kept; free some disk space")
