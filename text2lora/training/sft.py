"""Supervised fine-tuning of the hypernetwork, end to end through the frozen base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.arguments import checked
from text2lora.errors import TrainingError
from text2lora.injection import LoraInjector
from text2lora.language import AnswerBatch, answer_loss, prompt_batch
from text2lora.lora import LoraWeights, map_factors
from text2lora.modeling import Text2LoraModel
from text2lora.scoring import score_examples
from text2lora.training.data import DescriptionBank, Probe, TaskDraw, TaskSource, perturb
from text2lora.training.engine import Ahead, EngineConfig, prepare_base
from text2lora.training.fit import FitConfig, StepResult, step_rng
from text2lora.training.hypernet import begin_run, embed_descriptions, fit_and_save
from text2lora.training.recipe import at_least, settings, share
from text2lora.training.state import save_checkpoint
from text2lora.training.validation import Validation

if TYPE_CHECKING:
    from accelerate import Accelerator


@settings
class SftConfig:
    """What each step of SFT trains on.

    Attributes:
        tasks: The number of tasks per step, over all processes; each has its own adapter.
        examples: The number of examples per task and step.
        noise: The standard deviation of the noise on task embeddings, whose entries are about one.
        token_dropout: The share of description tokens to drop; token states only.
        buckets: The number of micro-batches, sorted by length, in a process's step; more need less memory and are
            slower.
        weighting: What the loss weights equally: every answer `token`, or every `answer`.
        max_length: The maximum length of a prompt and its response, in tokens; longer prompts lose their middle.
        pack: Whether to put the examples of a task into one row, so that the base reads the common beginning of their
            prompts, such as a system turn, only once. Examples that are longer than the base's attention window have
            their own rows, and so have all examples of a base whose tokens interact outside of attention.
        label_smoothing: The share of each label that is spread over the vocabulary.
        neftune: The noise scale alpha for the base's input embeddings (Jain et al. 2023); 0 for no noise.
        l2: The weight of the mean square of the generated weights in the loss.
        conditions: The conditions of validation: `matched`, `shuffled` (another task's description), `junk` and `none`
            (no adapter).
        select: The weights to keep: `last`, or those that validate best by `exact_match` or by `loss`, over all splits
            with matched descriptions.
        engine: Where to train.
        fit: How to optimise.
    """

    tasks: int = at_least(1, default=64)
    examples: int = at_least(1, default=1)
    noise: float = at_least(0, default=0.1)
    token_dropout: float = share(default=0.1)
    buckets: int = at_least(1, default=3)
    weighting: Literal["token", "answer"] = "token"
    max_length: int = at_least(2, default=1024)
    pack: bool = False
    label_smoothing: float = share(default=0.0)
    neftune: float = at_least(0, default=0.0)
    l2: float = at_least(0, default=0.0)
    conditions: list[Literal["matched", "shuffled", "junk", "none"]] = field(default_factory=lambda: ["matched"])
    select: Literal["last", "exact_match", "loss"] = "last"
    engine: EngineConfig = field(default_factory=EngineConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        if self.select != "last" and "matched" not in self.conditions:
            raise TrainingError(f"select is {self.select!r}: conditions must include 'matched'")


@checked(TrainingError)
def train_sft(
    model: Text2LoraModel,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: TaskSource,
    config: SftConfig,
    output_dir: Path,
    probes: Mapping[str, Sequence[Probe]] | None = None,
    report: Callable[[str], None] = print,
    cache: Path | None = None,
    resume: bool = False,
    settings: object = None,
) -> dict[str, float]:
    """Train a hypernetwork so that the adapter of a description makes the frozen base answer that task's examples.

    Every process draws the whole step and takes its share, so the steps do not depend on the number of processes. The
    hypernetwork runs once a step, for all tasks of a process. The base's backward passes, one for each micro-batch,
    accumulate the gradient of the generated weights; then a single backward pass goes through the hypernetwork.

    Args:
        model: The model, which is trained in place and saved to `output_dir`.
        base: The base model, which this function freezes.
        tokenizer: The tokenizer of the base; prompts use its chat template, if it has one.
        tasks: The tasks to train on.
        config: What each step trains on, and how.
        output_dir: The folder for the checkpoint and `metrics.jsonl`.
        probes: The probes of each validation split.
        report: A function that receives progress, line by line.
        cache: A file that stores the embedded descriptions for the next run.
        resume: Whether to continue an interrupted run in `output_dir`.
        settings: A dataclass that the trackers show as hyper-parameters; None for `config`.

    Returns:
        The figures of the weights that were kept: `SPLIT/exact_match` and `SPLIT/loss` with matched descriptions, and
        `SPLIT (shuffled)/exact_match` and so on for the other conditions. The checkpoint's card holds them, too.

    Raises:
        TrainingError: there are fewer tasks per step than processes, or training fails (see `fit`).
    """
    accelerator = begin_run(config.engine, config.fit.seed, config.tasks, output_dir, settings or config)
    world = accelerator.num_processes
    if config.engine.shard_base and config.tasks % world:  # all processes must run the base equally often
        raise TrainingError(f"tasks is {config.tasks}: shard_base needs a multiple of {world}, the number of processes")
    base = prepare_base(base, config.engine, accelerator)
    injector = LoraInjector(base, model.config)
    if accelerator.is_main_process:
        report(f"embedding {len(tasks.descriptions)} descriptions")
    bank = embed_descriptions(model, tasks.descriptions, getattr(tasks, "task_names", None), cache, accelerator)
    own = slice(accelerator.process_index, None, world)
    data = Ahead(_Reader(tasks, tokenizer, base, config, own), config.fit.steps, config.engine.workers)
    step = _Step(accelerator.prepare_model(model), base, injector, data, bank, config, accelerator, own)
    reading: dict[str, Any] = {"max_length": config.max_length, "pack": config.pack}
    score = partial(score_examples, injector=injector, base=base, tokenizer=tokenizer, **reading)
    whole = config.engine.shard_base
    measure = Validation(model, probes or {}, score, config.conditions, config.select, accelerator, not whole)

    def validate() -> dict[str, float]:
        if accelerator.is_main_process:
            save_checkpoint(output_dir, model)
        return measure()

    select = config.select != "last" and bool(probes)
    with closing(data):
        return fit_and_save(model, step, config.fit, output_dir, validate, report, select, resume, accelerator)


class _Data(NamedTuple):
    """What a process's share of a step reads.

    Attributes:
        rows: The descriptions of all the step's tasks, as rows of the bank, from short to long examples.
        batches: The micro-batches of this process's tasks, in the same order, and the number of tasks in each.
        units: What the loss of these batches is divided by for a mean.
        tokens: The number of tokens that pass through the base, without padding.
    """

    rows: list[int]
    batches: list[tuple[int, AnswerBatch]]
    units: int
    tokens: int


@dataclass(frozen=True)
class _Reader:
    """Draws a step's tasks and tokenizes their examples.

    Attributes:
        share: This process's share of the tasks.
    """

    tasks: TaskSource
    tokenizer: PreTrainedTokenizerBase
    base: PreTrainedModel
    config: SftConfig
    share: slice

    def __call__(self, step: int) -> _Data:
        config, rng = self.config, step_rng(self.config.fit.seed, step)
        draws = [self.tasks.draw(rng, config.examples) for _ in range(config.tasks)]
        draws.sort(key=lambda draw: max(len(str(prompt)) + len(response) for prompt, response in draw.examples))
        own = draws[self.share]
        parts = torch.arange(len(own)).chunk(config.buckets)  # of similar length, to keep padding low
        batches = [(len(rows), self._batch([own[i] for i in rows.tolist()])) for rows in parts]
        units = sum(batch.units(config.weighting) for _, batch in batches)
        tokens = sum(batch.num_tokens for _, batch in batches)
        return _Data([draw.description for draw in draws], batches, units, tokens)

    def _batch(self, draws: Sequence[TaskDraw]) -> AnswerBatch:
        config, examples = self.config, [example for draw in draws for example in draw.examples]
        pack = config.examples if config.pack else 1
        return prompt_batch(self.tokenizer, examples, config.max_length, pack, self.base)


@dataclass(frozen=True)
class _Step:
    """The backward pass of a step: through the base for each micro-batch, then once through the hypernetwork."""

    forward: Callable[[torch.Tensor], LoraWeights]
    base: PreTrainedModel
    injector: LoraInjector
    data: Ahead[_Data]
    bank: DescriptionBank
    config: SftConfig
    accelerator: Accelerator
    share: slice

    def __call__(self, step: int) -> StepResult:
        config, accelerator = self.config, self.accelerator
        world, device = accelerator.num_processes, accelerator.device
        data = self.data[step]
        task_emb = perturb(self.bank[data.rows], config.noise, config.token_dropout)[self.share]
        units = accelerator.reduce(torch.tensor(float(data.units), device=device), "sum")
        weights = self.forward(task_emb.to(device))
        total, gradients, start = torch.zeros((), device=device), [], 0
        for count, batch in data.batches:
            loss, gradient = self._through_base(weights, slice(start, start + count), batch.to(device), units)
            total += loss
            gradients.append(gradient)
            start += count
        outputs = [factor for factors in weights.values() for factor in factors]
        squares = torch.stack([factor.float().square().mean() for factor in outputs]).mean()
        penalty = config.l2 * squares * (len(task_emb) * world / config.tasks)  # the processes' shares may be unequal
        # gradients are averaged over the processes, and their losses are shares of one sum
        upstream: list[torch.Tensor] = [torch.cat(pieces) * world for pieces in zip(*gradients, strict=True)]
        torch.autograd.backward([*outputs, penalty], [*upstream, torch.ones_like(penalty)])
        return StepResult((total + penalty.detach() / world).item(), data.tokens)

    def _through_base(
        self, weights: LoraWeights, part: slice, batch: AnswerBatch, units: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """The loss of a micro-batch, and its gradients with respect to the generated weights of its tasks."""
        config = self.config
        leaves = map_factors(lambda factor: factor[part].detach().requires_grad_(), weights)
        with self.injector.inject(leaves), _neftune(self.base, config.neftune):
            with self.accelerator.autocast():
                loss = answer_loss(self.base, batch, config.weighting, config.label_smoothing) / units
            loss.backward()  # inside the block: with gradient checkpointing, the base's forward pass runs again
        return loss.detach(), [factor.grad for factors in leaves.values() for factor in factors]


@contextmanager
def _neftune(base: PreTrainedModel, alpha: float) -> Iterator[None]:
    """Within the block, add uniform noise of at most alpha / sqrt(tokens * width) to the input embeddings."""
    if not alpha:
        yield
        return

    def add_noise(module: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        bound = alpha / (out.shape[-2] * out.shape[-1]) ** 0.5
        return out + torch.empty_like(out).uniform_(-bound, bound)

    handle = base.get_input_embeddings().register_forward_hook(add_noise)
    try:
        yield
    finally:
        handle.remove()
