"""Text2LoraModel: from a description to an adapter."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from text2lora import (
    CheckpointError,
    InvalidDescriptionError,
    LoraAdapter,
    Text2LoraConfig,
    Text2LoraModel,
    TextEncoder,
)
from text2lora.companions import Companions
from text2lora.confidence import Calibration
from text2lora.errors import InvalidArgumentError, OutputError
from text2lora.novelty import measure_descriptions
from text2lora.training.state import save_checkpoint

TEXTS = ["upper case the city", "the city. then the case, twice", "a"]


def same_weights(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    left, right = one.state_dict(), two.state_dict()
    return list(left) == list(right) and all(torch.equal(left[key], right[key]) for key in left)


def close(one: LoraAdapter, two: LoraAdapter) -> None:
    assert list(one.weights) == list(two.weights)
    for key, value in one.weights.items():
        torch.testing.assert_close(value, two.weights[key], rtol=1e-4, atol=1e-5)


# -- loading and saving -----------------------------------------------------------------------------------------------


def test_auto_classes_know_the_checkpoint(checkpoint_dir: Path, t2l: Text2LoraModel) -> None:
    assert isinstance(AutoConfig.from_pretrained(checkpoint_dir), Text2LoraConfig)
    model = AutoModel.from_pretrained(checkpoint_dir)
    assert isinstance(model, Text2LoraModel)
    assert same_weights(model, t2l)


@pytest.mark.parametrize("head", ["large", "medium", "small"])
@pytest.mark.parametrize("task_encoder", ["pooled", "tokens"])
def test_saved_weights_load_bit_for_bit(make_model, tmp_path: Path, head: str, task_encoder: str) -> None:
    pooling = "none" if task_encoder == "tokens" else "mean"
    model = make_model(head=head, task_encoder=task_encoder, encoder_pooling=pooling)
    model.save_pretrained(tmp_path)
    loaded = Text2LoraModel.from_pretrained(tmp_path)
    assert same_weights(loaded, model)
    assert not loaded.training
    assert list(loaded.config.target_modules) == ["v_proj", "q_proj"]


def test_adapters_and_texts_of_the_user_are_never_replaced(make_model, t2l: Text2LoraModel, tmp_path: Path) -> None:
    t2l.generate_lora(TEXTS[0]).save_pretrained(tmp_path / "adapter")
    with pytest.raises(OutputError, match="is an adapter: choose another folder"):
        make_model().save_pretrained(tmp_path / "adapter")
    (tmp_path / "README.md").write_text("# Notes on text2lora")
    with pytest.raises(OutputError, match=r"has a README\.md that text2lora did not write"):
        make_model().save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.*")] == ["README.md"]
    (tmp_path / "README.md").unlink()
    for _ in range(2):
        make_model().save_pretrained(tmp_path)


def test_sharded_checkpoints_and_subfolders_load(make_model, tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path / "inner", max_shard_size="10KB")
    assert len(list((tmp_path / "inner").glob("*.safetensors"))) > 1
    assert same_weights(Text2LoraModel.from_pretrained(tmp_path, subfolder="inner"), model)


def test_encoder_and_base_are_no_part_of_the_checkpoint(t2l: Text2LoraModel, tmp_path: Path) -> None:
    t2l.generate_adapter(TEXTS[0])  # loads both
    t2l.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(dict(t2l.named_parameters()))
    assert all(name.startswith("hypernet.") for name, _ in t2l.named_parameters())


def test_bfloat16_hypernetwork_makes_bfloat16_adapters(checkpoint_dir: Path, t2l: Text2LoraModel) -> None:
    half = Text2LoraModel.from_pretrained(checkpoint_dir, dtype=torch.bfloat16)
    adapter, exact = half.generate_lora(TEXTS[0]), t2l.generate_lora(TEXTS[0])
    assert {value.dtype for value in adapter.weights.values()} == {torch.bfloat16}
    for key, value in exact.weights.items():
        assert (adapter.weights[key].float() - value).norm() < 0.1 * value.norm()


@pytest.fixture
def broken(checkpoint_dir: Path, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A copy of the checkpoint, and its tensors to change."""
    folder = tmp_path / "broken"
    shutil.copytree(checkpoint_dir, folder)
    return folder, load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_match_are_an_error(broken: tuple[Path, dict[str, torch.Tensor]], kind: str) -> None:
    folder, weights = broken
    key = "hypernet.heads.q_proj.weight"
    if kind == "missing":
        del weights[key]
    elif kind == "unexpected":
        weights["hypernet.heads.k_proj.weight"] = torch.zeros(2)
    else:
        weights[key] = weights[key][:-1].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="broken") as caught:
        Text2LoraModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_config_that_contradicts_itself_is_an_error(broken: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, _ = broken
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"latent_size": 18}))
    with pytest.raises(CheckpointError, match="latent_size is 18: expected a multiple of 4"):
        Text2LoraModel.from_pretrained(folder)


