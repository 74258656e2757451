"""Does the description matter? A checkpoint's adapters under right, reworded, wrong and meaningless descriptions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.arguments import check_count, checked, checked_class
from text2lora.arithmetic import cosine_matrix
from text2lora.base import context_length
from text2lora.errors import EvaluationError, shown
from text2lora.evaluation.metrics import Estimate, bootstrap_tasks, pearson, percentile_interval, resample, spearman
from text2lora.injection import LoraInjector
from text2lora.language import Example
from text2lora.lora import LoraWeights, map_factors
from text2lora.modeling import Text2LoraModel
from text2lora.novelty import mean_over_tokens
from text2lora.scoring import JUNK, TaskScore, score_examples
from text2lora.training.tasks import Task

CONDITIONS = {
    "matched": "the task's description",
    "paraphrased": "another wording of it",
    "shuffled": "another task's description",
    "junk": "text that describes nothing",
    "average": "one adapter from the mean of all descriptions",
    "none": "the base model alone",
}
MAX_COMPARED = 100
"""Tasks whose adapters are compared with each other: more would fill the memory, and no plot shows them."""


@checked_class(EvaluationError)
@dataclass(frozen=True)
class CheckTask:
    """A task to check with: the first description is the matched one, the second another wording of it."""

    name: str
    descriptions: list[str]
    examples: Sequence[Example]

    def __post_init__(self) -> None:
        if not self.examples:
            raise EvaluationError(f"the task {shown(self.name)} has no examples: expected at least one")


class Interval(NamedTuple):
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ConditionScore:
    """How the tasks are answered under one kind of adapter.

    Attributes:
        name: one of `CONDITIONS`.
        loss: the mean loss of an answer token, averaged over tasks.
        exact_match: the share of answers that are completely right, averaged over tasks.
        losses: the loss of each task; nan for a task without such a description.
        matches: the exact match of each task; nan for a task without such a description.
    """

    name: str
    loss: Estimate
    exact_match: Estimate
    losses: list[float] = field(repr=False)
    matches: list[float] = field(repr=False)


@dataclass(frozen=True)
class Similarities:
    """How similar descriptions and adapters are, for pairs of tasks.

    Attributes:
        descriptions: the cosine of the task embeddings of two tasks, or of the means of their token states.
        adapters: the cosine of their adapters' delta W over all modules.
        same_descriptions, same_adapters: the same for two wordings of one task.
        pearson, spearman: the correlation over the pairs of different tasks; nan for fewer than three pairs.
    """

    descriptions: list[float]
    adapters: list[float]
    same_descriptions: list[float]
    same_adapters: list[float]
    pearson: float
    spearman: float


@dataclass(frozen=True)
class ConditioningReport:
    """What `check_conditioning` found.

    Attributes:
        tasks: the names of the tasks.
        conditions: the results by name, in the order of `CONDITIONS`.
        gain: by how much matched descriptions lower the loss of the base model.
        explained: the share of the gain that is lost when each task gets another task's description: the sum over
            tasks of min(shuffled, none) - matched, divided by the sum of none - matched. It is at most 1, because a
            description that does harm counts like no adapter. None if the gain may be due to chance.
        similarities: how similar descriptions and adapters are.
    """

    tasks: list[str]
    conditions: dict[str, ConditionScore]
    gain: Interval
    explained: Interval | None
    similarities: Similarities

    @property
    def verdict(self) -> str:
        """The finding in one sentence."""
        loss = {name: condition.loss.mean for name, condition in self.conditions.items()}
        if self.explained is None:
            seen = f"with adapters {loss['matched']:.3f}, without {loss['none']:.3f}"
            if self.gain.value <= 0:
                return (
                    f"the adapters do not lower the loss on these tasks ({seen}): there is no gain for the description "
                    "to explain"
                )
            return (
                f"the adapters lower the loss on these {len(self.tasks)} tasks by {self.gain.value:.3f} ({seen}), but "
                f"the 95 % interval, {self.gain.low:.3f} to {self.gain.high:.3f}, includes zero: the gain may be due "
                "to chance, so nothing can be said about the descriptions; check with more tasks"
            )
        share, low, high = (round(100 * value) for value in self.explained)
        interval = f"95 % interval {low} to {high} %"
        if low <= 0:
            return (
                f"the description explains {share} % of the adapters' gain ({interval}); this interval includes 0, so "
                "the share may be due to chance"
            )
        return (
            f"the description explains {share} % of the adapters' gain ({interval}): this share is lost with another "
            f"task's description; the loss is {loss['matched']:.3f} with the right one, {loss['none']:.3f} without an "
            f"adapter and {loss['shuffled']:.3f} with another task's"
        )

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it, with the figures of every task; nan becomes None."""
        rows: dict[str, dict[str, Any]] = {
            name: {"loss": c.loss._asdict(), "exact_match": c.exact_match._asdict()}
            for name, c in self.conditions.items()
        }
        by_task = [
            {"task": task}
            | {
                name: {"loss": _number(c.losses[i]), "exact_match": _number(c.matches[i])}
                for name, c in self.conditions.items()
            }
            for i, task in enumerate(self.tasks)
        ]
        return {
            "verdict": self.verdict,
            "explained": self.explained._asdict() if self.explained else None,
            "gain": self.gain._asdict(),
            "conditions": rows,
            "similarity": {
                "pearson": _number(self.similarities.pearson),
                "spearman": _number(self.similarities.spearman),
                "pairs": len(self.similarities.adapters),
            },
            "tasks": by_task,
        }


