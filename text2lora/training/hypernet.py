"""What SFT and reconstruction share: how the training of a hypernetwork begins and ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from text2lora.errors import TrainingError
from text2lora.modeling import Text2LoraModel
from text2lora.novelty import summarise_some
from text2lora.training.data import DescriptionBank
from text2lora.training.engine import EngineConfig, start_engine
from text2lora.training.fit import FitConfig, StepResult, fit
from text2lora.training.state import save_checkpoint

if TYPE_CHECKING:
    from accelerate import Accelerator

SCORE = "score"
"""The figure of a validation that selects the weights to keep; it is not reported."""


def begin_run(engine: EngineConfig, seed: int, tasks: int, output_dir: Path, settings: object) -> Accelerator:
    """Seed torch, make the folder and start the engine, whose trackers show the settings.

    Raises:
        TrainingError: there are fewer tasks per step than processes.
    """
    torch.manual_seed(seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    accelerator = start_engine(engine, output_dir, settings)
    world = accelerator.num_processes
    if tasks < world:
        raise TrainingError(f"tasks is {tasks}: expected at least one for each of the {world} processes")
    return accelerator


def embed_descriptions(
    model: Text2LoraModel,
    descriptions: Sequence[str],
    task_names: Sequence[str] | None,
    cache: Path | None,
    accelerator: Accelerator,
) -> DescriptionBank:
    """Move the model to its device, embed the descriptions of all tasks there, and give the model their statistics.

    Without the name of each description's task there are no statistics. If there is a cache, a file, the first process
    writes the embeddings to it, and the others read them.
    """
    model.to(accelerator.device)  # before it loads its encoder there, too
    with accelerator.main_process_first():
        bank = DescriptionBank(model.encoder, descriptions, cache)
    model.calibration = None  # that of a checkpoint that is trained further was fitted to its old weights
    names = None if model.config.one_hot_tasks else task_names
    model.description_statistics = summarise_some(bank.__getitem__, names) if names else None
    return bank


def fit_and_save(
    model: Text2LoraModel,
    backward: Callable[[int], StepResult],
    config: FitConfig,
    output_dir: Path,
    validate: Callable[[], dict[str, float]],
    report: Callable[[str], None],
    select: bool,
    resume: bool,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Run `fit`, write the checkpoint with the figures of the weights that are kept, and return those.

    With `select`, those are the weights with the highest `SCORE`, one of the figures of `validate`; otherwise, the last
    ones. The accelerator ends here.

    Raises:
        TrainingError: training fails (see `fit`).
    """

    def save(figures: Mapping[str, float]) -> None:
        """Write the checkpoint with the figures of its card."""
        shown = {name: value for name, value in figures.items() if name != SCORE}
        save_checkpoint(output_dir, model, eval_results=shown)

    figures = fit(
        model,
        backward,
        config,
        output_dir,
        validate,
        report,
        best=SCORE if select else None,
        save=save,
        resume=resume,
        accelerator=accelerator,
    )
    figures.pop(SCORE, None)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return figures
