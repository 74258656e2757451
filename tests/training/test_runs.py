"""Recipes for own tasks and bases, from the command line to a checkpoint that makes adapters."""

from __future__ import annotations

import copy
import json
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from text2lora import LoraAdapter, Text2LoraConfig, Text2LoraModel, base_model_path
from text2lora.cli import app
from text2lora.confidence import Calibration
from text2lora.errors import CheckpointError, InvalidDescriptionError, MissingExtraError, Text2LoraError, TrainingError
from text2lora.language import prompt_batch
from text2lora.recipes import FOLDER, KINDS, run_recipe
from text2lora.training.engine import is_main_process
from text2lora.training.recipe import parse, read_recipe
from text2lora.training.runs import BaseSpec, _examples, _folders, load_base_of_recipe, prepare_tasks, set_offset
from text2lora.training.sources import load_sources
from text2lora.training.tasks import SplitConfig, Task, TaskExample, TaskSet

TEN_TASKS = Path(__file__).parents[2] / "examples" / "ten-tasks"
SHORT = ["sft.fit.steps=2", "sft.tasks=3", "split.wordings=1", "split.examples=2", "split.tasks=2"]


@pytest.fixture(autouse=True)
def _picture(request: pytest.FixtureRequest) -> None:
    """Drawn in one test."""
    if request.function is not test_the_ten_tasks_of_the_tutorial_train_a_checkpoint:
        request.getfixturevalue("no_picture")


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ["fit.steps=12", "examples=4", "per_task=false"]
    return run_recipe(str(TEN_TASKS / "oracles.yaml"), tmp_path_factory.mktemp("runs"), settings, silent)


def test_the_ten_tasks_of_the_tutorial_train_a_checkpoint(tmp_path: Path) -> None:
    command = ["train", str(TEN_TASKS / "recipe.yaml"), "-o", str(tmp_path)]
    for setting in SHORT:
        command += ["--set", setting]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "recipe"
    assert (folder / "training.png").stat().st_size > 5000
    assert json.loads((folder / "recipe.json").read_text())["sft"]["noise"] == 0.1  # a default
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = set().union(*rows)
    assert {f"unseen_{what}/exact_match" for what in ("examples", "descriptions", "tasks")} < names
    assert {"unseen_descriptions (shuffled)/loss", "unseen_descriptions (none)/loss"} < names
    assert "unseen_tasks" in (folder / "README.md").read_text()
    assert not (folder / "descriptions.safetensors").exists()
    adapter = Text2LoraModel.from_pretrained(folder).generate_lora("Give me the town.")
    assert adapter.spec.base_model_name_or_path == "nano"