@checked(EvaluationError)
def prepare_tasks(tasks: Sequence[Task], examples: int | None = None) -> list[CheckTask]:
    """Prepare tasks for the check: a held-out wording becomes the second one, and prompts lose their definitions.

    If a task has held-out examples, these are used.

    Args:
        tasks: the tasks, as `text2lora.training.task_files.read_tasks` returns them.
        examples: the largest number of examples to keep of each task.
    """
    return [
        CheckTask(
            task.name,
            [*task.descriptions[:1], *task.held_out_descriptions, *task.descriptions[1:]],
            [example.without_definition() for example in (task.held_out_examples or task.examples)[:examples]],
        )
        for task in tasks
    ]


@torch.no_grad()
@checked(EvaluationError)
def check_conditioning(
    model: Text2LoraModel,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[CheckTask],
    rows: int = 64,
    seed: int = 0,
    report: Callable[[str], None] = lambda name: None,
) -> ConditioningReport:
    """Measure how much of what a checkpoint's adapters do comes from the description.

    Every task's examples are answered with the adapter made from its description (matched), from another wording of it
    (paraphrased), from another task's description (shuffled: the tasks form a random cycle), from junk, with the
    average adapter, and by the base model alone. The average adapter is one for all tasks, made from the mean of what
    the hypernetwork reads of the matched descriptions, as in `Text2LoraModel.interpolate`. Intervals resample whole
    tasks, with the same picks for all conditions.

    Args:
        model: the checkpoint to check.
        base: its base model, without an adapter.
        tokenizer: the base model's tokenizer; prompts use its chat format, if it has one. If a prompt is longer than
            the base model can read, its middle is left out.
        tasks: two or more tasks; a task with one description is left out of the paraphrased row.
        rows: the number of examples in a batch; a batch holds at least the examples of one task.
        seed: the random seed of the bootstrap and of the cycle.
        report: receives the name of each condition when it starts.

    Raises:
        EvaluationError: there are fewer than two tasks, or one has no description.
    """
    _check_tasks(tasks)
    check_count(rows, "rows")
    injector = LoraInjector(base.eval(), model.eval().config)
    everyone = list(range(len(tasks)))
    reworded = [i for i in everyone if len(tasks[i].descriptions) > 1]
    report("descriptions")
    embs = _embed(model, tasks, reworded, seed)
    average = model._mix(embs["matched"], torch.full((len(tasks),), 1 / len(tasks)))
    made: dict[str, ConditionScore] = {}
    for name in CONDITIONS:
        if not (chosen := reworded if name == "paraphrased" else everyone):
            continue
        report(name)
        make = partial(_repeat, average) if name == "average" else model
        examples = [tasks[i].examples for i in chosen]
        found = score_examples(make, embs.get(name), examples, injector, base, tokenizer, rows, context_length(base))
        scores = dict(zip(chosen, found, strict=True))
        made[name] = _condition(name, [scores.get(i) for i in everyone], seed)

    report("similarities")
    losses = {name: torch.tensor(condition.losses, dtype=torch.double) for name, condition in made.items()}
    gain, explained = _explained(losses, seed)
    similarities = _similarities(model, embs["matched"], embs.get("paraphrased"), reworded)
    return ConditioningReport([task.name for task in tasks], made, gain, explained, similarities)


