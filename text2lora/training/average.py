"""A checkpoint with the mean weights of others, such as those of the parts of one training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from text2lora.digest import config_values
from text2lora.errors import TrainingError
from text2lora.modeling import Text2LoraModel
from text2lora.training.engine import is_main_process
from text2lora.training.recipe import settings
from text2lora.training.state import save_checkpoint
from text2lora.training.task_files import locate


@settings
class AverageRecipe:
    """The mean of the weights of several checkpoints (Wortsman et al. 2022, "Model soups").

    It is often better than each of them on what none has seen, if all of them go back to the same weights: parts of one
    training, or trainings with several seeds that start from one checkpoint.

    Attributes:
        checkpoints: Folders or Hub ids of text2lora checkpoints with the same config. The first one's statistics of
            training descriptions are kept.
    """

    checkpoints: list[str]

    def __post_init__(self) -> None:
        if len(self.checkpoints) < 2:
            raise TrainingError(f"checkpoints is {self.checkpoints}: expected two or more to average")


@torch.no_grad()
def run_average(recipe: AverageRecipe, target: Path, report: Callable[[str], None], resume: bool, folder: Path) -> None:
    """Run a recipe of kind `average`; paths are relative to `folder`.

    Raises:
        CheckpointError: a checkpoint cannot be loaded.
        TrainingError: the checkpoints have different configs, or the result cannot be written.
    """
    if not is_main_process():
        return
    name, *others = recipe.checkpoints
    model = Text2LoraModel.from_pretrained(str(locate(name, folder)), dtype=torch.float32)
    mine, count = config_values(model.config), len(recipe.checkpoints)
    totals = {key: value / count for key, value in model.state_dict().items()}
    for other in others:
        part = Text2LoraModel.from_pretrained(str(locate(other, folder)), dtype=torch.float32)
        theirs = config_values(part.config)
        if different := sorted(key for key in mine | theirs if mine.get(key) != theirs.get(key) and key != "dtype"):
            key = different[0]
            raise TrainingError(
                f"{other} has {key} {theirs.get(key)!r}, and {name} has {mine.get(key)!r}: expected checkpoints with "
                "the same config"
            )
        for key, value in part.state_dict().items():
            totals[key] += value / count
    model.load_state_dict(totals)
    model.calibration = None  # which was fitted to the answers of other weights
    target.mkdir(parents=True, exist_ok=True)
    save_checkpoint(target, model)
    report(f"averaged {count} checkpoints")
