"""Training runs on your own tasks and base model, as recipes define them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from text2lora.adapter import LoraAdapter, to_adapters
from text2lora.base import load_base
from text2lora.configuration import Text2LoraConfig
from text2lora.digest import digest
from text2lora.errors import CheckpointError, InvalidInputError, MissingExtraError, TrainingError
from text2lora.files import write_atomically
from text2lora.hub import MARKERS
from text2lora.language import Example, answer_form
from text2lora.lora import LoraWeights, map_factors, stack
from text2lora.modeling import Text2LoraModel
from text2lora.names import slug
from text2lora.training.data import Probe, TaskSource
from text2lora.training.engine import EngineConfig, is_main_process
from text2lora.training.fit import FitConfig
from text2lora.training.lora import LoraTable, train_loras
from text2lora.training.recipe import at_least, parse, settings, share
from text2lora.training.recon import LibraryEntry, ReconConfig, library_names, load_library, train_recon
from text2lora.training.sft import SftConfig, train_sft
from text2lora.training.sources import load_sources
from text2lora.training.state import FOLDER
from text2lora.training.task_files import locate
from text2lora.training.tasks import SplitConfig, Task, TaskExample, TaskSet, decontaminate, split_tasks
from text2lora.turns import as_turn

Report = Callable[[str], None]
INPUTS_NAME = "inputs.sha256"


@settings
class BaseSpec:
    """The base model.

    Attributes:
        name: A Hub id, a folder, `smol` or `nano`.
        revision: A commit, branch or tag.
        dtype: A torch dtype, or `auto` for the one it was saved in; CPUs without native support for it use float32.
        quantization: `none`, or `4bit` (NF4) or `8bit` with bitsandbytes; the base is frozen.
        attention: The attention implementation, as `attn_implementation` in transformers; empty for its default.
    """

    name: str
    revision: str = ""
    dtype: str = "auto"
    quantization: Literal["none", "4bit", "8bit"] = "none"
    attention: str = ""

    def __post_init__(self) -> None:
        if self.dtype != "auto" and not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise TrainingError(f"dtype is {self.dtype!r}: expected 'auto' or a torch dtype, such as 'bfloat16'")


@settings
class SftRecipe:
    """A hypernetwork for your own tasks.

    Attributes:
        base: The base model.
        tasks: The sources of tasks, each a mapping with the keys of `TaskFiles`, `HubTasks` or `PythonTasks`.
        target_modules: The linear modules that get a LoRA; `all-linear` alone selects all.
        model: Settings of `Text2LoraConfig` that differ from the defaults.
        start_from: A text2lora checkpoint to continue training; it determines the sizes of the model.
        offset_from: A LoRA that every adapter starts from, for instance one trained on all tasks; see `LoraRecipe`.
        train_offset: Whether to train that offset, too.
        one_hot: Whether to encode tasks by name, as one-hot vectors, instead of by description. This baseline cannot
            read, so it is limited to the trained tasks: validation uses only unseen examples, without junk.
        split: What to keep for validation; a source that draws its own examples has its own `probes`.
        definition_dropout: See `TaskSet`.
        sft: How to train.
    """

    base: BaseSpec
    tasks: list[dict[str, Any]]
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    model: dict[str, Any] = field(default_factory=dict)
    start_from: str = ""
    offset_from: str = ""
    train_offset: bool = True
    one_hot: bool = False
    split: SplitConfig = field(default_factory=SplitConfig)
    definition_dropout: float = share(default=0.9)
    sft: SftConfig = field(default_factory=SftConfig)


@settings
class LoraRecipe:
    """LoRAs without a hypernetwork, as baselines or to build on.

    Attributes:
        base, tasks, target_modules, split, definition_dropout: As in `SftRecipe`.
        per_task: Whether to train one LoRA for each task (oracles) or one for all tasks together (multi-task).
        lora_r, lora_alpha, use_rslora: As `r`, `lora_alpha` and `use_rslora` in `peft.LoraConfig`.
        at_once: The number of tasks whose LoRAs are trained together.
        examples: The number of examples per LoRA and step.
        max_length: The maximum length of a prompt and its response, in tokens.
        pack: The number of a LoRA's examples that share a row, so that the base reads the common beginning of their
            prompts only once; must divide `examples`.
        engine: Where to train; in one process only.
        fit: How to optimise.
    """

    base: BaseSpec
    tasks: list[dict[str, Any]]
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    per_task: bool = True
    lora_r: int = at_least(1, default=8)
    lora_alpha: float = 16.0
    use_rslora: bool = True
    at_once: int = at_least(1, default=16)
    examples: int = at_least(1, default=8)
    max_length: int = at_least(2, default=1024)
    pack: int = at_least(1, default=1)
    split: SplitConfig = field(default_factory=SplitConfig)
    definition_dropout: float = share(default=0.9)
    engine: EngineConfig = field(default_factory=EngineConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        if self.examples % self.pack:
            raise TrainingError(f"pack is {self.pack}: expected a number that divides the {self.examples} examples")


def load_base_of_recipe(spec: BaseSpec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the base model and its tokenizer.

    Raises:
        CheckpointError: the base model cannot be loaded.
        MissingExtraError: bitsandbytes is not installed.
    """
    options: dict[str, Any] = {"dtype": spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype)}
    if spec.attention:
        options["attn_implementation"] = spec.attention
    if spec.quantization != "none":
        options["quantization_config"] = _quantization(spec.quantization)
    base = load_base(AutoModelForCausalLM, spec.name, spec.revision, **options)
    return base, load_base(AutoTokenizer, spec.name, spec.revision)