def test_a_scheduler_stops_a_run_that_then_goes_on(tmp_path: Path, forked: None) -> None:
    command = ["train", str(TEN_TASKS / "recipe.yaml"), "-o", str(tmp_path)]
    settings = ["sft.tasks=3", "sft.fit.steps=20", "sft.fit.log_every=1", "sft.fit.eval_every=0"]
    for setting in [*SHORT[2:], *settings]:
        command += ["--set", setting]
    metrics = tmp_path / "recipe" / "metrics.jsonl"
    process = subprocess.Popen([sys.executable, "-m", "text2lora", *command], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 130, said
    assert re.search(r"(?<!Error: )Stopped at step \d+ of 20 and saved: continue .* --resume$", " ".join(said.split()))
    done = CliRunner().invoke(app, [*command, "--resume"])
    assert done.exit_code == 0, done.output
    steps = [row["step"] for row in map(json.loads, metrics.read_text().splitlines()) if "loss" in row]
    assert steps == list(range(1, 21))


def test_tasks_by_name_are_a_baseline_that_cannot_read(tmp_path: Path) -> None:
    folder = run_recipe(str(TEN_TASKS / "recipe.yaml"), tmp_path, [*SHORT, "one_hot=true"], silent)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    splits = {name.partition("/")[0] for row in rows for name in row if "/" in name}
    assert splits == {"unseen_examples", "unseen_examples (shuffled)", "unseen_examples (none)"}
    model = Text2LoraModel.from_pretrained(folder)
    assert model.config.task_emb_size == 9
    assert model.novelty("year") is None
    assert model.generate_lora("year").metadata["description"] == "year"
    with pytest.raises(
        InvalidDescriptionError, match=r"'the year' is not a task of this checkpoint.* its 9, such as year"
    ):
        model.generate_lora("the year")


@pytest.mark.parametrize(
    ("name", "settings", "shown"),
    [
        ("recipe", [*SHORT, "sft.engine.trackers=[tensorboard]"], {"sft.fit.steps": 2, "sft.noise": 0.1}),
        ("oracles", ["fit.steps=2", "per_task=false", "engine.trackers=[tensorboard]"], {"fit.steps": 2}),
    ],
)
def test_trackers_show_the_settings_of_the_recipe(
    tmp_path: Path, name: str, settings: list[str], shown: dict[str, object]
) -> None:
    pytest.importorskip("tensorboard")
    folder = run_recipe(str(TEN_TASKS / f"{name}.yaml"), tmp_path, settings, silent)
    (file,) = folder.rglob("hparams.yml")
    found = yaml.safe_load(file.read_text())
    assert found.items() >= (shown | {"base.name": "nano", "target_modules": '["all-linear"]'}).items()


def test_loras_are_saved_for_peft(lora_run: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(base_model_path("nano"))
    model = PeftModel.from_pretrained(base, lora_run / "multitask")
    assert any(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)
    recipe, settings = str(TEN_TASKS / "oracles.yaml"), ["fit.steps=1", "examples=1", "at_once=6"]
    folder = run_recipe(recipe, tmp_path, settings, silent)
    names = {path.parent.name for path in folder.glob("*/adapter_config.json")}
    assert names == {path.stem for path in (TEN_TASKS / "tasks").iterdir()}
    assert LoraAdapter.from_pretrained(folder / "year").metadata["description"].startswith("Say in which year")


def test_loras_that_cannot_be_written_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"name": "one", "descriptions": ["x"], "examples": [[f"apple {i}", str(i)] for i in range(4)]}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(rows))
    recipe = {"kind": "lora", "base": {"name": "nano"}, "tasks": [{"path": "tasks.jsonl"}], "examples": 1}
    fit = {"steps": 2, "save_every": 1}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe | {"fit": fit, "target_modules": ["q_proj"]}))

    def full(self: LoraAdapter, folder: Path) -> None:
        raise Text2LoraError("No space left on device")

    monkeypatch.setattr(LoraAdapter, "save_pretrained", full)
    with pytest.raises(Text2LoraError, match="No space left"):
        run_recipe(str(tmp_path / "mine.yaml"), tmp_path, [], silent)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.glob("mine/state/*")] == ["step-00000001.pt"]
    monkeypatch.setattr("text2lora.recipes.plot_training", lambda folder: None)
    folder = run_recipe(str(tmp_path / "mine.yaml"), tmp_path, [], silent, resume=True)
    assert LoraAdapter.from_pretrained(folder / "one").metadata["description"] == "x"
    assert not (folder / "state").exists()


def test_one_lora_for_all_tasks_sees_all_of_them_in_a_step() -> None:
    tasks = [Task(f"t{i}", ["d"], [TaskExample(f"q{i}", "a", "what to do")] * 9) for i in range(6)]
    mixed = _examples(TaskSet(tasks, definition_dropout=0.0), 100, random.Random(0))
    assert {prompt for prompt, _ in mixed} == {f"what to do\n\nq{i}" for i in range(6)}
    own = _examples(TaskSet(tasks[:1], definition_dropout=1.0), 8, random.Random(0))
    assert own == [("q0", "a")] * 8


def test_adapters_start_from_a_multi_task_lora(lora_run: Path, tmp_path: Path) -> None:
    recipe = str(TEN_TASKS / "recipe.yaml")
    offset = [f"offset_from={lora_run / 'multitask'}", "train_offset=false", "sft.fit.adamw_lr=0.0", "sft.fit.lr=0.0"]
    model = Text2LoraModel.from_pretrained(run_recipe(recipe, tmp_path, [*SHORT, *offset], silent))
    made, multitask = model.generate_lora("Give me the town."), LoraAdapter.from_pretrained(lora_run / "multitask")
    assert all(torch.equal(made.weights[key], value) for key, value in multitask.weights.items())


