"""A compiled base, and one that multiplies 8-bit integers, give the gradients of the plain base."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
from contextlib import closing
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from text2lora import Text2LoraModel, TrainingError
from text2lora.errors import TaskError
from text2lora.injection import LoraInjector
from text2lora.language import answer_loss, prompt_batch
from text2lora.training.data import Probe, TaskDraw
from text2lora.training.engine import Ahead, EngineConfig, prepare_base, start_engine
from text2lora.training.fit import FitConfig
from text2lora.training.quantized import Int8Linear
from text2lora.training.sft import SftConfig, train_sft
from text2lora.training.tasks import Task, TaskExample, TaskSet


def prepare(base: PreTrainedModel, tmp_path, **options: object) -> PreTrainedModel:
    config = EngineConfig(device="cpu", **options)
    return prepare_base(base, config, start_engine(config, tmp_path))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """`nn.Module.compile` without a C++ compiler: the graphs of TorchDynamo, which it counts, run as they are."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=counter))
    return counter


def test_a_compiled_base_follows_every_adapter(make_config, load_base, tokenizer, tmp_path, compiled) -> None:
    config = make_config(("q_proj", "down_proj"))
    bases = [prepare(load_base(), tmp_path, compile=on) for on in (False, True)]
    injectors = [LoraInjector(base, config) for base in bases]
    examples = [("xyz" * (1 + i % 3), "ab") for i in range(6)]

    def results(n: int, k: int) -> list[torch.Tensor]:
        """The loss of each base with n adapters, k examples each, and its gradient."""
        batch = prompt_batch(tokenizer, examples[: n * k])
        weights = {
            name: (torch.randn(n, 2, 4, i), torch.randn(n, 2, o, 4)) for name, (i, o) in config.module_shapes.items()
        }
        found = []
        for base, injector in zip(bases, injectors, strict=True):
            leaves = {
                name: (a.clone().requires_grad_(), b.clone().requires_grad_()) for name, (a, b) in weights.items()
            }
            with injector.inject(leaves):
                loss = answer_loss(base, batch)
                loss.backward()
            grads = [factor.grad.flatten() for pair in leaves.values() for factor in pair]
            found.append(torch.cat([loss.detach()[None], *grads]))
        return found

    for n, k in ((3, 2), (2, 2), (2, 3)):  # one graph for all sizes of batches
        plain, fast = results(n, k)
        assert (fast - plain).norm() < 1e-4 * plain.norm()
    assert compiled.frame_count == 2  # the first layer, whose input needs no gradient, and the others


def test_eight_bits_change_gradients_little_and_validation_not_at_all(
    make_config, load_base, tokenizer, tmp_path
) -> None:
    config, batch = make_config(("all-linear",)), prompt_batch(tokenizer, [("xyz", "ab"), ("zy", "abc")])
    weights = {
        name: (torch.randn(2, 2, 4, i), torch.randn(2, 2, o, 4)) for name, (i, o) in config.module_shapes.items()
    }
    gradients, exact = [], []
    for int8 in (False, True):
        base = prepare(load_base(), tmp_path, int8=int8)
        leaves = {name: (a.clone().requires_grad_(), b.clone().requires_grad_()) for name, (a, b) in weights.items()}
        with LoraInjector(base, config).inject(leaves):
            answer_loss(base, batch).backward()
            with torch.no_grad():
                exact.append(answer_loss(base, batch))
        gradients.append(torch.cat([factor.grad.flatten() for pair in leaves.values() for factor in pair]))
    assert torch.equal(*exact)
    assert not torch.equal(*gradients)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


