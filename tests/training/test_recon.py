"""Reconstruction: the error without delta W, the checks of a library, and a hypernetwork that learns one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from text2lora import LoraAdapter, Text2LoraModel
from text2lora.arithmetic import combine
from text2lora.cli import app
from text2lora.errors import Text2LoraError, TrainingError
from text2lora.recipes import run_recipe
from text2lora.training.recon import LibraryEntry, all_inner_products, inner_product, library_names, squared_error

DESCRIPTIONS = [
    "Return the city in capitals.",
    "Give the e-mail address.",
    "What is the year?",
    "Put the price in brackets.",
    "Quote the full name.",
    "Say the weekday.",
    "The reference number in parentheses.",
    "Turn the service into a hashtag.",
]
SMALL = {"latent_size": 32, "head_input_size": 64, "task_encoder": "pooled", "encoder_pooling": "mean", "dropout": 0.0}


def silent(line: str) -> None:
    pass


def random_weights(n: int, dtype: torch.dtype = torch.float64) -> dict:
    shapes = {"q": (7, 5), "v": (7, 3)}
    return {
        name: (torch.randn(n, 2, 2, i, dtype=dtype), torch.randn(n, 2, o, 2, dtype=dtype))
        for name, (i, o) in shapes.items()
    }


def delta(weights: dict) -> torch.Tensor:
    """All delta W as one long row each, the obvious way."""
    return torch.cat([(b @ a).flatten(1) for a, b in weights.values()], 1)


def norm(adapter: LoraAdapter) -> float:
    """The Frobenius norm of delta W over all modules."""
    weights = adapter.weights
    squares = [
        (adapter.spec.scaling * weights[key.replace("lora_A", "lora_B")] @ a).square().sum()
        for key, a in weights.items()
        if "lora_A" in key
    ]
    return float(sum(squares)) ** 0.5


@pytest.fixture(scope="module")
def adapters_of_nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As PEFT folders."""
    folder = tmp_path_factory.mktemp("adapters")
    for i, adapter in enumerate(Text2LoraModel.from_pretrained("nano").generate_lora(DESCRIPTIONS)):
        adapter.save_pretrained(folder / f"adapter-{i}")
    return folder


@pytest.fixture
def library(adapters_of_nano: Path, tmp_path: Path) -> Path:
    """A copy for each test to change."""
    return shutil.copytree(adapters_of_nano, tmp_path / "library")


@pytest.fixture
def tiny_library(make_model, tmp_path: Path) -> Path:
    """Adapters of the tiny base, quick to learn."""
    for i, adapter in enumerate(make_model().generate_lora(DESCRIPTIONS)):
        adapter.save_pretrained(tmp_path / "library" / f"adapter-{i}")
    return tmp_path / "library"


MINILM = {"encoder_name_or_path": "sentence-transformers/all-MiniLM-L6-v2", "task_emb_size": 384}


