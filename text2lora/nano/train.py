"""Trains the bundled model from its recipes and puts the result into the package."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from text2lora.configuration import Text2LoraConfig
from text2lora.errors import TrainingError
from text2lora.hub import BASES, CHECKPOINTS, atomic_file, atomic_folder
from text2lora.language import Example
from text2lora.modeling import Text2LoraModel
from text2lora.nano.corpus import TaskSampler, sample_example
from text2lora.nano.pretrain import BaseConfig, pretrain_base
from text2lora.nano.source import NanoTasks, read_probes, read_split
from text2lora.nano.tasks import TASKS, UNSEEN
from text2lora.training.fit import FitConfig
from text2lora.training.lora import train_loras
from text2lora.training.sft import SftConfig, train_sft

Report = Callable[[str], None]
BASELINES = Path(__file__).parent / "baselines"


@dataclass(frozen=True)
class HypernetworkRecipe:
    """Attributes: `base_model`, a recipe or a folder; `model`, what differs from the defaults of `Text2LoraConfig`;
    `start_from`, a recipe that ran before into the same folder and whose hypernetwork is trained further, or empty;
    `descriptions`, how many per task of each group, made from `description_seed`; `groups`, how often training draws
    a task of each group; `probe_records`, records per validated description; `sft`.
    """

    base_model: str = "nano-base"
    target_modules: list = field(default_factory=lambda: ["all-linear"])
    model: dict = field(default_factory=dict)
    start_from: str = ""
    description_seed: int = 0
    descriptions: dict = field(default_factory=dict)
    groups: dict = field(default_factory=dict)
    probe_records: int = 4
    sft: SftConfig = field(default_factory=SftConfig)


@dataclass(frozen=True)
class BaselinesRecipe:
    """Attributes: `checkpoint`, whose LoRA layout is used; `oracles`, test tasks with a LoRA of their own, half of
    them seen, half unseen; `examples` and `multitask_examples`, records per step for each; `fit`.
    """

    base_model: str = "nano-base"
    checkpoint: str = "nano"
    oracles: int = 12
    examples: int = 6
    multitask_examples: int = 64
    fit: FitConfig = field(default_factory=FitConfig)


def _find(name: str, runs: Path, bundled: dict[str, Path] | None = None) -> Path:
    """The folder of a model that a recipe names: trained into `runs` before, bundled, or a path."""
    for folder in (runs / name, (bundled or {}).get(name, Path(name))):
        if (folder / "config.json").is_file():
            return folder
    raise TrainingError(f"the recipe needs {name!r}, which is not in {runs}: run `t2l train sft {name}` into it first")


def run_base(config: BaseConfig, target: Path, report: Report, resume: bool, folder: Path) -> None:
    """Run a recipe of kind `base`."""
    start = None
    if config.start_from:
        start = LlamaForCausalLM.from_pretrained(_find(config.start_from, target.parent), dtype=torch.float32)
    pretrain_base(config, target, report, start, resume)


def run_hypernetwork(recipe: HypernetworkRecipe, target: Path, report: Report, resume: bool, folder: Path) -> None:
    """Run a recipe of kind `hypernetwork`."""
    base_path = _find(recipe.base_model, target.parent, {"nano-base": BASES["nano"]})
    base = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    torch.manual_seed(recipe.sft.fit.seed)
    probes = {split: read_probes(split, recipe.probe_records) for split in ("dev_seen", "dev_unseen", "dev_freeform")}
    if recipe.start_from:
        model = Text2LoraModel.from_pretrained(_find(recipe.start_from, target.parent), dtype=torch.float32)
    else:
        settings = {"base_model_name_or_path": recipe.base_model, **recipe.model}
        model = Text2LoraModel(Text2LoraConfig.from_base_config(base.config, recipe.target_modules, **settings))
    train_sft(
        model,
        base,
        AutoTokenizer.from_pretrained(base_path),
        NanoTasks(recipe.descriptions, recipe.description_seed, recipe.groups),
        recipe.sft,
        target,
        probes,
        report,
        cache=target.parent / "descriptions.safetensors",
        resume=resume,
    )


def training_descriptions() -> tuple[list[str], list[str]]:
    """The task names and the descriptions of the bundled checkpoint's training, side by side."""
    log = (CHECKPOINTS["nano"] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    recipe = [row for row in map(json.loads, log) if "recipe" in row][-1]
    tasks = NanoTasks(recipe["descriptions"], recipe.get("description_seed", 0))
    return tasks.task_names, tasks.descriptions


def oracle_tasks(count: int) -> list[str]:
    """Test tasks that get a LoRA of their own: the first half of the list seen, the second unseen."""
    chosen = []
    for split in ("test_seen", "test_unseen"):
        names = sorted({task for task, _ in read_split(split)})
        chosen += random.Random(f"oracles {split}").sample(names, count // 2)
    return chosen


def run_baselines(recipe: BaselinesRecipe, target: Path, report: Report, resume: bool, folder: Path) -> None:
    """Run a recipe of kind `baselines`."""
    base_path = _find(recipe.base_model, target.parent, {"nano-base": BASES["nano"]})
    base = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base_path)
    config = Text2LoraConfig.from_pretrained(_find(recipe.checkpoint, target.parent, CHECKPOINTS))
    names = oracle_tasks(recipe.oracles)
    sample = TaskSampler(name for name in TASKS if name not in UNSEEN)

    def oracle(name: str) -> Callable[[random.Random], list[Example]]:
        return lambda rng: [sample_example(TASKS[name], rng) for _ in range(recipe.examples)]

    def multitask(rng: random.Random) -> list[Example]:
        return [sample_example(sample(rng), rng) for _ in range(recipe.multitask_examples)]

    runs: dict[str, Sequence[Callable[[random.Random], list[Example]]]] = {
        "oracles": [oracle(name) for name in names],
        "multitask": [multitask],
    }
    for run, draws in runs.items():
        if resume and (target / f"{run}.safetensors").is_file():
            continue
        report(f"{run}: {len(draws)} LoRAs")
        table = train_loras(base, tokenizer, config, draws, recipe.fit, target / run, report, resume)
        tensors = {key: value.detach().to(torch.bfloat16) for key, value in table.state_dict().items()}
        metadata = {"tasks": json.dumps(names if run == "oracles" else [])}
        with atomic_file(target / f"{run}.safetensors") as temporary:  # which a resumed run takes for done
            save_file(tensors, temporary, metadata)


def _parts(run: Path) -> list[Path]:
    """The runs that led to one, each started from the one before."""
    first = json.loads((run / "recipe.json").read_text(encoding="utf-8")).get("start_from")
    return [*(_parts(run.parent / first) if first else []), run]


def bundle(output_dir: Path) -> None:
    """Put what `run_recipe` trained into the package, weights in bfloat16; they are loaded in float32."""
    from transformers import PreTrainedModel

    def write(model: PreTrainedModel, source: Path, target: Path, extras: Sequence[str]) -> None:
        with atomic_folder(target) as folder:
            if model.can_generate():
                model.generation_config.update(max_new_tokens=64, do_sample=False)
            model.to(torch.bfloat16).save_pretrained(folder)
            (folder / "README.md").unlink(missing_ok=True)  # the card is one for base and checkpoint, beside them
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config["dtype"] = "float32"
            (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            for extra in extras:
                (folder / extra).write_bytes((source / extra).read_bytes())
            with (folder / "metrics.jsonl").open("w") as log:
                for part in _parts(source):
                    recipe = json.loads((part / "recipe.json").read_text(encoding="utf-8"))
                    log.write(json.dumps({"recipe": part.name, **recipe}) + "\n")
                    log.write((part / "metrics.jsonl").read_text(encoding="utf-8"))

    base, checkpoint, baselines = (output_dir / name for name in ("nano-base", "nano", "nano-baselines"))
    if (base / "config.json").is_file():
        write(
            AutoModelForCausalLM.from_pretrained(base),
            base,
            BASES["nano"],
            ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        )
    if (checkpoint / "config.json").is_file():
        write(Text2LoraModel.from_pretrained(checkpoint), checkpoint, CHECKPOINTS["nano"], ())
    if (baselines / "oracles.safetensors").is_file():
        with atomic_folder(BASELINES) as folder:
            for name in ("oracles.safetensors", "multitask.safetensors", "recipe.json"):
                (folder / name).write_bytes((baselines / name).read_bytes())