def test_eight_bits_are_within_half_a_step_of_each_row_and_column() -> None:
    linear = nn.Linear(64, 48)
    x = (torch.randn(2, 5, 64) * torch.tensor([1e-3, 1, 10, 1e4, 0])[:, None]).requires_grad_()
    layer = Int8Linear(linear)
    out = layer(x)
    size = x.detach().norm(dim=-1) * linear.weight.norm() / 48**0.5
    assert ((out - linear(x)).abs().amax(-1) <= 0.05 * size + 1e-6).all()
    gradient = torch.randn_like(out)
    (got,) = torch.autograd.grad(out, x, gradient)
    expected = gradient @ linear.weight
    assert torch.cosine_similarity(got.flatten(), expected.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("option", ["compile", "int8"])
def test_a_base_whose_layers_are_not_linear_modules_is_refused(tmp_path, option: str) -> None:
    base = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(TrainingError, match=r"hold a Conv1D \(0.attn.c_attn\), and compile and int8 expect nn.Linear"):
        prepare(base, tmp_path, **{option: True})


def test_options_that_exclude_each_other_are_refused(load_base, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text2lora.training.engine._shard", lambda base, accelerator: None)
    with pytest.raises(TrainingError, match="shard_base does not work with compile or int8"):
        prepare(load_base(), tmp_path, compile=True, shard_base=True)


def test_tensorboard_gets_every_figure(make_model, base, tokenizer, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit = FitConfig(steps=4, log_every=2, eval_every=2)
    engine = EngineConfig(device="cpu", trackers=["tensorboard"], project="runs")
    config = SftConfig(tasks=2, conditions=["matched", "junk"], fit=fit, engine=engine)
    tasks = TaskSet([Task("a", ["say a"], [TaskExample("x", "a"), TaskExample("y", "a")])])
    probes = {"seen": [Probe("say a", [("x", "a")])]}
    train_sft(make_model(), base, tokenizer, tasks, config, tmp_path, probes, lambda line: None)
    found = events.EventAccumulator(str(tmp_path / "runs")).Reload()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    wanted = {(name, row["step"]): value for row in rows for name, value in row.items() if name != "step"}
    scalars = {(name, event.step): event.value for name in found.Tags()["scalars"] for event in found.Scalars(name)}
    assert scalars == pytest.approx(wanted)
    assert {name for name, _ in wanted} >= {"loss", "seen/exact_match", "seen (junk)/loss"}
    (shown,) = (tmp_path / "runs").glob("*/hparams.yml")
    settings = yaml.safe_load(shown.read_text())
    assert (settings["tasks"], settings["fit.log_every"], settings["conditions"]) == (2, 2, '["matched", "junk"]')
    (session,) = (tmp_path / "runs").glob("*/events*")
    about = events.EventAccumulator(str(session)).Reload().SummaryMetadata("_hparams_/session_start_info")
    assert b"fit.log_every" in about.plugin_data.content


def test_workers_leave_signals_to_the_training_and_hand_on_errors() -> None:
    def prepare(step: int) -> tuple[object, ...]:
        if step == 2:
            raise TaskError("a response has 9 tokens")
        return step, *(signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT))

    with closing(Ahead(prepare, 3, 1)) as ahead:
        assert [ahead[0], ahead[1]] == [(0, signal.SIG_IGN, signal.SIG_IGN), (1, signal.SIG_IGN, signal.SIG_IGN)]
        with pytest.raises(TaskError, match=r"^a response has 9 tokens$"):
            ahead[2]


class Failing:
    """Tasks that cannot be drawn."""

    descriptions = ("one",)

    def draw(self, rng: random.Random, examples: int) -> TaskDraw:
        raise TaskError("no tasks today")


def test_workers_end_with_the_training_whatever_holds_its_error(make_model, base, tokenizer, tmp_path: Path) -> None:
    config = SftConfig(tasks=1, engine=EngineConfig(device="cpu", workers=1))
    with pytest.raises(TaskError, match="no tasks today") as kept:
        train_sft(make_model(), base, tokenizer, Failing(), config, tmp_path, report=lambda line: None)
    assert kept.tb is not None  # whose frames refer to everything that the training had
    assert not multiprocessing.active_children()  # which Python would wait for at its exit


def test_batches_that_workers_prepare_are_the_same(make_config, load_base, tokenizer, tmp_path: Path) -> None:
    tasks = TaskSet([Task(name, [name], [TaskExample(f"{c}{name}", name) for c in "xyz"]) for name in ("a", "b", "c")])
    weights = []
    for workers in (0, 1):
        torch.manual_seed(0)
        model = Text2LoraModel(make_config(("all-linear",)))
        config = SftConfig(tasks=3, examples=2, buckets=2, engine=EngineConfig(device="cpu", workers=workers))
        config.fit.steps = 4
        train_sft(model, load_base(), tokenizer, tasks, config, tmp_path / str(workers), report=lambda line: None)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.hypernet.parameters()]))
    assert torch.equal(*weights)