def test_a_wrong_description_of_several_is_named(t2l) -> None:
    for make in (t2l.generate_lora, t2l.novelty, t2l.encoder.encode):
        with pytest.raises(InvalidDescriptionError, match=r"^description 2 of 2: a description must be a string"):
            make(["x", 3])


@pytest.mark.parametrize("name", ["nobody/has-this", "no/such/folder", "./nothing", "/nothing/here"])
def test_unknown_checkpoint_is_one_line(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist|is not in the cache|neither an existing") as caught:
        Text2LoraModel.from_pretrained(name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_base_model_is_no_checkpoint(base_dir: Path, capfd: pytest.CaptureFixture[str], caplog) -> None:
    with pytest.raises(CheckpointError, match=r"is a llama model, not a text2lora checkpoint: expected 'nano'"):
        Text2LoraModel.from_pretrained(base_dir)
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")  # no report of missing weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "abacus"}, "device_map is 'abacus', which cannot be used here"),
        ({"device_map": {"": "cuda:99"}}, "device_map is 'cuda:99', which cannot be used here"),
        ({"dtype": "float31"}, "dtype is 'float31': expected 'auto' or a dtype such as 'bfloat16'"),
        ({"torch_dtype": 3}, "torch_dtype is 3: expected 'auto'"),
        ({"dtype": "int8"}, "dtype is 'int8': expected 'auto'"),
        ({"torch_dtyp": "x"}, "there is no option 'torch_dtyp': did you mean 'torch_dtype'?"),
        ({"quux": "x"}, "there is no option 'quux': see from_pretrained of transformers"),
    ],
)
def test_an_option_that_cannot_be_used_is_not_blamed_on_a_model(options, message: str, checkpoint_dir, t2l) -> None:
    for load in (
        lambda: Text2LoraModel.from_pretrained(checkpoint_dir, **options),
        lambda: t2l.load_base_model(**options),
        lambda: TextEncoder.from_config(t2l.config, **options),
    ):
        with pytest.raises(InvalidArgumentError, match=re.escape(message)):
            load()


def test_an_adapter_is_no_checkpoint(t2l: Text2LoraModel, tmp_path: Path) -> None:
    t2l.generate_lora(TEXTS[0]).save_pretrained(tmp_path / "a")
    with pytest.raises(CheckpointError, match="is an adapter, not a checkpoint"):
        Text2LoraModel.from_pretrained(tmp_path / "a")


def test_no_subfolder_is_none_or_empty(checkpoint_dir: Path, t2l: Text2LoraModel) -> None:
    for subfolder in (None, "", "."):
        assert same_weights(Text2LoraModel.from_pretrained(checkpoint_dir, subfolder=subfolder), t2l)


def test_from_pretrained_gives_its_class(checkpoint_dir: Path) -> None:
    class Mine(Text2LoraModel):
        pass

    model, info = Mine.from_pretrained(checkpoint_dir, output_loading_info=True)
    assert type(model) is Mine
    assert not info["missing_keys"]


def test_type_checkers_see_the_class() -> None:
    assert Text2LoraModel.from_pretrained.__func__.__annotations__["return"] == "Self"


