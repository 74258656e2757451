"""Reconstruction: a hypernetwork learns to generate the adapters of a library from descriptions, without a base."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from text2lora.adapter import LoraAdapter
from text2lora.arguments import checked
from text2lora.configuration import Text2LoraConfig
from text2lora.encoder import check_description
from text2lora.errors import CheckpointError, TrainingError
from text2lora.lora import LoraWeights, concatenate, layer_keys, map_factors, stack
from text2lora.modeling import Text2LoraModel
from text2lora.names import distinct_names
from text2lora.training.data import DescriptionBank, find_others, perturb
from text2lora.training.engine import EngineConfig
from text2lora.training.fit import FitConfig, StepResult, step_rng
from text2lora.training.hypernet import SCORE, begin_run, embed_descriptions, fit_and_save
from text2lora.training.recipe import at_least, settings, share

if TYPE_CHECKING:
    from accelerate import Accelerator


@settings
class LibraryEntry:
    """An adapter of the library and its descriptions.

    Attributes:
        path: A PEFT folder or a Hub id.
        descriptions: The wordings for training; empty uses the description that the adapter was made from.
        held_out_descriptions: The wordings for validation.
    """

    path: str
    descriptions: list[str] = field(default_factory=list)
    held_out_descriptions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AdapterLibrary:
    """Adapters of the same layout.

    Attributes:
        names: The names of the adapters.
        weights: A [n, layers, r, in] and B [n, layers, out, r] by target module, float32.
        descriptions, held_out_descriptions: The descriptions of each adapter.
    """

    names: list[str]
    weights: LoraWeights
    descriptions: list[list[str]]
    held_out_descriptions: list[list[str]]

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, chosen: Sequence[int]) -> LoraWeights:
        """Return the weights of some adapters."""
        index = torch.tensor(chosen)
        return map_factors(lambda factor: factor[index], self.weights)


def load_library(
    entries: Sequence[LibraryEntry], make_config: Callable[[LoraAdapter], Text2LoraConfig]
) -> tuple[AdapterLibrary, Text2LoraConfig]:
    """Read adapters that share the base, rank, strength and target modules.

    Args:
        entries: The adapters.
        make_config: Makes a config from the first adapter, whose layout all others must share.

    Raises:
        TrainingError: an adapter cannot be read, has no description or does not fit; the message says which and why.
    """
    if len(entries) < 2:
        raise TrainingError(f"the library has {len(entries)} adapters: expected at least two")
    adapters: list[LoraAdapter] = []
    for entry in entries:
        try:
            adapters.append(LoraAdapter.from_pretrained(entry.path))
        except CheckpointError as error:
            raise TrainingError(f"the adapter {entry.path} cannot be used: {error}") from error
    first = adapters[0]
    config = make_config(first)
    shapes = {key: tuple(value.shape) for key, value in first.weights.items()}
    known = {key for name in config.target_modules for factor in "AB" for key in layer_keys(config, name, factor)}
    if wrong := sorted(known ^ set(shapes)):
        raise TrainingError(
            f"{entries[0].path} does not have one LoRA on each of its modules in each layer: see {wrong[0]}"
        )
    for entry, adapter in zip(entries, adapters, strict=True):
        for what in ("base_model_name_or_path", "r"):
            mine, theirs = getattr(adapter.spec, what), getattr(first.spec, what)
            if mine != theirs:
                raise TrainingError(f"{entry.path} has {what} {mine!r}: expected {theirs!r}, as {entries[0].path} has")
        if abs(adapter.spec.scaling - first.spec.scaling) > 1e-6:
            raise TrainingError(
                f"{entry.path} has the strength {adapter.spec.scaling:g}, from alpha, r and rsLoRA: expected "
                f"{first.spec.scaling:g}, as {entries[0].path} has"
            )
        own = {key: tuple(value.shape) for key, value in adapter.weights.items()}
        if own != shapes:
            key = sorted(set(own.items()) ^ set(shapes.items()))[0][0]
            raise TrainingError(
                f"{entry.path} has other modules or shapes: {key} is {list(own.get(key, ())) or 'missing'}, expected "
                f"{list(shapes.get(key, ())) or 'none'}"
            )
    weights = stack(config, [adapter.weights for adapter in adapters])
    descriptions = []
    for entry, adapter in zip(entries, adapters, strict=True):
        texts = list(entry.descriptions) or [text for text in [adapter.metadata.get("description")] if text]
        if not texts:
            raise TrainingError(f"{entry.path} has no description: give `descriptions` for it")
        descriptions.append([check_description(text) for text in texts])
    held_out = [[check_description(text) for text in entry.held_out_descriptions] for entry in entries]
    return AdapterLibrary(library_names(entries), weights, descriptions, held_out), config


def library_names(entries: Sequence[LibraryEntry]) -> list[str]:
    """The names of the adapters' folders or repositories, with more of the path where two names are the same."""
    return distinct_names([entry.path for entry in entries], whole=False)