def test_a_run_is_not_resumed_from_another_offset(lora_run: Path, tmp_path: Path) -> None:
    offset = LoraAdapter.from_pretrained(lora_run / "multitask")
    offset.save_pretrained(tmp_path / "offset")
    settings = [*SHORT, "sft.fit.steps=1", f"offset_from={tmp_path / 'offset'}", "train_offset=false"]
    folder = run_recipe(str(TEN_TASKS / "recipe.yaml"), tmp_path, settings, silent)
    (folder / "finished").unlink()
    changed = {key: 2 * weight for key, weight in offset.weights.items()}
    replace(offset, weights=changed).save_pretrained(tmp_path / "offset")
    with pytest.raises(TrainingError, match="files named in the recipe have changed"):
        run_recipe(str(TEN_TASKS / "recipe.yaml"), tmp_path, settings, silent, resume=True)


def test_a_checkpoint_is_trained_further(tmp_path: Path) -> None:
    recipe = str(TEN_TASKS / "recipe.yaml")
    before = Text2LoraModel.from_pretrained("nano")
    more = ["start_from=nano", "model={}", "sft.fit.lr=0.0001", "sft.fit.adamw_lr=0.0001"]
    after = Text2LoraModel.from_pretrained(run_recipe(recipe, tmp_path, [*SHORT, *more], silent))
    changes = [(p - after.state_dict()[name]).abs().max() for name, p in before.state_dict().items()]
    assert 0 < max(changes) < 0.01
    assert before.calibration
    assert after.calibration is None  # it was fitted to the weights from before