@pytest.mark.parametrize("save", [Text2LoraModel.save_pretrained, lambda model, path: save_checkpoint(path, model)])
def test_nothing_of_an_earlier_checkpoint_stays_beside_new_weights(make_model, tmp_path: Path, save) -> None:
    old = make_model()
    old.calibration = Calibration(total=0.5, mean=0.25, least=0.125, bias=1.0)
    old.description_statistics = measure_descriptions(old.encoder, ["the city", "upper case"], ["city", "upper"])
    save(old, tmp_path)
    (tmp_path / "notes.txt").touch()
    assert {"confidence.json", "novelty.safetensors"} < {path.name for path in tmp_path.iterdir()}
    save(make_model(), tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "notes.txt"]
    loaded = Text2LoraModel.from_pretrained(tmp_path)
    assert (loaded.calibration, loaded.description_statistics) == (None, None)


# -- adapters ---------------------------------------------------------------------------------------------------------


def test_one_description_gives_one_adapter(t2l: Text2LoraModel, checkpoint_dir: Path, base_dir: Path) -> None:
    adapter = t2l.generate_lora("  upper case the city\n")
    assert isinstance(adapter, LoraAdapter)
    assert adapter.metadata["description"] == "upper case the city"
    assert adapter.metadata["checkpoint"] == checkpoint_dir.name
    assert adapter.spec.base_model_name_or_path == str(base_dir)
    assert (adapter.spec.r, adapter.spec.lora_alpha, adapter.spec.use_rslora) == (4, 8.0, True)
    shapes = {key: tuple(value.shape) for key, value in adapter.weights.items() if "layers.1" in key}
    prefix = "base_model.model.model.layers.1.self_attn."
    assert shapes == {
        prefix + "v_proj.lora_A.weight": (4, 32),
        prefix + "v_proj.lora_B.weight": (16, 4),
        prefix + "q_proj.lora_A.weight": (4, 32),
        prefix + "q_proj.lora_B.weight": (32, 4),
    }


def test_a_list_gives_the_adapters_of_its_descriptions(t2l: Text2LoraModel) -> None:
    adapters = t2l.generate_lora(TEXTS)
    assert [adapter.metadata["description"] for adapter in adapters] == TEXTS
    for adapter, text in zip(adapters, TEXTS, strict=True):
        close(adapter, t2l.generate_lora(text))
    key = next(iter(adapters[0].weights))
    assert not torch.allclose(adapters[0].weights[key], adapters[1].weights[key], atol=1e-3)
    assert t2l.generate_lora([]) == []
    assert isinstance(t2l.generate_lora(TEXTS[:1]), list)


def test_task_embeddings_stand_in_for_the_encoder(t2l: Text2LoraModel) -> None:
    expected = t2l.generate_lora(TEXTS)
    task_emb = t2l.encoder.encode(TEXTS)
    for adapter, same in zip(t2l.generate_lora(task_emb=task_emb), expected, strict=True):
        close(adapter, same)
        assert "description" not in adapter.metadata
    named = t2l.generate_lora(TEXTS, task_emb=task_emb)
    assert [adapter.metadata["description"] for adapter in named] == TEXTS
    (one,) = t2l.generate_lora(TEXTS[0], task_emb=task_emb[:1])
    assert one.metadata["description"] == TEXTS[0]


@pytest.mark.parametrize("shape", [(2, 23), (3, 24), (2, 5, 24), (24,)])
def test_task_embeddings_of_another_shape_are_refused(t2l: Text2LoraModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"task embeddings of shape .*expected"):
        t2l.generate_lora(TEXTS[:2], task_emb=torch.zeros(shape))


@pytest.mark.parametrize("wrong", ["", "  ", None, 3, ["fine", ""], [None], "a\x00"])
def test_bad_descriptions_are_refused(t2l: Text2LoraModel, wrong: object) -> None:
    with pytest.raises(InvalidDescriptionError):
        t2l.generate_lora(wrong)