def write_recipe(library: Path, encoder: dict[str, object] = MINILM, **recon: object) -> Path:
    recipe = {"kind": "recon", "library": library.name, "model": SMALL | encoder, "recon": recon}
    path = library.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_the_error_equals_that_of_delta_w_with_its_gradient() -> None:
    made, wanted = random_weights(3), random_weights(3)
    for factors in made.values():
        for factor in factors:
            factor.requires_grad_()
    leaves = [factor for factors in made.values() for factor in factors]
    naive = (delta(made) - delta(wanted)).square().sum(1)
    expected = torch.autograd.grad(naive.sum(), leaves)
    leaves32 = {name: (a.detach().requires_grad_(), b.detach().requires_grad_()) for name, (a, b) in made.items()}
    ours = squared_error(leaves32, {name: (a.float(), b.float()) for name, (a, b) in wanted.items()})
    torch.testing.assert_close(ours.double(), naive.detach(), rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(ours.sum(), [factor for factors in leaves32.values() for factor in factors])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def test_the_error_is_exact_where_adapters_are_nearly_equal() -> None:
    wanted = random_weights(2, torch.float32)
    made = {name: (a + 1e-5 * torch.randn_like(a), b) for name, (a, b) in wanted.items()}
    exact = (delta({k: (a.double(), b.double()) for k, (a, b) in made.items()})
             - delta({k: (a.double(), b.double()) for k, (a, b) in wanted.items()})).square().sum(1)  # fmt: skip
    torch.testing.assert_close(squared_error(made, wanted).double(), exact, rtol=1e-2, atol=0)
    assert (squared_error(wanted, wanted) == 0).all()


def test_products_equal_those_of_delta_w() -> None:
    one, two = random_weights(4, torch.float32), random_weights(4, torch.float32)
    torch.testing.assert_close(inner_product(one, two), (delta(one) * delta(two)).sum(1), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(all_inner_products(one), delta(one) @ delta(one).T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("objective", ["delta", "factors"])
def test_a_library_is_learned(tiny_library: Path, encoder_dir: Path, tmp_path: Path, objective: str) -> None:
    fit = {"steps": 150, "lr": 0.01, "adamw_lr": 0.01, "log_every": 50}
    encoder = {"encoder_name_or_path": str(encoder_dir), "encoder_max_length": 64, "task_emb_size": 24}
    recipe = write_recipe(tiny_library, encoder, objective=objective, tasks=8, noise=0.0, fit=fit)
    done = CliRunner().invoke(app, ["train", str(recipe), "-o", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "runs" / "recipe"
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["seen/error"] < 0.5 * last["seen (mean)/error"]
    assert last["seen/error"] < 0.5 * last["seen (shuffled)/error"]
    assert last["seen/cosine"] > 0.9
    made = Text2LoraModel.from_pretrained(folder).generate_lora(DESCRIPTIONS[2])
    wanted = LoraAdapter.from_pretrained(tiny_library / "adapter-2")
    assert norm(combine([made, wanted], [1, -1])) < 0.5 * norm(wanted)
    assert made.metadata["checkpoint"]
    assert (folder / "training.png").is_file()


def test_adapters_named_alike_are_told_apart() -> None:
    paths = ["/library/a/cap", "/library/b/cap", "me/lower"]
    assert library_names([LibraryEntry(path) for path in paths]) == ["a/cap", "b/cap", "lower"]


@pytest.mark.usefixtures("no_picture")
def test_a_library_is_learned_by_the_names_of_its_adapters(tiny_library: Path, tmp_path: Path) -> None:
    fit = {"steps": 100, "lr": 0.01, "adamw_lr": 0.01}
    recipe = str(write_recipe(tiny_library, tasks=8, noise=0.0, fit=fit))
    with pytest.raises(TrainingError, match="unseen is 1: expected 0"):
        run_recipe(recipe, tmp_path, ["one_hot=true", "recon.unseen=1"], silent)
    folder = run_recipe(recipe, tmp_path, ["one_hot=true"], silent)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["seen/error"] < 0.5 * last["seen (mean)/error"]
    made = Text2LoraModel.from_pretrained(folder).generate_lora("adapter-2")
    wanted = LoraAdapter.from_pretrained(tiny_library / "adapter-2")
    assert norm(combine([made, wanted], [1, -1])) < 0.5 * norm(wanted)


@pytest.mark.usefixtures("no_picture")
def test_unseen_adapters_and_wordings_are_validated_apart(library: Path, tmp_path: Path) -> None:
    recipe = write_recipe(library, unseen=2, select="best", fit={"steps": 2, "eval_every": 1})
    data = yaml.safe_load(recipe.read_text())
    data["adapters"] = [{"path": "library/adapter-0", "held_out_descriptions": ["Name the town."]}]
    del data["library"]
    data["adapters"] += [{"path": f"library/adapter-{i}", "descriptions": ["x y", "z"]} for i in range(1, 8)]
    recipe.write_text(yaml.safe_dump(data))
    folder = run_recipe(str(recipe), tmp_path / "runs", ["recon.fit.seed=1"], silent)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"seen/error", "unseen_tasks/error", "unseen_tasks (shuffled)/cosine", "unseen_tasks (mean)/error"} < set(
        last
    )
    assert "unseen_descriptions/error" in last
    assert "score" not in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 2}, r"adapter-5 has r 2: expected 4, as .*adapter-0 has"),
        ({"lora_alpha": 9}, "adapter-5 has the strength .*: expected"),
        ({"base_model_name_or_path": "moon"}, "adapter-5 has base_model_name_or_path 'moon': expected 'nano'"),
        ({"peft_type": "IA3"}, "adapter-5 cannot be used: .*not a LoRA adapter"),
    ],
)
def test_an_adapter_that_does_not_fit_is_named(library: Path, tmp_path: Path, change: dict, message: str) -> None:
    path = library / "adapter-5" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(TrainingError, match=message):
        run_recipe(str(write_recipe(library)), tmp_path, [], silent)