def squared_error(made: LoraWeights, wanted: LoraWeights) -> torch.Tensor:
    """The squared Frobenius norm of the difference in delta W = B A, over all layers and modules, [n].

    Let B' A' be generated and B A the target. Then B' A' - B A = (B' - B) A' + B (A' - A) = P Q for
    P = [B' - B, B], [out, 2r], and Q = [A'; A' - A], [2r, in]. So |P Q|^2 = sum of (P^T P) * (Q Q^T), two matrices of
    2r x 2r: delta W, [out, in], is never computed, and no two large, nearly equal numbers are subtracted.
    """
    total = torch.zeros(())
    for name, (a, b) in wanted.items():
        made_a, made_b = (factor.float() for factor in made[name])
        p = torch.cat([made_b - b, b], -1)  # [n, layers, out, 2r]
        q = torch.cat([made_a, made_a - a], -2)  # [n, layers, 2r, in]
        total = total.to(p.device) + ((p.mT @ p) * (q @ q.mT)).sum((-3, -2, -1))
    return total


def inner_product(one: LoraWeights, other: LoraWeights) -> torch.Tensor:
    """<B A, B' A'> over all layers and modules, [n]: the sum of (B^T B') * (A A'^T)."""
    total = torch.zeros(())
    for name, (a, b) in one.items():
        other_a, other_b = other[name]
        total = total.to(a.device) + ((b.mT @ other_b.float()) * (a @ other_a.float().mT)).sum((-3, -2, -1))
    return total


def all_inner_products(weights: LoraWeights) -> torch.Tensor:
    """<delta W_i, delta W_j> for all pairs of adapters in a library, [n, n]."""
    total = torch.zeros(())
    for a, b in weights.values():
        for layer in range(a.shape[1]):
            left = torch.einsum("nor,mos->nmrs", b[:, layer], b[:, layer])
            total = total + (left * torch.einsum("nri,msi->nmrs", a[:, layer], a[:, layer])).sum((-2, -1))
    return total


@settings
class ReconConfig:
    """How to learn a library.

    Attributes:
        objective: `delta`, the relative squared error of delta W, or `factors`, the mean absolute error of A and B in
            z-scores (Charakorn et al. 2025, section 3.2). The latter needs adapters with the same initialisation.
        tasks: The number of adapters per step, over all processes.
        noise, token_dropout: As in `SftConfig`.
        unseen: The number of adapters that are kept for validation.
        select: The weights to keep: `last`, or `best` for those that validate best.
        engine: Where to train.
        fit: How to optimise.
    """

    objective: Literal["delta", "factors"] = "delta"
    tasks: int = at_least(1, default=32)
    noise: float = at_least(0, default=0.1)
    token_dropout: float = share(default=0.1)
    unseen: int = at_least(0, default=0)
    select: Literal["last", "best"] = "last"
    engine: EngineConfig = field(default_factory=EngineConfig)
    fit: FitConfig = field(default_factory=FitConfig)