def test_an_offset_that_does_not_fit_is_refused(lora_run: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(base_model_path("nano"))
    adapter = LoraAdapter.from_pretrained(lora_run / "multitask")

    def model(**settings: object) -> Text2LoraModel:
        modules = settings.pop("modules", ["all-linear"])
        sizes = {"lora_r": 4, "lora_alpha": 4.0, "latent_size": 16, "head_input_size": 16} | settings
        return Text2LoraModel(Text2LoraConfig.from_base_config(base.config, modules, **sizes))

    with pytest.raises(TrainingError, match=r"does not fit the model's modules and rank: see .*lora_A"):
        set_offset(model(modules=["q_proj"]), adapter)
    with pytest.raises(TrainingError, match="strength 2: expected 4"):
        set_offset(model(lora_alpha=8.0), adapter)
    with pytest.raises(TrainingError, match="offset: true"):
        set_offset(model(offset=False), adapter)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["start_from=nano"], "leave out `model` and `offset_from`"),
        (["tasks=[]"], "names no tasks"),
        (["tasks.0.path=nowhere"], "nowhere cannot be read"),
        (["tasks.0.paht=x"], r"tasks\[0\] has no setting 'paht': did you mean 'path'"),
        (["tasks.3.path=x"], "no entry '3' in a list of 1"),
        (["base.name=moon/moon"], "the base model 'moon/moon' cannot be loaded"),
        (["base.quantization=2bit"], "expected 'none', '4bit' or '8bit'"),
        (["base.dtype=big"], "dtype is 'big'"),
        (["split.unseen_tasks=some"], "expected int or list of str"),
        (["sft.engine.trackers=[moon]"], "trackers are"),
        (["sft.fitt.steps=1"], "has no setting 'fitt': did you mean 'fit'"),
        (["sft.max_length=2"], r"max_length is 2: 0 examples of the task '.*' have a response of 1 tokens or fewer"),
        (["model.lora_r=0"], r"recipe\.model\.lora_r is 0: expected 1 or more"),
        (["model.lora_r=x"], r"Field 'recipe\.model\.lora_r' expected int, got str"),
        (["model.lorar=4"], r"'recipe\.model\.lorar' is not an attribute of a config: did you mean 'lora_r'\?$"),
        (["model.lora_r=0", "tasks.0.path=nowhere"], "lora_r is 0"),  # before the tasks are read
        (["definition_dropout=9"], "definition_dropout is 9.0: expected a share"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(Text2LoraError, match=message):
        run_recipe(str(TEN_TASKS / "recipe.yaml"), tmp_path, [*SHORT, *settings], silent)


def test_unknown_kinds_and_recipes_are_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", str(TEN_TASKS / "recipe.yaml"), "--set", "kind=dpo", "-o", str(tmp_path)])
    assert "is of kind 'dpo': expected one of sft, recon, lora, average" in str(done.exception)
    with pytest.raises(TrainingError, match=r"the recipe 'qwen' does not exist: expected .*qwen3-4b"):
        run_recipe("qwen", tmp_path, [], silent)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("qwen3-0.6", "does not exist: did you mean 'qwen3-0.6b'?"),
        (str(TEN_TASKS / "recipe.yml"), f"does not exist: did you mean '{TEN_TASKS / 'recipe.yaml'}'?"),
        (str(TEN_TASKS), f"is a folder: expected a YAML file, such as {TEN_TASKS / 'recipe.yaml'}"),
    ],
)
def test_a_mistyped_recipe_is_told_the_nearest_one(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(TrainingError, match=re.escape(told)):
        run_recipe(name, tmp_path, [], silent)


def test_a_recipe_without_its_ending_is_told_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yml").touch()
    with pytest.raises(TrainingError, match=r"did you mean 'mine\.yml'"):
        run_recipe("mine", tmp_path, [], silent)


@pytest.mark.parametrize("names", [("C++", "C#"), ("task_1", "Task 1"), ("same", "same")])
def test_two_tasks_whose_adapters_would_share_a_folder_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    rows = [{"name": name, "descriptions": ["x"], "examples": [["a", "b"], ["c", "d"]]} for name in names]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "recipe.yaml").write_text("{kind: lora, base: {name: nano}, tasks: [{path: tasks.jsonl}]}")
    told = re.escape(f"the adapters of {names[0]!r} and {names[1]!r} would share the folder")
    with pytest.raises(TrainingError, match=told):
        run_recipe(str(tmp_path / "recipe.yaml"), tmp_path, [], silent)


@pytest.mark.parametrize("name", ["State", "part 0"])
def test_a_task_named_like_a_folder_of_the_run_is_refused(name: str) -> None:
    with pytest.raises(TrainingError, match=f"of {name!r} would take the folder"):
        _folders([name], Path())


@pytest.mark.parametrize(
    ("kind", "recipe", "change", "told"),
    [
        ("sft", {"base": {"name": "nano"}, "tasks": []}, "model.dropout=0.5", r"model\.dropout unset \(now 0\.5\)"),
        (
            "sft",
            {"base": {"name": "nano"}, "tasks": [{"path": "a"}]},
            "tasks.0.path=b",
            r"tasks\.0\.path a \(now b\)",
        ),
        ("lora", {"base": {"name": "nano"}, "tasks": []}, "lora_r=2", r"lora_r 8 \(now 2\)"),
        ("recon", {"model": {"dropout": 0.5}}, "model={}", r"model\.dropout 0\.5 \(now unset\)"),
    ],
)
def test_a_run_is_resumed_with_its_own_settings_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, recipe: dict, change: str, told: str
) -> None:
    resumed: list[bool] = []
    monkeypatch.setitem(
        KINDS, kind, (KINDS[kind][0], lambda recipe, target, report, resume, folder: resumed.append(resume))
    )
    path, written = tmp_path / "mine.yaml", tmp_path / "mine" / "recipe.json"
    path.write_text(yaml.safe_dump({"kind": kind} | recipe))
    run_recipe(str(path), tmp_path, [], silent, resume=True)  # nothing is there yet
    before = written.read_text()
    with pytest.raises(TrainingError, match=f"started with other settings: {told}"):
        run_recipe(str(path), tmp_path, [change], silent, resume=True)
    assert written.read_text() == before
    old = {key: value for key, value in json.loads(before).items() if key in recipe or key == "kind"}
    written.write_text(json.dumps(old))  # as of a version that had fewer settings
    (tmp_path / "mine" / "finished").unlink()  # interrupted
    run_recipe(str(path), tmp_path, [], silent, resume=True)
    run_recipe(str(path), tmp_path, [change], silent, force=True)
    assert resumed == [True, True, False]
    for damaged in ("", before[:-9], "[]"):
        written.write_text(damaged)
        with pytest.raises(TrainingError, match=r"recipe\.json cannot be read \(.*start again in another folder"):
            run_recipe(str(path), tmp_path, [], silent, resume=True)
        assert written.read_text() == damaged


