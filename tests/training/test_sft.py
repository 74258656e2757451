"""Training end to end, at the smallest size that learns anything."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from text2lora import Text2LoraModel, TrainingError
from text2lora.inference import generate_answers
from text2lora.injection import LoraInjector
from text2lora.scoring import score_examples
from text2lora.training.data import Probe, TaskDraw
from text2lora.training.fit import FitConfig
from text2lora.training.lora import LoraTable, train_loras
from text2lora.training.sft import SftConfig, train_sft
from text2lora.training.state import save_checkpoint
from text2lora.training.tasks import Task, TaskExample, TaskSet

ANSWERS = {"say a": "aa", "say the city": "12"}


class Tasks:
    descriptions = tuple(ANSWERS)

    def draw(self, rng: random.Random, examples: int) -> TaskDraw:
        row = rng.randrange(2)
        return TaskDraw(row, [(rng.choice("xyz"), ANSWERS[self.descriptions[row]]) for _ in range(examples)])


CONFIG = SftConfig(
    tasks=4, examples=2, noise=0.0, token_dropout=0.0, fit=FitConfig(steps=100, lr=0.01, adamw_lr=0.01, log_every=5)
)


@pytest.mark.parametrize("task_encoder", ["pooled", "tokens"])
def test_sft_teaches_descriptions_and_its_checkpoint_loads(
    make_config, base, load_base, tokenizer, tmp_path: Path, task_encoder: str
) -> None:
    pooling = "none" if task_encoder == "tokens" else "mean"
    config = make_config(("all-linear",), task_encoder=task_encoder, encoder_pooling=pooling, dropout=0.0)
    model = Text2LoraModel(config)
    probes = {"seen": [Probe(text, [("x", answer), ("z", answer)]) for text, answer in ANSWERS.items()]}
    before = {name: p.clone() for name, p in base.named_parameters()}
    figures = train_sft(model, base, tokenizer, Tasks(), CONFIG, tmp_path, probes, lambda line: None)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    assert figures["seen/exact_match"] == 1.0
    assert all(torch.equal(p, before[name]) for name, p in base.named_parameters())
    loaded = Text2LoraModel.from_pretrained(tmp_path)
    for text, answer in ANSWERS.items():  # what was trained through hooks works through PEFT
        assert generate_answers(loaded.generate_adapter(text, load_base()), tokenizer, ["y"], 4) == [answer]


def test_long_prompts_are_cut_in_validation_as_in_training(make_config, base, tokenizer, tmp_path: Path) -> None:
    shapes: list[torch.Size] = []
    base.register_forward_pre_hook(lambda *args: shapes.append(args[2]["input_ids"].shape), with_kwargs=True)
    probes = {"seen": [Probe(text, [("x" * 200, "aa")] * 40) for text in ANSWERS]}
    config = dataclasses.replace(CONFIG, max_length=32, conditions=["matched", "none"], fit=FitConfig(steps=1))
    train_sft(Text2LoraModel(make_config()), base, tokenizer, Tasks(), config, tmp_path, probes, lambda line: None)
    assert max(length for _, length in shapes) == 31  # the last token is read by nobody
    assert max(rows for rows, _ in shapes) == 40  # a task at a time, for two would be more than 64


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(make_model, tmp_path: Path, monkeypatch) -> None:
    save_checkpoint(tmp_path, make_model())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self, folder: Path, **options: object) -> None:
        Path(folder).mkdir(exist_ok=True)
        Path(folder, "model.safetensors").write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(Text2LoraModel, "save_pretrained", full)
    with pytest.raises(TrainingError, match=r"cannot be written \(I/O error: No space left.*last good state is kept"):
        save_checkpoint(tmp_path, make_model())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_whose_checkpoint_cannot_be_written_can_be_resumed(
    make_config, base, tokenizer, tmp_path: Path, monkeypatch
) -> None:
    torch.manual_seed(0)
    model = Text2LoraModel(make_config())
    probes = {"seen": [Probe(text, [("x", answer)]) for text, answer in ANSWERS.items()]}
    fit = FitConfig(steps=2, eval_every=1)
    config = dataclasses.replace(CONFIG, fit=fit, select="loss")

    def train(resume: bool) -> dict[str, float]:
        return train_sft(model, base, tokenizer, Tasks(), config, tmp_path, probes, lambda line: None, resume=resume)

    def full(*args: object, **options: object) -> None:
        raise TrainingError("No space left on device")

    monkeypatch.setattr("text2lora.training.hypernet.save_checkpoint", full)
    with pytest.raises(TrainingError, match="No space left"):
        train(resume=False)
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["best.pt", "step-00000001.pt"]
    assert set(train(resume=True)) == {"seen/exact_match", "seen/loss"}
    assert not (tmp_path / "state").exists()


@torch.no_grad()
def test_matches_of_all_tasks_equal_one_at_a_time(make_model, base, tokenizer) -> None:
    model = make_model()
    injector = LoraInjector(base, model.config)
    task_emb = torch.randn(5, 24)
    examples = [[("x", "ab"), ("yy", "c")] for _ in range(5)]
    examples[1] = [*examples[1], ("zzz", "d")]  # tasks with other numbers of examples are in batches of their own
    batched = score_examples(model, task_emb, examples, injector, base, tokenizer, rows=4)
    alone = [
        score_examples(model, task_emb[i : i + 1], examples[i : i + 1], injector, base, tokenizer)[0] for i in range(5)
    ]
    assert [score.matches.tolist() for score in batched] == [score.matches.tolist() for score in alone]
    assert [score.loss for score in batched] == pytest.approx([score.loss for score in alone], rel=1e-4)


def test_loras_without_a_hypernetwork_learn_their_own_task(make_config, base, tokenizer, tmp_path: Path) -> None:
    config = make_config(("all-linear",))
    draws = [lambda rng, answer=answer: [(rng.choice("xyz"), answer)] for answer in ANSWERS.values()]
    fit_config = FitConfig(steps=60, lr=0, adamw_lr=0.02)
    table = train_loras(base, tokenizer, config, draws, fit_config, tmp_path, lambda line: None)
    with LoraInjector(base, config).inject(table(range(2))):
        pad = tokenizer(["<user>y<answer>"] * 2, return_tensors="pt")["input_ids"]
        made = base.generate(pad, max_new_tokens=2, do_sample=False, pad_token_id=0)[:, pad.shape[1] :]
    assert tokenizer.batch_decode(made) == list(ANSWERS.values())


def test_fresh_loras_change_nothing_and_have_their_shapes(make_config) -> None:
    weights = LoraTable(make_config(), 3)([2, 0])
    assert {name: (tuple(a.shape), tuple(b.shape)) for name, (a, b) in weights.items()} == {
        "v_proj": ((2, 2, 4, 32), (2, 2, 16, 4)),
        "q_proj": ((2, 2, 4, 32), (2, 2, 32, 4)),
    }
    assert not any(b.any() for _, b in weights.values())


def test_a_task_without_any_answer_token_is_trained_as_the_others(make_model, base, tokenizer, tmp_path: Path) -> None:
    """An empty prompt before a single token leaves nothing to predict it from."""
    tasks = TaskSet([Task("a", ["say a"], [TaskExample("", "")]), Task("b", ["say b"], [TaskExample("x", "b")])])
    config = SftConfig(tasks=4, buckets=2, fit=FitConfig(steps=3))
    train_sft(make_model(), base, tokenizer, tasks, config, tmp_path, report=lambda line: None)