def test_a_description_in_place_of_a_task_embedding_is_sent_to_generate_lora(t2l: Text2LoraModel) -> None:
    with pytest.raises(InvalidArgumentError, match="a description is for generate_lora or generate_adapter"):
        t2l("city")


def test_embeddings_and_weights_that_are_no_numbers_are_refused(make_model) -> None:
    with pytest.raises(CheckpointError, match="wrote NaN or infinite weights"):
        make_model().generate_lora(task_emb=torch.full((1, 24), float("nan")))
    model = make_model()
    model.hypernet.heads["q_proj"].weight.data[0] = float("inf")
    with pytest.raises(CheckpointError, match="wrote NaN or infinite weights"):
        model.generate_lora("a")


def test_adapters_are_made_without_loading_a_base(t2l: Text2LoraModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Companions, "load_base", lambda *_: pytest.fail("a base was loaded"))
    t2l.generate_lora(TEXTS)


def test_encoder_is_loaded_when_first_used_and_once(t2l: Text2LoraModel, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []
    original = TextEncoder.from_config
    monkeypatch.setattr(TextEncoder, "from_config", lambda *a, **k: loads.append(a) or original(*a, **k))
    t2l.generate_lora(task_emb=torch.zeros(1, 24))
    assert loads == []
    t2l.generate_lora("a")
    t2l.generate_lora("b")
    assert len(loads) == 1


def test_an_encoder_of_another_size_is_named(checkpoint_dir: Path) -> None:
    t2l = Text2LoraModel.from_pretrained(checkpoint_dir, encoder="sentence-transformers/all-MiniLM-L6-v2")
    told = r"'sentence-transformers/all-MiniLM-L6-v2' gives 384 features, but task_emb_size is 24: use the encoder that"
    with pytest.raises(CheckpointError, match=told):
        t2l.generate_lora("the city")


def test_encoder_can_be_replaced(checkpoint_dir: Path, encoder_dir: Path, encoder: TextEncoder, tmp_path: Path) -> None:
    shutil.copytree(encoder_dir, tmp_path / "moved")
    by_path = Text2LoraModel.from_pretrained(checkpoint_dir, encoder=str(tmp_path / "moved"))
    by_object = Text2LoraModel.from_pretrained(checkpoint_dir, encoder=encoder)
    assert by_object.encoder is encoder
    assert by_path.encoder.model.name_or_path == str(tmp_path / "moved")
    close(by_path.generate_lora("a"), by_object.generate_lora("a"))


def test_metadata_name_the_encoder_that_was_used(
    checkpoint_dir: Path, encoder_dir: Path, encoder: TextEncoder, tmp_path: Path
) -> None:
    shutil.copytree(encoder_dir, tmp_path / "moved")
    assert Text2LoraModel.from_pretrained(checkpoint_dir).generate_lora("a").metadata["encoder"] == encoder_dir.name
    t2l = Text2LoraModel.from_pretrained(checkpoint_dir, encoder=str(tmp_path / "moved"))
    assert t2l.generate_lora("a").metadata["encoder"] == "moved"
    assert t2l.interpolate(["a", "b"], [1, 1]).metadata["encoder"] == "moved"
    t2l.encoder = encoder
    assert t2l.generate_lora("a").metadata["encoder"] == encoder_dir.name


def test_token_states_can_be_read(make_model) -> None:
    model = make_model(task_encoder="tokens", encoder_pooling="none")
    for adapter, text in zip(model.generate_lora(TEXTS), TEXTS, strict=True):
        close(adapter, model.generate_lora(text))


@torch.no_grad()
def test_generated_adapter_acts_on_the_base_given(t2l: Text2LoraModel, load_base, base, ids) -> None:
    model = t2l.generate_adapter(TEXTS[0], base)
    assert isinstance(model, PeftModel)
    expected = t2l.generate_lora(TEXTS[0]).apply_to(load_base())
    assert torch.equal(model(ids).logits, expected(ids).logits)
    assert torch.equal(base(ids).logits, load_base()(ids).logits)
    assert not torch.allclose(model(ids).logits, base(ids).logits, atol=0.1)


@torch.no_grad()
def test_a_base_given_by_name_is_loaded(t2l: Text2LoraModel, base_dir: Path, load_base, ids) -> None:
    expected = t2l.generate_adapter(TEXTS[0], load_base())(ids).logits
    for name in (base_dir, str(base_dir)):
        assert torch.equal(t2l.generate_adapter(TEXTS[0], base_model=name)(ids).logits, expected)
    with pytest.raises(CheckpointError, match="the base model 'nobody/nothing' cannot be loaded"):
        t2l.generate_adapter(TEXTS[0], base_model="nobody/nothing")


@torch.no_grad()
def test_base_of_the_checkpoint_is_loaded_once_and_kept(t2l: Text2LoraModel, monkeypatch, load_base, ids) -> None:
    loads: list[object] = []
    original = Companions.load_base
    monkeypatch.setattr(Companions, "load_base", lambda *a, **k: loads.append(a) or original(*a, **k))
    first = t2l.generate_adapter(TEXTS[0])
    assert t2l.generate_adapter(TEXTS[1], first, adapter_name="second") is first
    assert set(first.peft_config) == {"default", "second"}
    expected = t2l.generate_lora(TEXTS[1]).apply_to(load_base())(ids).logits
    assert torch.equal(first(ids).logits, expected)
    assert torch.equal(t2l.generate_adapter(TEXTS[1])(ids).logits, expected)
    assert len(loads) == 1


@torch.no_grad()
def test_scale_is_the_strength_of_the_adapter(t2l: Text2LoraModel, load_base, ids) -> None:
    none = t2l.generate_adapter(TEXTS[0], load_base(), scale=0.0)
    assert torch.equal(none(ids).logits, load_base()(ids).logits)
    adapter = t2l.generate_lora(TEXTS[0], scale=0.5)
    assert adapter.spec.lora_alpha == 4.0
    assert adapter.metadata["scale"] == "0.5"
    with pytest.raises(InvalidArgumentError, match="scale is -1"):
        t2l.generate_lora(TEXTS[0], scale=-1)


def test_base_that_cannot_be_loaded_is_one_clear_error(make_model, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing does not exist: pass a folder or a Hub id") as caught:
        make_model(base_model_name_or_path=str(tmp_path / "nothing")).generate_adapter("a")
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no base model is named: pass a base model"):
        make_model(base_model_name_or_path=None).generate_adapter("a")


def test_base_model_kwargs_reach_the_base_only(checkpoint_dir: Path) -> None:
    t2l = Text2LoraModel.from_pretrained(checkpoint_dir, base_model_kwargs={"dtype": torch.bfloat16})
    assert t2l.dtype == torch.float32
    model = t2l.generate_adapter("a")
    assert model.dtype == torch.bfloat16
    assert {p.dtype for name, p in model.named_parameters() if "lora_" in name} == {torch.bfloat16}


def test_generation_is_repeatable(t2l: Text2LoraModel) -> None:
    one, two = t2l.generate_lora(TEXTS[0]), t2l.generate_lora(TEXTS[0])
    assert all(torch.equal(value, two.weights[key]) for key, value in one.weights.items())


def test_forward_is_differentiable_in_the_task_embedding(t2l: Text2LoraModel) -> None:
    task_emb = torch.randn(2, 24, requires_grad=True)
    sum(b.square().sum() for _, b in t2l(task_emb).values()).backward()
    assert task_emb.grad.abs().sum() > 0


# -- between descriptions ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["pooled", "tokens"])
def either(request: pytest.FixtureRequest, make_model) -> Text2LoraModel:
    pooling = "none" if request.param == "tokens" else "mean"
    return make_model(task_encoder=request.param, encoder_pooling=pooling)


def test_all_the_weight_on_one_description_gives_its_adapter(either: Text2LoraModel) -> None:
    close(either.interpolate(TEXTS, [0, 3, 0]), either.generate_lora(TEXTS[1]))
    close(either.interpolate(TEXTS[:1], [1]), either.generate_lora(TEXTS[0]))
    close(either.interpolate([TEXTS[0]] * 2, [0.7, 0.3]), either.generate_lora(TEXTS[0]))


def test_only_the_ratio_of_the_weights_counts(either: Text2LoraModel) -> None:
    one, two = either.interpolate(TEXTS[:2], [7, 3], scale=0.5), either.interpolate(TEXTS[:2], [0.7, 0.3])
    close(one, two)
    assert one.spec.lora_alpha * 2 == two.spec.lora_alpha
    key = next(iter(one.weights))
    for text in TEXTS[:2]:
        assert not torch.allclose(one.weights[key], either.generate_lora(text).weights[key], atol=1e-3)
    assert one.metadata["description"] == f'0.7 x "{TEXTS[0]}" + 0.3 x "{TEXTS[1]}"'
    assert one.metadata["scale"] == "0.5"


@pytest.mark.parametrize("normalize", [True, False])
def test_between_pooled_embeddings_lies_their_mean(make_model, normalize: bool) -> None:
    model = make_model(encoder_normalize=normalize)
    emb = model.encoder.encode(TEXTS[:2])
    mean = 0.25 * emb[0] + 0.75 * emb[1]
    if normalize:
        mean = mean / mean.norm() * 24**0.5
    close(model.interpolate(TEXTS[:2], [0.25, 0.75]), model.generate_lora(task_emb=mean[None])[0])


@pytest.mark.parametrize(
    "weights", [[1.0], [0, 0], [1, -1], [1, float("nan")], [1, float("inf")], [], [1, "x"], [None, 1]]
)
def test_weights_that_are_no_shares_are_refused(t2l: Text2LoraModel, weights: list[float]) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a number from 0 upwards for each of the 2 descriptions"):
        t2l.interpolate(TEXTS[:2], weights)


def test_one_string_is_no_list_of_descriptions(t2l: Text2LoraModel) -> None:
    with pytest.raises(InvalidDescriptionError, match="expected a list of descriptions, got str"):
        t2l.interpolate("ab", [0.5, 0.5])


# -- batches and threads ----------------------------------------------------------------------------------------------


def test_batches_larger_than_a_pass_equal_single_ones(make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(head="small")
    monkeypatch.setattr(Text2LoraModel, "tasks_per_pass", 2)
    task_emb = torch.randn(5, 24)
    made = model.generate_lora([f"task {i}" for i in range(5)], task_emb=task_emb)
    assert [adapter.metadata["description"] for adapter in made] == [f"task {i}" for i in range(5)]
    for i, adapter in enumerate(made):
        close(adapter, model.generate_lora(task_emb=task_emb[i : i + 1])[0])


@pytest.mark.parametrize("head", ["large", "medium", "small"])
def test_tensors_of_a_batch_share_no_memory(make_model, head: str) -> None:
    made = make_model(head=head).generate_lora(TEXTS)
    tensors = [value for adapter in made for value in adapter.weights.values()]
    assert len({value.untyped_storage().data_ptr() for value in tensors}) == len(tensors)
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in tensors)


def test_eight_threads_get_what_one_gets(checkpoint_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"the city {'upper case ' * i}{i}" for i in range(24)]  # of many lengths, some too long for the encoder
    alone = Text2LoraModel.from_pretrained(checkpoint_dir)
    expected = [alone.generate_lora(text) for text in texts]
    loads: list[object] = []
    original = TextEncoder.from_config
    monkeypatch.setattr(TextEncoder, "from_config", lambda *a, **k: loads.append(a) or original(*a, **k))
    shared = Text2LoraModel.from_pretrained(checkpoint_dir)  # its encoder is not loaded yet
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(shared.generate_lora, texts * 3))
    assert len(loads) == 1
    for one, two in zip(made, expected * 3, strict=True):
        assert all(torch.equal(value, two.weights[key]) for key, value in one.weights.items())


def test_threads_load_the_base_once(t2l: Text2LoraModel) -> None:
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda i: t2l.generate_adapter("a", adapter_name=f"task{i}"), range(8)))
    assert [list(model.peft_config) for model in models] == [[f"task{i}"] for i in range(8)]
    assert len({model.get_base_model().lm_head.weight.data_ptr() for model in models}) == 1