def test_a_run_in_the_way_is_kept_unless_it_is_to_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(recipe: object, target: Path, *_: object) -> None:
        begun.append([path.name for path in target.glob("**/step-*")])

    begun: list[list[str]] = []
    monkeypatch.setitem(KINDS, "lora", (KINDS["lora"][0], begin))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"kind": "lora", "base": {"name": "nano"}, "tasks": []}))

    def train(*options: str) -> Result:
        return CliRunner().invoke(app, ["train", str(tmp_path / "mine.yaml"), "-o", str(tmp_path), *options])

    assert train().exit_code == 0
    with pytest.raises(TrainingError, match=r"mine holds a finished run: .* with --force"):
        raise train().exception or AssertionError
    assert "mine is finished already" in train("--resume").stderr
    assert len(begun) == 1
    state = tmp_path / "mine" / "part-0" / "state" / "step-00000001.pt"
    state.parent.mkdir(parents=True)
    state.touch()
    with pytest.raises(TrainingError, match="resumed or replaced, not both"):
        raise train("--resume", "--force").exception or AssertionError
    assert train("--force").exit_code == 0
    assert begun == [[], []]
    assert not state.exists()


def test_loras_of_other_content_under_the_same_names_are_not_taken_for_done(tmp_path: Path) -> None:
    def write(word: str) -> None:
        examples = [[f"{word} {i}", str(i)] for i in range(4)]
        rows = [{"name": name, "descriptions": ["x"], "examples": examples} for name in ("one", "two")]
        (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))

    recipe = {"kind": "lora", "base": {"name": "nano"}, "tasks": [{"path": "tasks.jsonl"}], "examples": 1}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe | {"fit": {"steps": 1}, "target_modules": ["q_proj"]}))
    said: list[str] = []

    def run(resume: bool) -> list[str]:
        said.clear()
        (tmp_path / "mine" / "finished").unlink(missing_ok=True)  # interrupted after the last LoRA
        run_recipe(str(tmp_path / "mine.yaml"), tmp_path, [], said.append, resume)
        return [line for line in said if line.startswith("training LoRAs of")]

    write("apple")
    assert run(resume=False) == ["training LoRAs of one, two"]
    assert run(resume=True) == []
    write("pear")
    with pytest.raises(TrainingError, match=r"files named in the recipe have changed since .*mine was started"):
        run(resume=True)
    assert run(resume=False) == ["training LoRAs of one, two"]
    assert run(resume=True) == []


def test_responses_fit_into_few_tokens(tokenizer) -> None:
    tasks = [Task(name, ["d"], [TaskExample(f"{name}{i} prompt" * 9, f"ye{i}", "") for i in range(4)]) for name in "ab"]
    lines: list[str] = []
    train, _ = prepare_tasks(tasks, SplitConfig(), tokenizer, 12, lines.append)
    assert [len(task.examples) for task in train] == [2, 2]
    assert not any("left out" in line for line in lines)
    prompt_batch(tokenizer, [(e.prompt, e.response) for e in train[0].examples], 12)
    with pytest.raises(TrainingError, match=r"max_length is 6: 0 examples of the task 'a' have a response of 3 tokens"):
        prepare_tasks(tasks, SplitConfig(), tokenizer, 6, silent)


