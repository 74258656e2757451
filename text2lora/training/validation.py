"""The validation of SFT: how well the base answers with the adapters of matched, wrong or no descriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from text2lora.scoring import JUNK, TaskScore
from text2lora.training.data import Probe, find_others
from text2lora.training.hypernet import SCORE

if TYPE_CHECKING:
    from accelerate import Accelerator

    from text2lora.modeling import Text2LoraModel


class Validation:
    """Computes `SPLIT/exact_match` and `SPLIT/loss` under each condition.

    Each process takes a share of the probes, or all of them if the base is sharded.

    Args:
        model: Makes the adapters; its encoder embeds the descriptions of the probes, once.
        probes: The probes of each validation split.
        score: `score_examples`, given all but the model, the embeddings and the examples.
        conditions: `matched`, `shuffled` (another task's description), `junk` or `none` (no adapter).
        select: What to choose weights by: `exact_match`, `loss` or, for no choice, `last`.
        accelerator: The accelerator of this process.
        share_probes: Whether each process takes a share of the probes.
    """

    def __init__(
        self,
        model: Text2LoraModel,
        probes: Mapping[str, Sequence[Probe]],
        score: Callable[..., list[TaskScore]],
        conditions: Sequence[str],
        select: str,
        accelerator: Accelerator,
        share_probes: bool = True,
    ):
        self._model, self._probes, self._score = model, probes, score
        self._conditions, self._select, encoder = conditions, select, model.encoder
        self._accelerator, self._device = accelerator, accelerator.device
        self._share = slice(accelerator.process_index, None, accelerator.num_processes) if share_probes else slice(None)
        self._embs = {
            split: encoder.encode([probe.description for probe in chosen]).to(self._device)
            for split, chosen in probes.items()
        }
        self._others = _others(probes)
        self._junk_emb = encoder.encode(list(JUNK)).to(self._device) if "junk" in conditions and probes else None
        self._without: dict[str, list[TaskScore]] = {}  # scores without adapter are the same at every validation

    def __call__(self) -> dict[str, float]:
        """Compute the figures of the model as it is now, and the one to choose weights by, if there is a choice."""
        figures: dict[str, float] = {}
        for condition in self._conditions:
            for split, chosen in self._probes.items():
                exact, loss = self._mean(self._scores(condition, split), len(chosen))
                name = split if condition == "matched" else f"{split} ({condition})"
                figures |= {f"{name}/exact_match": exact, f"{name}/loss": loss}
        if self._probes and self._select != "last":
            mean = sum(figures[f"{split}/{self._select}"] for split in self._probes) / len(self._probes)
            figures[SCORE] = -mean if self._select == "loss" else mean
        return figures

    def _scores(self, condition: str, split: str) -> list[TaskScore]:
        """The scores of this process's probes."""
        examples = [probe.examples for probe in self._probes[split][self._share]]
        task_emb = self._task_emb(condition, split)
        if task_emb is not None:
            return self._score(self._model, task_emb[self._share], examples)
        if split not in self._without:
            self._without[split] = self._score(None, None, examples)
        return self._without[split]

    def _task_emb(self, condition: str, split: str) -> torch.Tensor | None:
        own = self._embs[split]
        if condition == "matched":
            return own
        if condition == "shuffled":
            rows = [self._embs[other][i] for other, i in self._others[split]]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) if own.ndim == 3 else torch.stack(rows)
        if condition == "junk" and self._junk_emb is not None:
            return self._junk_emb[torch.arange(len(own)) % len(self._junk_emb)]
        return None

    def _mean(self, scores: Sequence[TaskScore], count: int) -> tuple[float, float]:
        """The mean exact match and loss over the probes of all processes."""
        exact, loss = sum(score.matches.float().mean().item() for score in scores), sum(score.loss for score in scores)
        sums = torch.tensor([exact, loss], dtype=torch.float32, device=self._device)  # zeros without probes here
        if self._share != slice(None) and self._accelerator.num_processes > 1:
            sums = self._accelerator.reduce(sums, "sum")
        exact, loss = (sums / count).tolist()
        return exact, loss


def _others(probes: Mapping[str, Sequence[Probe]]) -> dict[str, list[tuple[str, int]]]:
    """For each probe of a split, the split and row of a probe of another task, from its own split if possible."""
    everywhere = [(split, row) for split, chosen in probes.items() for row in range(len(chosen))]
    found: dict[str, list[tuple[str, int]]] = {}
    for split, chosen in probes.items():
        found[split] = [(split, row) for row in find_others([probe.examples for probe in chosen])]
        for row, probe in enumerate(chosen):
            if found[split][row] == (split, row):
                elsewhere = (place for place in everywhere if probes[place[0]][place[1]].examples != probe.examples)
                found[split][row] = next(elsewhere, (split, row))
    return found