def test_a_model_in_use_can_be_copied(t2l: Text2LoraModel) -> None:
    t2l.generate_adapter(TEXTS[0])
    close(copy.deepcopy(t2l).generate_lora(TEXTS[0]), t2l.generate_lora(TEXTS[0]))


def test_copies_of_a_model_share_what_is_loaded_and_nothing_else(checkpoint_dir: Path) -> None:
    t2l = Text2LoraModel.from_pretrained(checkpoint_dir)
    answer = t2l.function(TEXTS[0], max_new_tokens=4)("x")
    copied, pickled = copy.deepcopy(t2l), pickle.loads(pickle.dumps(t2l))
    assert copied.encoder is t2l.encoder
    for other in (copied, pickled):
        other.calibration = Calibration(1.0, 0.0, 0.0, 0.0)
        assert other.function(TEXTS[0], max_new_tokens=4)("x") == answer
    assert t2l.calibration is None
    with torch.no_grad():
        next(copied.parameters()).zero_()
    assert copied.generate_lora(TEXTS[0]) != t2l.generate_lora(TEXTS[0])


def test_a_model_in_use_can_be_sent_to_another_process() -> None:
    t2l = Text2LoraModel.from_pretrained("nano")
    adapter = t2l.generate_lora("the city")  # whose encoder has got hooks that cannot be pickled
    close(pickle.loads(pickle.dumps(t2l)).generate_lora("the city"), adapter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_reads_embeddings_of_any_dtype(checkpoint_dir: Path, dtype: torch.dtype) -> None:
    t2l = Text2LoraModel.from_pretrained(checkpoint_dir, dtype=dtype)
    for task_emb in (t2l.encoder.encode(TEXTS), t2l.encoder.encode(TEXTS).bfloat16()):
        assert {factor.dtype for factors in t2l(task_emb).values() for factor in factors} == {dtype}


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o007, 0o660)])
def test_checkpoints_are_as_readable_as_any_new_file(make_model, tmp_path: Path, mask: int, mode: int) -> None:
    """safetensors writes files that only their owner can read: a server under another user could not load them."""
    before = os.umask(mask)
    try:
        make_model().save_pretrained(tmp_path / "new")
        save_checkpoint(tmp_path, make_model())  # as training does
    finally:
        os.umask(before)
    files = [*(tmp_path / "new").iterdir(), *(path for path in tmp_path.iterdir() if path.is_file())]
    assert "model.safetensors" in {path.name for path in files}
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: oct(mode) for path in files}


