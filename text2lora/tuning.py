"""Adapters from a description and a few examples: gradient steps on the task's latent and on the adapter itself.

The latent [d] is what the task encoder hands to the heads of the hypernetwork, a few hundred numbers for each task. A
step on it gives an adapter of the kind that the hypernetwork was trained to write, which a handful of examples cannot
overfit. What no latent gives comes from the second part, an offset that is added to A and B and starts at zero: steps
on it are those of ordinary LoRA training. Both are tuned at once, and the hypernetwork stays as it is.

Examples that are left out decide how far to go: each task is tuned several times, each time without a part of its
examples. The number of steps is the one after which most answers are right, those of the adapters that did not see an
example and those of the adapter that saw all together, and never fewer of the former than before tuning.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.attach import input_device
from text2lora.errors import InvalidInputError, about, shown
from text2lora.hypernetwork import HyperNetwork
from text2lora.injection import LoraInjector
from text2lora.language import AnswerBatch, answer_logits, check_text, count_matches, fit_answers, prompt_batch
from text2lora.lora import LoraWeights, map_factors

Pair = tuple[str, str]
"""An input and its right answer."""

Examples = Sequence[Pair | Sequence[str] | Mapping[str, str]]
"""Pairs, as tuples, lists or `{"prompt": ..., "answer": ...}`."""

OnStep = Callable[[int, int], None]
"""Receives the number of steps taken and the maximum."""

LATENT_RATE = 0.1
"""Adam's learning rate of latents, whose numbers have a standard deviation of about 1."""
OFFSET_RATE = 0.001
"""Adam's learning rate of offsets."""
STEPS = 20
"""The maximum number of steps."""
PATIENCE = 4
"""Steps without a gain after which tuning stops."""
WORTH = 0.9
"""A gain is another right answer, or a left-out loss below this share of that at the last gain."""
FOLDS = 2
"""The number of parts that are left out in turn; more take longer and choose hardly better."""
MAX_EXAMPLES = 64
TOKENS = 2048
"""Tokens that are read in one pass; a task that has more is read in a pass of its own."""
NUMBERS = 2**27
"""Numbers that are tuned at once; a task that has more is tuned alone."""


TUNING = ("examples", "tuning_steps", "left_out_correct_before", "left_out_correct_after")
"""The metadata of a tuned adapter."""


@dataclass(frozen=True)
class Tuned:
    """How an adapter was tuned.

    Attributes:
        weights: The tuned A [layers, r, in] and B [layers, out, r] by target module; empty if no step was taken.
        examples: The number of examples.
        steps: The number of steps taken; 0 if the adapter stays as the description gave it.
        before: How many left-out examples the adapter answers right before tuning. A single example is never left out.
        after: How many it answers right after tuning.
    """

    weights: LoraWeights
    examples: int = 0
    steps: int = 0
    before: int = 0
    after: int = 0

    @property
    def share(self) -> float | None:
        """The share of the left-out examples that the adapter answers right; None if no example was left out."""
        return self.after / self.examples if self.examples > 1 else None

    def as_metadata(self) -> dict[str, str]:
        """The figures as an adapter's metadata."""
        if not self.examples:
            return {}
        found = {"examples": str(self.examples), "tuning_steps": str(self.steps)}
        if self.examples > 1:
            found["left_out_correct_before"] = f"{self.before} of {self.examples}"
            found["left_out_correct_after"] = f"{self.after} of {self.examples}"
        return found


def tuning_report(metadata: Mapping[str, str]) -> str | None:
    """What tuning did to an adapter, in one sentence; None for an adapter that was made without examples."""
    if "examples" not in metadata:
        return None
    count, steps, before, after = (metadata.get(name) for name in TUNING)
    given = f"{count} example{'' if count == '1' else 's'}"
    if steps == "0":
        answers = f" ({before} are answered right)" if before else ""
        return f"{given}: no step did better than the description alone, so the adapter is unchanged{answers}"
    taken = f"{given}, {steps} step{'' if steps == '1' else 's'}"
    return f"{taken}: {before} left-out examples answered right before, {after} after" if before else taken


def check_examples(examples: object) -> list[Pair]:
    """Examples as a list of pairs of texts.

    Raises:
        InvalidInputError: they are not pairs of an input and an answer, or too many.
    """
    if isinstance(examples, str | bytes) or not isinstance(examples, Sequence):
        raise InvalidInputError(f"examples are {shown(examples)}: expected a list of pairs of an input and its answer")
    found: list[Pair] = []
    for number, example in enumerate(examples, 1):
        pair: Any = example
        if isinstance(example, Mapping) and "prompt" in example:  # as in files, see `training.task_files.read_tasks`
            pair = example["prompt"], example.get("response", example.get("answer"))
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InvalidInputError(f"example {number} is {shown(example)}: expected a pair of an input and its answer")
        with about("example", number):
            found.append((check_text(pair[0]), check_text(pair[1], "the answer").strip()))
    if len(found) > MAX_EXAMPLES:
        raise InvalidInputError(
            f"{len(found)} examples are too many: expected at most {MAX_EXAMPLES}; with more, train a LoRA with "
            "`t2l train`"
        )
    return found