@torch.no_grad()
def start_from_library(model: Text2LoraModel, weights: LoraWeights) -> None:
    """Initialise the hypernetwork with the mean and the standard deviations of a library, and freeze both.

    The heads are zero at the start, so the first adapter is the mean: if B began at zero, A would get no gradient. Each
    standard deviation is at least a hundredth of its module's mean one, so that nearly constant weights cannot blow up.
    """
    hypernet = model.hypernet
    for name, factors in weights.items():
        for letter, factor in zip("ab", factors, strict=True):
            std = factor.std(0, correction=0)
            getattr(hypernet, f"std_{letter}")[name].copy_(std.clamp_min(0.01 * std.mean().clamp_min(1e-6)))
            getattr(hypernet, f"offset_{letter}")[name].copy_(factor.mean(0))
            for part in ("std", "offset"):
                getattr(hypernet, f"{part}_{letter}")[name].requires_grad_(False)


@checked(TrainingError)
def train_recon(
    model: Text2LoraModel,
    library: AdapterLibrary,
    config: ReconConfig,
    output_dir: Path,
    report: Callable[[str], None] = print,
    cache: Path | None = None,
    resume: bool = False,
    settings: object = None,
) -> dict[str, float]:
    """Train a hypernetwork to generate the adapters of a library.

    Args:
        model: The model, which is trained in place and saved to `output_dir`. Its config must have `output_std` and
            `offset`; see `start_from_library`.
        library: The adapters, with the layout of the model.
        config: How to train.
        output_dir: The folder for the checkpoint and `metrics.jsonl`.
        report: A function that receives progress, line by line.
        cache: A file that stores the embedded descriptions for the next run.
        resume: Whether to continue an interrupted run in `output_dir`.
        settings: A dataclass that the trackers show as hyper-parameters; None for `config`.

    Returns:
        For each split (`seen`, `unseen_descriptions`, `unseen_tasks`), `SPLIT/error`, the relative error
        |B' A' - B A| / |B A|, and `SPLIT/cosine`. `SPLIT (shuffled)/...` has the same with another adapter's
        description, and `SPLIT (mean)/...` with the mean delta W of the trained adapters in place of any adapter.

    Raises:
        TrainingError: no adapter is left to train on, there are fewer tasks per step than processes, or training
            fails (see `fit`).
    """
    if not (model.config.output_std and model.config.offset):
        raise TrainingError("reconstruction needs a model with `output_std: true` and `offset: true`")
    if config.unseen > len(library) - 2:
        raise TrainingError(
            f"unseen is {config.unseen}: expected at most {len(library) - 2} of {len(library)} adapters"
        )
    accelerator = begin_run(config.engine, config.fit.seed, config.tasks, output_dir, settings or config)
    unseen = sorted(random.Random(f"unseen {config.fit.seed}").sample(range(len(library)), config.unseen))
    seen = [i for i in range(len(library)) if i not in unseen]
    start_from_library(model, library.rows(seen))
    owners = [i for i in seen for _ in library.descriptions[i]]  # the adapter of each row of the bank
    texts = [text for i in seen for text in library.descriptions[i]]
    first = {i: owners.index(i) for i in seen}
    if accelerator.is_main_process:
        report(f"{len(seen)} adapters to train on, {len(unseen)} unseen; embedding {len(texts)} descriptions")
    bank = embed_descriptions(model, texts, [library.names[i] for i in owners], cache, accelerator)
    sizes = inner_product(library.weights, library.weights)  # [n]
    step = _Step(model, accelerator.prepare_model(model), library, seen, first, sizes, bank, config, accelerator)
    best = config.select == "best"
    validate = _validation(model, library, seen, unseen, sizes, best)
    return fit_and_save(model, step, config.fit, output_dir, validate, report, best, resume, accelerator)