def test_what_the_chat_template_refuses_is_said_before_training(tokenizer) -> None:
    strict = copy.deepcopy(tokenizer)
    strict.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' or 'secret' in m.content %}{{ raise_exception('not here') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    good = [TaskExample(f"prompt {i}", "yes") for i in range(4)]
    prepare_tasks([Task(name, ["d"], good) for name in "ab"], SplitConfig(), strict, 64, silent)
    system = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    for bad in (TaskExample(system, "yes"), TaskExample("x", "yes", definition="a secret")):
        for task in (Task("b", ["d"], [*good, bad]), Task("b", ["d"], good[:3], held_out_examples=[good[3], bad])):
            with pytest.raises(TrainingError, match=r"example 5 of the task 'b' cannot be used: .* \(not here\)"):
                prepare_tasks([Task("a", ["d"], good), task], SplitConfig(), strict, 64, silent)


def test_a_tokenizer_without_an_end_is_refused_before_training(tokenizer) -> None:
    endless = copy.deepcopy(tokenizer)
    endless.chat_template = endless.eos_token = None
    with pytest.raises(CheckpointError, match="no token that ends an answer"):
        prepare_tasks([], SplitConfig(), endless, 64, silent)


@pytest.mark.parametrize(
    ("environment", "main"),
    [
        ({}, True),
        ({"RANK": "1"}, True),
        ({"RANK": "1", "WORLD_SIZE": "1"}, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
    ],
)
def test_only_a_launchers_rank_counts(monkeypatch: pytest.MonkeyPatch, environment: dict, main: bool) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() is main


def test_quantization_without_bitsandbytes_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install bitsandbytes"):
        load_base_of_recipe(BaseSpec("nano", quantization="4bit"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_bundled_recipes_have_only_known_settings(path: Path) -> None:
    data = read_recipe(path)
    kind, _ = KINDS[data.pop("kind")]
    recipe = parse(kind, data)
    model = data.get("model", {})
    config = Text2LoraConfig(**getattr(recipe, "model", {}))
    assert {name: getattr(config, name) for name in model} == model


def test_the_tutorials_tasks_do_not_share_records() -> None:
    tasks = load_sources([{"path": str(TEN_TASKS / "tasks")}])
    assert len(tasks) == 10
    assert all(len(task.examples) == 40 and len(task.held_out_descriptions) == 2 for task in tasks)
    prompts = [example.prompt for task in tasks for example in task.examples]
    assert len(set(prompts)) == len(prompts)


def test_checkpoints_are_averaged(checkpoint_dir: Path, tmp_path: Path) -> None:
    first = Text2LoraModel.from_pretrained(checkpoint_dir)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1)
    second.calibration = Calibration(1.0, 0.0, 0.0, 0.0)
    second.to(torch.bfloat16).save_pretrained(tmp_path / "second")
    recipe = tmp_path / "mean.yaml"
    recipe.write_text(f"kind: average\ncheckpoints: [{checkpoint_dir}, second]\n")
    lines: list[str] = []
    folder = run_recipe(str(recipe), tmp_path / "runs", [], lines.append)
    mean = Text2LoraModel.from_pretrained(folder)
    again = Text2LoraModel.from_pretrained(tmp_path / "second").float().state_dict()
    for name, value in mean.state_dict().items():
        torch.testing.assert_close(value, (first.state_dict()[name] + again[name]) / 2)
    assert mean.calibration is None  # which was fitted to other weights
    assert lines == ["averaged 2 checkpoints"]


def test_checkpoints_of_other_sizes_are_not_averaged(checkpoint_dir: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mean.yaml"
    recipe.write_text(f"kind: average\ncheckpoints: [{checkpoint_dir}, nano]\n")
    with pytest.raises(TrainingError, match=r"^nano has \w+ .*: expected checkpoints with the same config$"):
        run_recipe(str(recipe), tmp_path, [], silent)
    assert not (tmp_path / "mean" / "config.json").exists()
    recipe.write_text("kind: average\ncheckpoints: [nano]\n")
    with pytest.raises(TrainingError, match=r"checkpoints is \['nano'\]: expected two or more to average"):
        run_recipe(str(recipe), tmp_path, [], silent)