def check_example_lists(examples: object, count: int) -> list[list[Pair]]:
    """The examples of each of `count` descriptions; none for None.

    Raises:
        InvalidInputError: see `check_examples`, or there is not one list for each description.
    """
    if examples is None:
        return [[] for _ in range(count)]
    lists = list(examples) if isinstance(examples, list | tuple) else None
    if lists is None or len(lists) != count:
        raise InvalidInputError(
            f"examples are {shown(examples)}: expected a list of pairs for each of the {count} descriptions"
        )
    found = []
    for number, pairs in enumerate(lists, 1):
        with about("description", number, count):
            found.append(check_examples([] if pairs is None else pairs))
    return found


def check_lengths(examples: Sequence[Sequence[Pair]], tokenizer: PreTrainedTokenizerBase, context: int | None) -> None:
    """Refuse examples that a base model with a context of so many tokens, or without a limit, cannot read.

    Raises:
        InvalidInputError: an input and its answer are too long.
    """
    for row, pairs in enumerate(examples, 1):
        for number, (given, answer) in enumerate(pairs, 1):
            with about("description", row, len(examples)), about("example", number):
                fit_answers(tokenizer, given, [answer], context)


def spell_out(examples: Sequence[Pair]) -> str:
    """A description that only shows the first examples."""
    return "\n".join(f"{given} => {answer}" for given, answer in examples[:3])


class _Task:
    """One adapter and its copies: a row for each part of the examples that is left out, and one that sees all of them.

    Attributes:
        latents: [rows, d]: the latents, one a row; the last row sees all examples.
        offsets: By target module, what is added to A [rows, layers, r, in] and to B [rows, layers, out, r].
        trains: [rows, examples]: the examples whose loss a row is tuned on.
        judges: [rows, examples]: the examples that a row is judged by.
    """

    def __init__(self, latent: torch.Tensor, like: LoraWeights, examples: Sequence[Pair]):
        count = len(examples)
        folds = FOLDS if count > 1 else 0
        rows = folds + 1
        self.latents = latent.expand(rows, -1).clone().requires_grad_()

        self.offsets = map_factors(
            lambda factor: factor.new_zeros(rows, *factor.shape[1:], dtype=torch.float32).requires_grad_(), like
        )
        part = torch.arange(count, device=latent.device) % max(folds, 1)
        left_out = torch.stack([part == fold for fold in range(folds)] + [torch.zeros_like(part, dtype=torch.bool)])
        self.trains = ~left_out
        self.judges = left_out if folds else self.trains
        self.examples, self.loss = examples, 0.0
        self.weights: LoraWeights = {}
        self.steps, self.before, self.after, self.total, self.done = 0, 0, 0, 0, False
        self.start = 0.0  # the loss on all examples before tuning
        self.last_gain = 0, 0.0  # the step at which more was answered right or the loss fell clearly, and that loss

    @property
    def parameters(self) -> list[torch.Tensor]:
        """What is tuned: the latents, then the offsets."""
        return [self.latents, *chain.from_iterable(self.offsets.values())]

    def judge(self, step: int, right: torch.Tensor, losses: torch.Tensor, weights: LoraWeights) -> None:
        """Keep the weights of this step if they are the best so far.

        Args:
            step: The number of steps taken.
            right: [rows, examples]: whether a row's adapter gives an example's answer.
            losses: [rows, examples].
            weights: A [rows, layers, r, in] and B [rows, layers, out, r] by target module.
        """
        count, loss, fit = int(right[self.judges].sum()), float(losses[self.judges].mean()), float(losses[-1].mean())
        total = count + int(right[-1].sum())
        if step == 0:
            self.before, self.after, self.total, self.loss, self.start = count, count, total, loss, fit
        if step == 0 or total > self.total or loss < WORTH * self.last_gain[1]:
            self.last_gain = step, loss
        if fit < self.start and count >= self.before and (total, -loss) > (self.total, -self.loss):
            self.after, self.total, self.loss, self.steps = count, total, loss, step
            self.weights = map_factors(lambda factor: factor[-1].detach().clone(), weights)
        enough = bool(right[-1].all()) and (step == 0 or len(self.examples) == 1)
        self.done = enough or step == STEPS or step - self.last_gain[0] >= PATIENCE