@dataclass(frozen=True)
class _Step:
    """The backward pass of a step: each process takes a share of the adapters and generates them."""

    model: Text2LoraModel
    forward: Callable[[torch.Tensor], LoraWeights]
    library: AdapterLibrary
    seen: list[int]  # the adapters to train on
    first: Mapping[int, int]  # the first row of the bank of each of them
    sizes: torch.Tensor
    bank: DescriptionBank
    config: ReconConfig
    accelerator: Accelerator

    def __call__(self, step: int) -> StepResult:
        config, device, world = self.config, self.accelerator.device, self.accelerator.num_processes
        rng = step_rng(config.fit.seed, step)
        many, rest = divmod(config.tasks, len(self.seen))
        chosen = [*self.seen * many, *rng.sample(self.seen, rest)]
        rows = [self.first[i] + rng.randrange(len(self.library.descriptions[i])) for i in chosen]
        share = slice(self.accelerator.process_index, None, world)
        task_emb, mine = perturb(self.bank[rows], config.noise, config.token_dropout)[share], chosen[share]
        wanted = map_factors(lambda factor: factor.to(device), self.library.rows(mine))
        with self.accelerator.autocast():
            made = self.forward(task_emb.to(device))
        if config.objective == "delta":
            losses = squared_error(made, wanted) / self.sizes[mine].to(device)
        else:
            losses = _factor_error(self.model, made, wanted)
        loss = losses.sum() / config.tasks
        (loss * world).backward()  # gradients are averaged over the processes
        return StepResult(loss.item())


def _factor_error(model: Text2LoraModel, made: LoraWeights, wanted: LoraWeights) -> torch.Tensor:
    """The mean absolute error of A and B in z-scores, [n]."""
    hypernet, total, count = model.hypernet, torch.zeros(()), 0
    for name, factors in wanted.items():
        for letter, have, want in zip("ab", made[name], factors, strict=True):
            error = (have.float() - want).abs() / getattr(hypernet, f"std_{letter}")[name]
            total, count = total.to(error.device) + error.sum((1, 2, 3)), count + error[0].numel()
    return total / count


def _validation(
    model: Text2LoraModel,
    library: AdapterLibrary,
    seen: Sequence[int],
    unseen: Sequence[int],
    sizes: torch.Tensor,
    best: bool,
) -> Callable[[], dict[str, float]]:
    """Make the validation, which every process runs in full."""
    splits: dict[str, list[tuple[int, str]]] = {
        "seen": [(i, library.descriptions[i][0]) for i in seen],
        "unseen_descriptions": [(i, text) for i in seen for text in library.held_out_descriptions[i]],
        "unseen_tasks": [(i, text) for i in unseen for text in library.descriptions[i][:2]],
    }
    embedded = {
        split: model.encoder.encode([text for _, text in pairs]).to(model.device)
        for split, pairs in splits.items()
        if pairs
    }
    products = all_inner_products(library.weights)
    to_mean = products[:, list(seen)].mean(1)  # <delta W_i, mean delta W>
    mean_size = products[list(seen)][:, list(seen)].mean()

    def validate() -> dict[str, float]:
        figures: dict[str, float] = {}
        for split, task_emb in embedded.items():
            owners = [i for i, _ in splits[split]]
            others = find_others(owners)
            parts = [map_factors(lambda factor: factor.float().cpu(), model(part)) for part in task_emb.split(16)]
            made = concatenate(parts)
            for condition, rows in (("", list(range(len(owners)))), (" (shuffled)", others)):
                have = map_factors(operator.itemgetter(rows), made)
                wanted = library.rows(owners)
                error = (squared_error(have, wanted).clamp_min(0) / sizes[owners]).sqrt()
                norms = (inner_product(have, have) * sizes[owners]).sqrt().clamp_min(1e-12)
                figures[f"{split}{condition}/error"] = error.mean().item()
                figures[f"{split}{condition}/cosine"] = (inner_product(wanted, have) / norms).mean().item()
            away = (mean_size - 2 * to_mean[owners] + sizes[owners]).clamp_min(0)
            figures[f"{split} (mean)/error"] = (away / sizes[owners]).sqrt().mean().item()
            figures[f"{split} (mean)/cosine"] = (to_mean[owners] / (mean_size * sizes[owners]).sqrt()).mean().item()
        if best:
            figures[SCORE] = -sum(figures[f"{split}/error"] for split in embedded) / len(embedded)
        return figures

    return validate