def test_statistics_that_cannot_be_read_leave_no_half_of_a_checkpoint(make_model, tmp_path: Path, monkeypatch) -> None:
    def fail(self) -> None:
        raise CheckpointError("the Hub cannot be reached")

    t2l = make_model()
    monkeypatch.setattr(Text2LoraModel, "description_statistics", property(fail))
    with pytest.raises(CheckpointError, match="cannot be reached"):
        t2l.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_saving_passes_its_options_on_to_the_push(make_model, tmp_path: Path, monkeypatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(Text2LoraModel, "push_to_hub", lambda self, **options: given.update(options))
    make_model().save_pretrained(tmp_path / "mine", push_to_hub=True, max_shard_size="1MB", token="x", private=True)
    assert given == {"repo_id": "mine", "max_shard_size": "1MB", "token": "x", "private": True, "eval_results": None}


def test_autocast_changes_no_adapter(make_model) -> None:
    """Adapters are the same bytes wherever they are made."""
    t2l = make_model()
    plain, mixed = t2l.generate_lora("the city"), t2l.interpolate(["the city", "lower case"], [1, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = t2l.generate_lora("the city")
        mixed_cast = t2l.interpolate(["the city", "lower case"], [1, 2])
    for one, two in ((plain, cast), (mixed, mixed_cast)):
        assert all(torch.equal(value, two.weights[key]) for key, value in one.weights.items())