def tune(
    hypernet: HyperNetwork,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    latents: torch.Tensor,
    examples: Sequence[Sequence[Pair]],
    on_step: OnStep | None = None,
) -> Iterator[Tuned]:
    """Tune adapters on examples, many tasks side by side. The same input gives the same result.

    An adapter that answers all of its examples stays as it is. No adapter becomes worse on the left-out examples.

    Args:
        hypernet: Turns latents into adapters; it is not changed.
        base: The base model, in eval mode and frozen, which nothing else runs meanwhile; it is not changed.
        tokenizer: The tokenizer of the base.
        latents: [n, d], outputs of the hypernetwork's task encoder.
        examples: The examples of each task, at least one.
        on_step: Receives the number of steps taken and the maximum, after each step.

    Raises:
        CheckpointError: the tokenizer has no token that ends an answer.
        InvalidInputError: `on_step` is not a function, or the chat template takes no user messages.
    """
    if on_step is not None and not callable(on_step):
        raise InvalidInputError(f"on_step is {shown(on_step)}: expected a function of two numbers")
    like = hypernet.decode(latents[:1])
    numbers = (FOLDS + 1) * sum(factor.numel() for factor in chain.from_iterable(like.values()))
    size, dtype = max(1, NUMBERS // numbers), next(hypernet.parameters()).dtype
    for start in range(0, len(latents), size):
        given = zip(latents[start : start + size].float(), examples[start : start + size], strict=True)
        with torch.inference_mode(False), torch.enable_grad():
            tasks = [_Task(latent.clone(), like, pairs) for latent, pairs in given]
            _tune(tasks, hypernet, base, tokenizer, on_step)
        for task in tasks:
            weights = map_factors(lambda factor: factor.to(dtype), task.weights)
            yield Tuned(weights, len(task.examples), task.steps, task.before, task.after)


def _tune(
    tasks: Sequence[_Task],
    hypernet: HyperNetwork,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    on_step: OnStep | None,
) -> None:
    injector = LoraInjector(base, hypernet.config)
    latents, offsets = [task.latents for task in tasks], [p for task in tasks for p in task.parameters[1:]]
    optimizer = torch.optim.Adam([{"params": latents, "lr": LATENT_RATE}, {"params": offsets, "lr": OFFSET_RATE}])
    passes: list[_Pass] = []
    for step in range(STEPS + 1):
        active = [task for task in tasks if not task.done]
        if sum(len(one.tasks) for one in passes) != len(active):
            passes = _plan(active, base, tokenizer)
        for one in passes:
            one.run(step, hypernet, base, injector)
        if all(task.done for task in active):
            break
        optimizer.step()
        optimizer.zero_grad()  # tasks that are done keep no gradient, and Adam passes over them
        if on_step:
            on_step(step + 1, STEPS)


@dataclass(frozen=True)
class _Pass:
    """Tasks with the same number of examples, which pass through the base together; every row has its own adapter."""

    tasks: list[_Task]
    batch: AnswerBatch

    def run(self, step: int, hypernet: HyperNetwork, base: PreTrainedModel, injector: LoraInjector) -> None:
        """Judge the tasks as they are, and give those that go on their gradients."""
        tuned = [parameter for task in self.tasks for parameter in task.parameters]
        latents = torch.cat([task.latents for task in self.tasks])
        weights = hypernet.decode(latents.to(next(hypernet.parameters()).dtype))
        for name, (a, b) in weights.items():
            offsets = zip(*(task.offsets[name] for task in self.tasks), strict=True)
            a_offset, b_offset = (torch.cat(parts) for parts in offsets)
            weights[name] = a + a_offset, b + b_offset
        with injector.inject(weights):
            logits, labels = answer_logits(base, self.batch)
            each = F.cross_entropy(logits.float(), labels, reduction="none")
            losses = (self.batch.sums(each) / self.batch.lengths).view(len(latents), -1)
            right = count_matches(logits.detach(), self.batch).view(len(latents), -1)
            trains = torch.cat([task.trains for task in self.tasks])
            gradients = torch.autograd.grad((losses * trains).sum(1).div(trains.sum(1)).sum(), tuned)
        for parameter, gradient in zip(tuned, gradients, strict=True):
            parameter.grad = gradient
        start = 0
        for task in self.tasks:
            rows = slice(start, start := start + len(task.latents))
            own = map_factors(operator.itemgetter(rows), weights)
            task.judge(step, right[rows], losses.detach()[rows], own)
            if task.done:
                for parameter in task.parameters:
                    parameter.grad = None


def _plan(tasks: Sequence[_Task], base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[_Pass]:
    """Passes of about `TOKENS` tokens for tasks, those with the same number of examples together."""
    passes = []
    for count in sorted({len(task.examples) for task in tasks}):
        alike = [task for task in tasks if len(task.examples) == count]
        rows = len(alike[0].latents)
        batch = prompt_batch(tokenizer, [e for task in alike for e in task.examples], pack=count, model=base)
        size = max(1, TOKENS // (batch.ids.numel() // len(alike) * rows))
        for start in range(0, len(alike), size):
            some = alike[start : start + size]
            batch = prompt_batch(tokenizer, [e for task in some for e in task.examples], pack=count, model=base)
            passes.append(_Pass(some, batch.repeat(rows, len(some)).to(input_device(base))))
    return passes