def check_inputs(target: Path, resume: bool, values: object, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse to resume a run if its tasks, base or library have changed, even if their names are the same.

    Its folder `target` stores a digest of the values and weights that it learns from.

    Raises:
        TrainingError: something has changed.
    """
    if not is_main_process():
        return
    path, now = target / INPUTS_NAME, digest(values, tensors)
    if resume and path.is_file() and path.read_text(encoding="utf-8").strip() != now:
        raise TrainingError(
            f"the files named in the recipe have changed since {target} was started: start again in another folder"
        )
    write_atomically(path, now + "\n")


def _quantization(kind: str) -> Any:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise MissingExtraError(f"quantization {kind!r} needs bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def prepare_tasks(
    tasks: list[Task], split: SplitConfig, tokenizer: PreTrainedTokenizerBase, max_length: int, report: Report
) -> tuple[list[Task], dict[str, list[Probe]]]:
    """Drop examples whose response is too long, split the tasks, and decontaminate.

    Raises:
        CheckpointError: the tokenizer has no token that ends an answer.
        TrainingError: the chat template rejects an example, or too few responses of a task fit.
        TaskError: see `split_tasks` and `decontaminate`.
    """
    form = answer_form(tokenizer)
    room = max_length - min(64, max_length // 2)  # leaves the prompt 64 tokens, or half if that is less

    def fits(example: TaskExample) -> bool:
        """Whether an example fits into `max_length`."""
        text = form.space + example.response + form.end
        # a token has at least one byte, so only long texts need tokenizing
        return len(text.encode()) <= room or len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= room

    kept = []
    for task in tasks:
        check_turns(task, tokenizer)
        examples, held_out_examples = (list(filter(fits, rows)) for rows in (task.examples, task.held_out_examples))
        if long := len(task.examples + task.held_out_examples) - len(examples + held_out_examples):
            report(f"{task.name}: left out {long} examples whose response does not fit into {max_length} tokens")
            if len(examples) < 2 and not (examples and held_out_examples):
                raise TrainingError(
                    f"max_length is {max_length}: {len(examples + held_out_examples)} examples of the task "
                    f"{task.name!r} have a response of {room} tokens or fewer, and two are needed; raise it, or leave "
                    "the task out"
                )
        kept.append(replace(task, examples=examples, held_out_examples=held_out_examples))
    train, splits = split_tasks(kept, split, report)
    held_out = [example for probes in splits.values() for probe in probes for example in probe.examples]
    train = decontaminate(train, held_out, report)
    counts = ", ".join(f"{len(probes)} for {name}" for name, probes in splits.items())
    report(f"{len(train)} task{'s' * (len(train) != 1)} to train on; descriptions to validate with: {counts}")
    return train, splits


def check_turns(task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
    """Render the prompts of a task as the base reads them, to find errors before training.

    Of the prompts that are a text alone, and so a single message of the user, the first stands for all: what a template
    has against a certain text is found when training reads it.

    Raises:
        TrainingError: the chat template rejects an example.
    """
    checked_text = False
    for number, example in enumerate((*task.examples, *task.held_out_examples), 1):
        if isinstance(example.prompt, str) and not example.definition:
            if checked_text:
                continue
            checked_text = True
        drawn = [example.without_definition(), example.with_definition()]
        for prompt, _ in drawn if example.definition else drawn[:1]:
            try:
                as_turn(tokenizer, prompt)
            except InvalidInputError as error:
                raise TrainingError(f"example {number} of the task {task.name!r} cannot be used: {error}") from error


def run_sft(recipe: SftRecipe, target: Path, report: Report, resume: bool, folder: Path) -> None:
    """Run a recipe of kind `sft`; paths are relative to `folder`."""
    if recipe.start_from and (recipe.model or recipe.offset_from):
        raise TrainingError("start_from continues a checkpoint as it is: leave out `model` and `offset_from`")
    sft, names = recipe.sft, [""]

    def make_config() -> Text2LoraConfig:
        """Make the config of a new model."""
        base = load_base(AutoConfig, recipe.base.name, recipe.base.revision)
        settings = {"base_model_name_or_path": recipe.base.name, "base_model_revision": recipe.base.revision or None}
        settings |= recipe.model | (one_hot_settings(names) if recipe.one_hot else {})
        return config_of_recipe(base, recipe.target_modules, settings)

    if not recipe.start_from:
        make_config()  # to find errors before anything large is loaded
    tasks = load_sources(recipe.tasks, folder)
    base, tokenizer = load_base_of_recipe(recipe.base)
    offset = LoraAdapter.from_pretrained(locate(recipe.offset_from, folder)) if recipe.offset_from else None
    weights = base.state_dict() | (offset.weights if offset else {})
    source: TaskSource
    if isinstance(tasks, list):
        if recipe.one_hot:
            tasks = [replace(task, descriptions=[task.name], held_out_descriptions=[]) for task in tasks]
            sft = replace(sft, conditions=[name for name in sft.conditions if name != "junk"])
        check_inputs(target, resume, tasks, weights)
        train, probes = prepare_tasks(tasks, recipe.split, tokenizer, sft.max_length, report)
        source = TaskSet(train, recipe.definition_dropout)
        if recipe.one_hot:
            probes.pop("unseen_tasks", None)
            names = [task.name for task in train]
    else:
        if recipe.one_hot:
            raise TrainingError("one_hot needs tasks from files, data sets or a list: this source draws its own")
        drawn = [str(tasks.draw(random.Random(seed), 1)) for seed in range(64)]  # a sample of what it may draw
        check_inputs(target, resume, [tasks.descriptions, drawn], weights)
        source, probes = tasks, dict(getattr(tasks, "probes", {}))
    torch.manual_seed(sft.fit.seed)
    if recipe.start_from:
        model = Text2LoraModel.from_pretrained(str(locate(recipe.start_from, folder)), dtype=torch.float32)
    else:
        model = Text2LoraModel(make_config())
        if offset:
            set_offset(model, offset, recipe.train_offset)
    cache = target / "descriptions.safetensors"
    train_sft(model, base, tokenizer, source, sft, target, probes, report, cache, resume, recipe)
    cache.unlink(missing_ok=True)


def config_of_recipe(base: PreTrainedConfig, modules: Sequence[str], settings: Mapping[str, Any]) -> Text2LoraConfig:
    """The config of a new model.

    Raises:
        TrainingError: the settings, which a recipe has under `model`, cannot be used.
        CheckpointError: the modules cannot be used.
    """
    if "target_modules" in settings:
        raise TrainingError("recipe.model.target_modules cannot be set: use target_modules of the recipe itself")
    try:
        return Text2LoraConfig.from_base_config(base, modules, **settings)
    except CheckpointError as error:
        if found := re.match(r"(?:Field )?'?(\w+)", str(error)):
            at = found.start(1)
            if found[1] in settings:
                raise TrainingError(f"{str(error)[:at]}recipe.model.{str(error)[at:]}") from error
        raise


def one_hot_settings(names: list[str]) -> dict[str, Any]:
    """The config settings for tasks by name, which replace those for a text encoder."""
    if twice := {name for name in names if names.count(name) > 1}:
        raise TrainingError(f"there are several tasks {min(twice)!r}: expected unique names")
    text = {"encoder_name_or_path": None, "encoder_pooling": "mean", "task_encoder": "pooled"}
    return text | {"one_hot_tasks": names, "task_emb_size": len(names)}


def set_offset(model: Text2LoraModel, adapter: LoraAdapter, trained: bool = True) -> None:
    """Make every adapter of a hypernetwork start from a given one.

    Raises:
        TrainingError: the adapter has other modules, ranks or strength, or the model has no offset.
    """
    config, hypernet = model.config, model.hypernet
    if not config.offset:
        raise TrainingError("offset_from needs a model with `offset: true`")
    if abs(adapter.spec.scaling - config.lora_scaling) > 1e-6:
        raise TrainingError(
            f"offset_from has a LoRA of strength {adapter.spec.scaling:g}: expected {config.lora_scaling:g}, from r, "
            "lora_alpha and use_rslora"
        )
    offsets: LoraWeights = {name: (hypernet.offset_a[name], hypernet.offset_b[name]) for name in hypernet.shapes}
    empty = map_factors(lambda factor: factor[None].detach(), offsets)
    expected = to_adapters(config, empty, [{}])[0].weights
    shapes = [{key: tuple(value.shape) for key, value in weights.items()} for weights in (adapter.weights, expected)]
    if shapes[0] != shapes[1]:
        wrong = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[0]
        raise TrainingError(f"offset_from does not fit the model's modules and rank: see {wrong[0]} {list(wrong[1])}")
    with torch.no_grad():
        for name, factors in offsets.items():
            for offset, found in zip(factors, stack(config, [adapter.weights])[name], strict=True):
                offset.copy_(found[0])
                offset.requires_grad_(trained)


def run_lora(recipe: LoraRecipe, target: Path, report: Report, resume: bool, folder: Path) -> None:
    """Run a recipe of kind `lora`; it writes PEFT folders named after the tasks, or one named `multitask`."""
    config = Text2LoraConfig.from_base_config(
        load_base(AutoConfig, recipe.base.name, recipe.base.revision),
        recipe.target_modules,
        base_model_name_or_path=recipe.base.name,
        base_model_revision=recipe.base.revision or None,
        lora_r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        use_rslora=recipe.use_rslora,
    )
    tasks = load_sources(recipe.tasks, folder)
    if not isinstance(tasks, list):
        raise TrainingError("LoRAs need a list of tasks: a Python source must return a list of `Task`")
    folders = _folders([task.name for task in tasks] if recipe.per_task else ["multitask"], target)
    base, tokenizer = load_base_of_recipe(recipe.base)
    check_inputs(target, resume, tasks, base.state_dict())
    train, _ = prepare_tasks(tasks, recipe.split, tokenizer, recipe.max_length, report)
    size = recipe.at_once if recipe.per_task else len(train)
    groups = [train[i : i + size] for i in range(0, len(train), size)]
    for number, group in enumerate(groups):
        names = [task.name for task in group] if recipe.per_task else ["multitask"]
        if all((folders[name] / MARKERS["adapter"]).is_file() for name in names) and resume:
            continue
        sets = [[task] for task in group] if recipe.per_task else [group]
        notes = [{"description": task.descriptions[0]} for task in group] if recipe.per_task else [{}]

        @torch.no_grad()
        def save(table: LoraTable, names: list[str] = names, notes: list[dict[str, str]] = notes) -> None:
            """Write the adapters of a group."""
            for name, adapter in zip(names, to_adapters(config, table(range(len(names))), notes), strict=True):
                adapter.save_pretrained(folders[name])

        report(f"training LoRAs of {', '.join(names)}")
        train_loras(
            base,
            tokenizer,
            config,
            [partial(_examples, TaskSet(chosen, recipe.definition_dropout), recipe.examples) for chosen in sets],
            recipe.fit,
            target / f"part-{number}" if len(groups) > 1 else target,
            report,
            resume,
            engine=recipe.engine,
            max_length=recipe.max_length,
            pack=recipe.pack,
            settings=recipe,
            save=save,
        )


def _folders(names: Sequence[str], target: Path) -> dict[str, Path]:
    """The folder of each task's adapter.

    Raises:
        TrainingError: two tasks would share a folder, or one would use a name that the run itself needs.
    """
    owners: dict[str, str] = {}
    for name in names:
        folder = slug(name)
        if folder in owners:
            raise TrainingError(
                f"the adapters of {owners[folder]!r} and {name!r} would share the folder {folder!r}: rename one task"
            )
        if folder == FOLDER or re.fullmatch(r"part-\d+", folder):
            raise TrainingError(f"the adapter of {name!r} would take the folder {folder!r} of the run: rename the task")
        owners[folder] = name
    return {name: target / folder for folder, name in owners.items()}


def _examples(tasks: TaskSet, count: int, rng: random.Random) -> Sequence[Example]:
    """Examples of one task; or, if there are several tasks, examples each of a random task."""
    if len(tasks.tasks) == 1:
        return tasks.draw(rng, count).examples
    return [tasks.draw(rng, 1).examples[0] for _ in range(count)]


@settings
class ReconRecipe:
    """A hypernetwork that learns to generate the adapters of a library; their base is not loaded.

    Attributes:
        library: A folder whose subfolders are PEFT adapters, or empty.
        adapters: Further adapters, each a mapping with the keys of `LibraryEntry`.
        base: The name of the adapters' base, if it differs from the one they store.
        model: Settings of `Text2LoraConfig` that differ from the defaults.
        one_hot: Whether to encode adapters by name instead of by description, as in `SftRecipe`.
        recon: How to train.
    """

    library: str = ""
    adapters: list[dict[str, Any]] = field(default_factory=list)
    base: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    one_hot: bool = False
    recon: ReconConfig = field(default_factory=ReconConfig)


def run_recon(recipe: ReconRecipe, target: Path, report: Report, resume: bool, folder: Path) -> None:
    """Run a recipe of kind `recon`."""
    entries = [parse(LibraryEntry, entry, f"adapters[{i}]") for i, entry in enumerate(recipe.adapters)]
    entries = [replace(entry, path=str(locate(entry.path, folder))) for entry in entries]
    if recipe.library:
        found = sorted(path.parent for path in locate(recipe.library, folder).glob("*/adapter_config.json"))
        if not found:
            raise TrainingError(f"{recipe.library} holds no adapters: expected folders with an adapter_config.json")
        entries = [LibraryEntry(str(path)) for path in found] + entries
    names = library_names(entries)
    if recipe.one_hot:
        if recipe.recon.unseen:
            raise TrainingError(f"unseen is {recipe.recon.unseen}: expected 0, because one_hot knows no other adapters")
        entries = [LibraryEntry(entry.path, [name]) for entry, name in zip(entries, names, strict=True)]

    def make_config(first: LoraAdapter) -> Text2LoraConfig:
        name = recipe.base or first.spec.base_model_name_or_path or ""
        base = load_base(AutoConfig, name)
        theirs: dict[str, Any] = {"lora_r": first.spec.r, "lora_alpha": float(first.spec.lora_alpha)}
        theirs |= {"use_rslora": first.spec.use_rslora, "target_modules": list(first.spec.module_names)}
        if wrong := [key for key, value in theirs.items() if recipe.model.get(key, value) != value]:
            raise TrainingError(
                f"recipe.model.{wrong[0]} is {recipe.model[wrong[0]]!r}: the adapters of the library have "
                f"{theirs[wrong[0]]!r}, so leave it out"
            )
        settings: dict[str, Any] = {"base_model_name_or_path": name, "output_std": True, "offset": True}
        settings |= theirs | recipe.model | (one_hot_settings(names) if recipe.one_hot else {})
        del settings["target_modules"]
        return config_of_recipe(base, first.spec.module_names, settings)

    library, config = load_library(entries, make_config)
    weights = {f"{name} {i}": factor for name, factors in library.weights.items() for i, factor in enumerate(factors)}
    check_inputs(target, resume, [library.names, library.descriptions, library.held_out_descriptions], weights)
    torch.manual_seed(recipe.recon.fit.seed)
    cache = target / "descriptions.safetensors"
    train_recon(Text2LoraModel(config), library, recipe.recon, target, report, cache, resume, recipe)
    cache.unlink(missing_ok=True)