def _check_tasks(tasks: Sequence[CheckTask]) -> None:
    if len(tasks) < 2:
        raise EvaluationError(f"expected two or more tasks, whose descriptions can be swapped, got {len(tasks)}")
    if bare := [task.name for task in tasks if not task.descriptions]:
        raise EvaluationError(f"the task {bare[0]!r} has no description: expected at least one")


def _embed(
    model: Text2LoraModel, tasks: Sequence[CheckTask], reworded: Sequence[int], seed: int
) -> dict[str, torch.Tensor]:
    """What the hypernetwork reads for each task under each condition: an embedding for all tasks, or those reworded."""
    encode, everyone = model.encoder.encode, range(len(tasks))
    ring = random.Random(f"shuffled {seed}").sample(everyone, len(everyone))
    partner = dict(zip(ring, [*ring[1:], ring[0]], strict=True))
    own = encode([task.descriptions[0] for task in tasks])
    embs = {
        "matched": own,
        "shuffled": own[[partner[i] for i in everyone]],
        "junk": encode(list(JUNK))[[i % len(JUNK) for i in everyone]],
        "average": own,
    }
    if reworded:
        embs["paraphrased"] = encode([tasks[i].descriptions[1] for i in reworded])
    return embs


def _condition(name: str, found: Sequence[TaskScore | None], seed: int) -> ConditionScore:
    nan = float("nan")
    losses = [nan if score is None else score.loss for score in found]
    matches = [nan if score is None else score.matches.double().mean().item() for score in found]
    samples = sum(len(score.matches) for score in found if score is not None)
    loss, match = (
        bootstrap_tasks(torch.tensor(values, dtype=torch.double), samples, seed) for values in (losses, matches)
    )
    return ConditionScore(name, loss, match, losses, matches)


def _explained(losses: dict[str, torch.Tensor], seed: int) -> tuple[Interval, Interval | None]:
    """The gain in loss of matched over none, and the share of it that is lost when descriptions are shuffled."""
    matched, shuffled, none = (losses[name] for name in ("matched", "shuffled", "none"))
    picks = resample(len(matched), seed)
    gained, lost = none - matched, torch.minimum(shuffled, none) - matched
    gains = gained[picks].mean(1)
    gain = Interval(gained.mean().item(), *percentile_interval(gains))
    if gain.value <= 0 or gain.low <= 0:
        return gain, None
    shares = lost[picks].mean(1) / gains
    shares[gains <= 0] = float("nan")
    return gain, Interval((lost.mean() / gained.mean()).item(), *percentile_interval(shares))


def _repeat(weights: LoraWeights, task_emb: torch.Tensor) -> LoraWeights:
    """One LoRA for every task, whatever its embedding."""
    n = len(task_emb)
    return map_factors(lambda factor: factor.expand(n, *factor.shape[1:]), weights)


def _similarities(
    model: Text2LoraModel, own: torch.Tensor, other: torch.Tensor | None, reworded: list[int]
) -> Similarities:
    count = min(len(own), MAX_COMPARED)
    kept = [k for k, i in enumerate(reworded) if i < count]
    task_embs = [own[:count]] + ([other[kept]] if other is not None and kept else [])
    vectors = F.normalize(torch.cat([mean_over_tokens(emb) for emb in task_embs]).double().cpu(), dim=-1)
    texts = vectors @ vectors.T
    adapters = cosine_matrix([adapter for emb in task_embs for adapter in model.generate_lora([], task_emb=emb)])
    pairs = torch.triu_indices(count, count, 1)
    same = torch.tensor([[reworded[k] for k in kept], list(range(count, count + len(kept)))], dtype=torch.long)
    x, y = texts[pairs[0], pairs[1]], adapters[pairs[0], pairs[1]]
    enough = len(x) >= 3
    return Similarities(
        x.tolist(),
        y.tolist(),
        texts[same[0], same[1]].tolist(),
        adapters[same[0], same[1]].tolist(),
        pearson(x, y) if enough else float("nan"),
        spearman(x, y) if enough else float("nan"),
    )


def _number(value: float) -> float | None:
    return None if value != value else value