def test_other_modules_and_shapes_are_refused(library: Path, tmp_path: Path) -> None:
    adapter = LoraAdapter.from_pretrained(library / "adapter-3")
    some = {key: value for key, value in adapter.weights.items() if "layers.1.self_attn.q_proj" not in key}
    LoraAdapter(some, adapter.spec, adapter.metadata).save_pretrained(tmp_path / "other")
    adapters = [{"path": str(library / "adapter-3")}, {"path": str(tmp_path / "other")}]
    recipe = write_recipe(library)
    data = yaml.safe_load(recipe.read_text()) | {"adapters": adapters, "library": ""}
    recipe.write_text(yaml.safe_dump(data))
    with pytest.raises(TrainingError, match=r"other has other modules or shapes: .*q_proj.*is missing"):
        run_recipe(str(recipe), tmp_path, [], silent)
    recipe.write_text(yaml.safe_dump(data | {"adapters": adapters[::-1]}))
    with pytest.raises(TrainingError, match=r"does not have one LoRA on each of its modules in each layer: .*q_proj"):
        run_recipe(str(recipe), tmp_path, [], silent)
    recipe.write_text(yaml.safe_dump(data | {"adapters": adapters[:1]}))
    with pytest.raises(TrainingError, match="the library has 1 adapters: expected at least two"):
        run_recipe(str(recipe), tmp_path, [], silent)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["recon.objective=both"], "expected 'delta' or 'factors'"),
        (["recon.select=first"], "expected 'last' or 'best'"),
        (["recon.unseen=7"], "unseen is 7: expected at most 6 of 8 adapters"),
        (["library=nowhere"], "nowhere holds no adapters"),
        (["model.offset=false"], "`offset: true`"),
        (["base=moon/moon"], "the base model 'moon/moon' cannot be loaded"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(library: Path, tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(Text2LoraError, match=message):
        run_recipe(str(write_recipe(library)), tmp_path, settings, silent)


def test_an_adapter_without_a_description_is_refused(library: Path, tmp_path: Path) -> None:
    adapter = LoraAdapter.from_pretrained(library / "adapter-1")
    LoraAdapter(adapter.weights, adapter.spec).save_pretrained(library / "adapter-1")
    with pytest.raises(TrainingError, match="adapter-1 has no description"):
        run_recipe(str(write_recipe(library)), tmp_path, [], silent)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lora_alpha=99", r"recipe\.model\.lora_alpha is 99: the adapters of the library have"),
        ("lora_r=3", r"recipe\.model\.lora_r is 3: the adapters of the library have"),
        ("use_rslora=false", r"recipe\.model\.use_rslora is False: the adapters of the library have True"),
        ("target_modules=[q_proj]", r"recipe\.model\.target_modules is \['q_proj'\]: the adapters of the library"),
    ],
)
def test_what_the_library_decides_is_no_setting(tiny_library: Path, tmp_path: Path, setting: str, message: str) -> None:
    """Another strength than the library's was taken, and the adapters were as many times too strong."""
    recipe = write_recipe(tiny_library)
    with pytest.raises(TrainingError, match=message):
        run_recipe(str(recipe), tmp_path / "runs", [f"model.{setting}"], lambda line: None)
