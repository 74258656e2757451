"""Supervised fine-tuning of the hypernetwork, end to end through the frozen base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2lora.errors import TrainingError
from text2lora.injection import LoraInjector
from text2lora.language import Example, answer_logits, answer_loss, count_matches, prompt_batch
from text2lora.live import input_device
from text2lora.lora import LoraWeights
from text2lora.modeling import Text2LoraModel
from text2lora.training.data import DescriptionBank, Probe, TaskSource, perturb
from text2lora.training.engine import EngineConfig, prepare_base, start_engine
from text2lora.training.fit import FitConfig, StepResult, fit, step_rng
from text2lora.training.recipe import at_least, settings, share
from text2lora.training.state import save_checkpoint

if TYPE_CHECKING:
    from accelerate import Accelerator

JUNK = ("asdf qwer zxcv", "!!! ??? ...", "lorem ipsum dolor sit amet", "0 0 0 0 0 0", "the the of of and and")
"""Texts that describe no task."""


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
            prompts, such as a system turn, only once. The base's tokens may interact only in attention, and its window
            must not be shorter than a row.
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


class TaskScore(NamedTuple):
    """A task's score under one adapter: which examples are exact matches, [k], and the mean loss per answer token."""

    matches: torch.Tensor
    loss: float


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

    Returns:
        The figures of the weights that were kept: `SPLIT/exact_match` and `SPLIT/loss` with matched descriptions, and
        `SPLIT (shuffled)/exact_match` and so on for the other conditions. The checkpoint's card holds them, too.

    Raises:
        TrainingError: there are fewer tasks per step than processes, or training fails (see `fit`).
    """
    torch.manual_seed(config.fit.seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    accelerator = start_engine(config.engine, output_dir)
    world, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    if config.tasks < world:
        raise TrainingError(f"tasks is {config.tasks}: expected at least one for each of the {world} processes")
    if config.engine.shard_base and config.tasks % world:  # all processes must run the base equally often
        raise TrainingError(f"tasks is {config.tasks}: shard_base needs a multiple of {world}, the number of processes")
    base = prepare_base(base, config.engine, accelerator)
    injector = LoraInjector(base, model.config)
    if accelerator.is_main_process:
        report(f"embedding {len(tasks.descriptions)} descriptions")
    with accelerator.main_process_first():  # if there is a cache, the others read what the first one embedded
        bank = DescriptionBank(model.encoder, tasks.descriptions, cache)
    names: Sequence[str] | None = getattr(tasks, "task_names", None)
    model.description_statistics = bank.summarise(names) if names and not model.config.one_hot_tasks else None
    model.to(device)
    forward = accelerator.prepare_model(model)

    def backward(step: int) -> StepResult:
        rng = step_rng(config.fit.seed, step)
        draws = [tasks.draw(rng, config.examples) for _ in range(config.tasks)]
        draws.sort(key=lambda draw: max(len(str(prompt)) + len(response) for prompt, response in draw.examples))
        task_emb = perturb(bank[[draw.description for draw in draws]], config.noise, config.token_dropout)
        draws, task_emb = draws[rank::world], task_emb[rank::world]
        parts = torch.arange(len(draws)).chunk(config.buckets)  # of similar length, to keep padding low
        batches = [
            prompt_batch(
                tokenizer,
                [example for i in rows.tolist() for example in draws[i].examples],
                config.max_length,
                config.examples if config.pack else 1,
            ).to(device)
            for rows in parts
        ]
        units = torch.tensor(float(sum(batch.units(config.weighting) for batch in batches)), device=device)
        units = accelerator.reduce(units, "sum")

        weights: LoraWeights = forward(task_emb.to(device))
        total, gradients = torch.zeros((), device=device), []
        for rows, batch in zip(parts, batches, strict=True):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            leaves = {
                name: (a[part].detach().requires_grad_(), b[part].detach().requires_grad_())
                for name, (a, b) in weights.items()
            }
            with injector.inject(leaves), _neftune(base, config.neftune):
                with accelerator.autocast():
                    loss = answer_loss(base, batch, config.weighting, config.label_smoothing) / units
                loss.backward()  # inside the block: with gradient checkpointing, the base's forward pass runs again
            total += loss.detach()
            gradients.append([factor.grad for factors in leaves.values() for factor in factors])
        outputs = [factor for factors in weights.values() for factor in factors]
        squares = torch.stack([factor.float().square().mean() for factor in outputs]).mean()
        penalty = config.l2 * squares * (len(draws) * world / config.tasks)  # the processes' shares may be unequal
        # gradients are averaged over the processes, and their losses are shares of one sum
        upstream: list[torch.Tensor] = [torch.cat(pieces) * world for pieces in zip(*gradients, strict=True)]
        torch.autograd.backward([*outputs, penalty], [*upstream, torch.ones_like(penalty)])
        return StepResult((total + penalty.detach() / world).item(), sum(batch.num_tokens for batch in batches))

    validate = _validation(model, injector, base, tokenizer, probes or {}, config, accelerator)
    figures = fit(
        model,
        backward,
        config.fit,
        output_dir,
        lambda: validate(output_dir),
        report,
        best="score" if config.select != "last" and probes else None,
        resume=resume,
        accelerator=accelerator,
    )
    figures.pop("score", None)
    if accelerator.is_main_process:
        save_checkpoint(output_dir, model, eval_results=figures)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return figures


def _validation(
    model: Text2LoraModel,
    injector: LoraInjector,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    probes: Mapping[str, Sequence[Probe]],
    config: SftConfig,
    accelerator: Accelerator,
) -> Callable[[Path], dict[str, float]]:
    """Make the validation: each process takes a share of the probes, or all of them if the base is sharded."""
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    if config.engine.shard_base:
        rank, world = 0, 1
    split_embs = {
        split: model.encoder.encode([probe.description for probe in chosen]).to(device)
        for split, chosen in probes.items()
    }
    others = _others(probes)
    junk_emb = model.encoder.encode(list(JUNK)).to(device) if "junk" in config.conditions and probes else None
    without: dict[str, list[TaskScore]] = {}  # scores without adapter, which are the same at every validation

    def embeddings(condition: str, split: str) -> torch.Tensor | None:
        own = split_embs[split]
        if condition == "matched":
            return own
        if condition == "shuffled":
            rows = [split_embs[other][i] for other, i in others[split]]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) if own.ndim == 3 else torch.stack(rows)
        if condition == "junk" and junk_emb is not None:
            return junk_emb[torch.arange(len(own)) % len(junk_emb)]
        return None

    def score(
        model: Text2LoraModel | None, task_emb: torch.Tensor | None, examples: Sequence[Sequence[Example]]
    ) -> list[TaskScore]:
        at_a_time = max(1, 64 // len(examples[0])) if examples else 1
        return score_examples(
            model, injector, base, tokenizer, task_emb, examples, at_a_time, config.max_length, config.pack
        )

    def validate(output_dir: Path) -> dict[str, float]:
        if accelerator.is_main_process:
            save_checkpoint(output_dir, model)
        figures: dict[str, float] = {}
        for condition in config.conditions:
            for split, chosen in probes.items():
                mine = slice(rank, None, world)
                examples = [probe.examples for probe in chosen[mine]]
                task_emb = embeddings(condition, split)
                if task_emb is not None:
                    scores = score(model, task_emb[mine], examples)
                else:
                    if split not in without:
                        without[split] = score(None, None, examples)
                    scores = without[split]
                sums = torch.tensor(
                    [sum(score.matches.float().mean().item() for score in scores), sum(score.loss for score in scores)],
                    dtype=torch.float32,  # also in a process without probes
                    device=device,
                )
                if world > 1:
                    sums = accelerator.reduce(sums, "sum")
                exact, loss = (sums / len(chosen)).tolist()
                name = split if condition == "matched" else f"{split} ({condition})"
                figures |= {f"{name}/exact_match": exact, f"{name}/loss": loss}
        if probes and config.select != "last":
            sign = -1 if config.select == "loss" else 1
            figures["score"] = sign * sum(figures[f"{split}/{config.select}"] for split in probes) / len(probes)
        return figures

    return validate


def _others(probes: Mapping[str, Sequence[Probe]]) -> dict[str, list[tuple[str, int]]]:
    """For each probe of a split, the split and row of a probe of another task, from its own split if possible."""
    found: dict[str, list[tuple[str, int]]] = {}
    for split, chosen in probes.items():
        # half the list away, because the descriptions of a task are next to each other
        places = [(split, (i + len(chosen) // 2) % len(chosen)) for i in range(len(chosen))]
        places += [(other, i) for other in probes if other != split for i in range(len(probes[other]))]
        found[split] = []
        for row, probe in enumerate(chosen):
            order = places[row : len(chosen)] + places[:row] + places[len(chosen) :]
            differ = (place for place in order if probes[place[0]][place[1]].examples != probe.examples)
            found[split].append(next(differ, (split, row)))
    return found


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


def match_examples(
    model: Text2LoraModel,
    injector: LoraInjector,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task_emb: torch.Tensor,
    examples: Sequence[Sequence[Example]],
    batch_size: int = 32,
) -> list[torch.Tensor]:
    """Compute the exact match of each task's examples under its own adapter; see `score_examples`.

    Returns:
        A boolean tensor for each task.
    """
    scores = score_examples(model, injector, base, tokenizer, task_emb, examples, batch_size)
    return [score.matches for score in scores]


@torch.no_grad()
def score_examples(
    model: Callable[[torch.Tensor], LoraWeights] | None,
    injector: LoraInjector,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task_emb: torch.Tensor | None,
    examples: Sequence[Sequence[Example]],
    batch_size: int = 32,
    max_length: int | None = None,
    pack: bool = False,
) -> list[TaskScore]:
    """Score the answers to each task's examples under its own adapter, or by the base alone.

    Args:
        model: Generates the adapters from the embeddings; None for the base alone.
        task_emb: One embedding for each task, [n, d] or [n, tokens, d]; None for the base alone.
        examples: The examples of each task; the same number for all.
        batch_size: The number of tasks at a time.
        max_length: The maximum length of a prompt and its response; see `prompt_batch`.
        pack: Whether to put the examples of a task into one row; see `SftConfig`.
    """
    results: list[TaskScore] = []
    for start in range(0, len(examples), batch_size):
        chosen = examples[start : start + batch_size]
        rows = [example for group in chosen for example in group]
        batch = prompt_batch(tokenizer, rows, max_length, len(chosen[0]) if pack else 1).to(input_device(base))
        weights = model(task_emb[start : start + batch_size]) if model is not None and task_emb is not None else {}
        with injector.inject(weights):
            logits, labels = answer_logits(base, batch)
        matches = count_matches(logits, batch).view(len(chosen), -1)
        losses = torch.zeros_like(batch.is_target, dtype=torch.float32)
        losses[batch.is_target] = F.cross_entropy(logits.float(), labels, reduction="none")
        sums = losses.sum(1).view(len(chosen), -1).sum(1) / batch.is_target.sum(1).view(len(chosen), -1).sum(1)
        results += [TaskScore(m.cpu(), loss) for m, loss in zip(matches, sums.tolist(), strict=True)]
    return results
