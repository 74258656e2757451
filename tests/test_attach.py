"""Adapters on a live model: replaced in place, several at once, on unusual bases."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from test_adapter import logits, lora_layers, make_adapter
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaForCausalLM,
)

from text2lora import CheckpointError, LoraAdapter
from text2lora.errors import InvalidArgumentError
from text2lora.inference import generate_answers

Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"


def parameters(model: PeftModel, name: str) -> list[nn.Parameter]:
    layers = [layer for layer in lora_layers(model) if name in layer.lora_A]
    return [p for layer in layers for p in (layer.lora_A[name].weight, layer.lora_B[name].weight)]


@pytest.fixture
def live(base) -> PeftModel:
    return make_adapter(1).apply_to(base)


@pytest.mark.parametrize("change", [{"lora_alpha": 2.5}, {"use_rslora": False}, {"lora_alpha": 0.0}])
def test_another_scale_is_replaced_in_place(live, load_base, ids, change: dict[str, object]) -> None:
    before = parameters(live, "default")
    adapter = make_adapter(2, **change)
    adapter.apply_to(live)
    assert all(one is two for one, two in zip(before, parameters(live, "default"), strict=True))
    assert torch.equal(logits(live, ids), logits(adapter.apply_to(load_base()), ids))
    for layer in lora_layers(live):
        layer.set_scale("default", 1.0)  # PEFT's own idea of the strength agrees
    assert torch.equal(logits(live, ids), logits(adapter.apply_to(load_base()), ids))


def test_what_peft_saves_after_a_replacement_is_the_new_adapter(live, load_base, ids, tmp_path) -> None:
    adapter = make_adapter(2, lora_alpha=3.0, use_rslora=False, base_model_name_or_path="my/base", revision="abc")
    adapter.apply_to(live).save_pretrained(tmp_path, save_embedding_layers=False)
    assert LoraAdapter.from_pretrained(tmp_path).spec.revision == "abc"
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(), tmp_path), ids), logits(live, ids))


def test_names_within_names_are_kept_apart(live, load_base, ids) -> None:
    adapters = {name: make_adapter(seed) for seed, name in enumerate(["default", "default_b", "b", "q_proj"])}
    for name, adapter in adapters.items():
        adapter.apply_to(live, name)
    adapters["default"] = make_adapter(5, lora_alpha=2.0)
    adapters["default"].apply_to(live)
    for name, adapter in adapters.items():
        live.set_adapter(name, inference_mode=True)
        assert torch.equal(logits(live, ids), logits(adapter.apply_to(load_base()), ids)), name


def test_a_batch_may_mix_adapters(live, load_base, ids) -> None:
    second = make_adapter(2).apply_to(live, "second")
    mixed = second(ids, adapter_names=["default", "second"]).logits
    apart = [make_adapter(1).apply_to(load_base()), make_adapter(2).apply_to(load_base())]
    for row, model in enumerate(apart):
        torch.testing.assert_close(mixed[row], logits(model, ids)[row], rtol=1e-4, atol=1e-5)


def delete(model: PeftModel) -> PeftModel:
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"]))
    model.delete_adapter("default")
    return model


def readd(model: PeftModel) -> PeftModel:
    model = delete(model)
    model.add_adapter("default", LoraConfig(r=2, target_modules=["q_proj", "v_proj"], use_rslora=True))
    return model


def readd_with_more_targets(model: PeftModel) -> PeftModel:
    model = delete(model)
    targets = ["q_proj", "v_proj", "o_proj"]
    model.add_adapter("default", LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    return model


def readd_with_dora(model: PeftModel) -> PeftModel:
    model = delete(model)
    model.add_adapter("default", LoraConfig(r=2, target_modules=["q_proj", "v_proj"], use_dora=True))
    return model


def train(model: PeftModel) -> PeftModel:
    model.set_adapter("default")
    return model.train()


def add_another(model: PeftModel) -> PeftModel:
    return make_adapter(9).apply_to(model, "other")


def activate_two(model: PeftModel) -> PeftModel:
    add_another(model).base_model.set_adapter(["default", "other"])
    return model


def rescale(model: PeftModel) -> PeftModel:
    lora_layers(model)[0].set_scale("default", 7.0)
    return model


CHANGES = [delete, readd, readd_with_more_targets, readd_with_dora, train, add_another, activate_two, rescale,
           copy.deepcopy, lambda model: model.double().float()]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_was_remembered_is_checked(live, load_base, ids, change) -> None:
    model = change(live)
    made = make_adapter(2).apply_to(model)
    assert made is model
    assert torch.equal(logits(made, ids), logits(make_adapter(2).apply_to(load_base()), ids))
    assert not made.training
    assert not any(p.requires_grad for p in parameters(made, "default"))


def test_copies_of_a_model_do_not_share_an_adapter(live, ids) -> None:
    before = logits(live, ids)
    make_adapter(2).apply_to(copy.deepcopy(live))
    assert torch.equal(logits(live, ids), before)


@pytest.mark.filterwarnings("ignore:Adapter cannot be set")
@pytest.mark.parametrize("r", [2, 3])
def test_a_merged_adapter_is_taken_out_before_it_is_replaced(live, load_base, ids, r: int) -> None:
    live.merge_adapter()
    made = make_adapter(2, r=r).apply_to(live)
    expected = logits(make_adapter(2, r=r).apply_to(load_base()), ids)
    torch.testing.assert_close(logits(made, ids), expected, rtol=1e-4, atol=1e-4)


def test_parameters_made_in_inference_mode_can_be_replaced_outside(base, load_base, ids) -> None:
    with torch.inference_mode():
        model = make_adapter(1).apply_to(base)
    assert torch.equal(logits(make_adapter(2).apply_to(model), ids), logits(make_adapter(2).apply_to(load_base()), ids))


def test_bases_wrapped_by_others_are_refused(load_base) -> None:
    by_peft = get_peft_model(load_base(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(CheckpointError, match="pass the PeftModel around it"):
        make_adapter().apply_to(by_peft.get_base_model())
    unloaded = make_adapter().apply_to(load_base())
    plain = unloaded.unload()
    with pytest.raises(CheckpointError, match="was unloaded"):
        make_adapter().apply_to(unloaded)
    again = get_peft_model(plain, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(CheckpointError, match="pass the PeftModel around it"):
        make_adapter().apply_to(plain)
    assert len(lora_layers(again)) == 2
    other = get_peft_model(load_base(), IA3Config(target_modules=["k_proj"], feedforward_modules=[]))
    with pytest.raises(CheckpointError, match=r"holds .*IA3, not LoRA"):
        make_adapter().apply_to(other)


NAMES = ["", "a.b", "lora", "l", "lora_", "my_lora_A", "__base__", "keys", "pop", "forward", "training", None, 3]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_peft_or_torch_trip_over_are_refused(base, name: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"cannot be the name of an adapter: .*choose a word"):
        make_adapter().apply_to(base, name)
    assert lora_layers(base) == []


class PackedLinear(nn.Linear):
    """A quantised module: two 4-bit weights a byte, in one row, and features that only its attributes tell."""

    def __init__(self, dense: nn.Linear):
        super().__init__(dense.in_features, dense.out_features, bias=False)
        self.step = dense.weight.abs().max().item() / 7
        whole = (dense.weight.detach() / self.step).round().to(torch.int8).flatten() & 15
        self.weight = nn.Parameter((whole[::2] | (whole[1::2] << 4)).view(torch.uint8)[:, None], requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = torch.stack([self.weight & 15, self.weight >> 4], 1).flatten().to(torch.int8)
        dense = torch.where(whole > 7, whole - 16, whole).view(self.out_features, self.in_features)
        return nn.functional.linear(x, dense.to(x.dtype) * self.step)


def pack(model: LlamaForCausalLM) -> LlamaForCausalLM:
    for layer in model.model.layers:
        for name in ("q_proj", "v_proj"):
            setattr(layer.self_attn, name, PackedLinear(getattr(layer.self_attn, name)))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantised_base_gets_its_adapter_in_the_dtype_it_computes_in(load_base, ids, dtype: torch.dtype) -> None:
    plain = logits(pack(load_base(dtype=dtype)), ids)
    model = make_adapter(1).apply_to(pack(load_base(dtype=dtype)))
    assert {p.dtype for p in parameters(model, "default")} == {dtype}
    make_adapter(2).apply_to(model)
    dense = load_base(dtype=dtype)
    for layer in dense.model.layers:
        for name in ("q_proj", "v_proj"):
            module = getattr(layer.self_attn, name)
            module.weight.data = PackedLinear(module)(torch.eye(module.in_features, dtype=dtype)).T
    torch.testing.assert_close(logits(model, ids), logits(make_adapter(2).apply_to(dense), ids), rtol=0.05, atol=0.05)
    assert (logits(model, ids) - plain).abs().max() > 0.1


def test_a_replacement_writes_into_what_is_there_and_searches_nothing(live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying is quick; what takes time in a large model is to walk its modules."""
    before = parameters(live, "default")
    storage = [p.data_ptr() for p in before]

    def walk(self: nn.Module, *args: object, **kwargs: object) -> None:
        raise AssertionError("the model's modules were walked")

    two = make_adapter(2)
    with monkeypatch.context() as patch:
        for name in ("named_modules", "named_parameters", "state_dict", "apply", "train"):
            patch.setattr(nn.Module, name, walk)
        assert two.apply_to(live) is live
    after = parameters(live, "default")
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert [p.data_ptr() for p in after] == storage
    assert torch.equal(live.get_parameter(f"{Q_PROJ}.lora_A.default.weight"), two.weights[f"{Q_PROJ}.lora_A.weight"])


def test_threads_add_adapters_to_one_base(base, load_base, ids) -> None:
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda i: make_adapter(i).apply_to(base, f"task{i}"), range(8)))
    assert len(set(map(id, models))) == 1
    for i in range(8):
        models[0].set_adapter(f"task{i}", inference_mode=True)
        assert torch.equal(logits(models[0], ids), logits(make_adapter(i).apply_to(load_base()), ids))


@pytest.mark.parametrize("damage", ["missing", "rank"])
def test_a_damaged_adapter_is_refused(base, damage: str) -> None:
    adapter = make_adapter()
    weights = dict(adapter.weights)
    value = weights.pop(f"{Q_PROJ}.lora_B.weight")
    if damage == "rank":
        weights[f"{Q_PROJ}.lora_B.weight"] = value[:, :1]
    with pytest.raises(CheckpointError, match="does not have A and B of rank 2"):
        replace(adapter, weights=weights).apply_to(base)
    assert lora_layers(base) == []


# -- adapters for parts of a model, and models that are partly elsewhere ----------------------------------------------


def peft_adapter(base, tmp_path, **config: object) -> tuple[LoraAdapter, PeftModel]:
    """What PEFT itself makes and saves, with weights that show."""
    made = get_peft_model(base, LoraConfig(**({"r": 2, "init_lora_weights": False} | config))).eval()
    made.save_pretrained(tmp_path / "peft", save_embedding_layers=False)
    return LoraAdapter.from_pretrained(tmp_path / "peft"), made


PARTS = {
    "layers": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "excluded": {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.0\..*"},
    "pattern": {"target_modules": r".*layers\.1\..*q_proj"},
    "paths": {"target_modules": ["layers.1.self_attn.q_proj", "layers.0.mlp.up_proj"]},
}


@pytest.mark.parametrize("part", PARTS)
def test_adapters_for_some_layers_are_as_in_peft(load_base, ids, tmp_path, part: str) -> None:
    adapter, peft = peft_adapter(load_base(), tmp_path, **PARTS[part])
    model = adapter.apply_to(load_base())
    assert torch.equal(logits(model, ids), logits(peft, ids))
    assert len(lora_layers(model)) == len(lora_layers(peft))
    both = adapter.apply_to(make_adapter(1).apply_to(load_base()), "part")
    assert torch.equal(logits(both, ids), logits(peft, ids))
    folder = adapter.save_pretrained(tmp_path / "ours")
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(), folder), ids), logits(peft, ids))
    assert torch.equal(logits(LoraAdapter.from_pretrained(folder).apply_to(load_base()), ids), logits(peft, ids))


def test_an_adapter_of_a_shallower_base_is_refused(base) -> None:
    with pytest.raises(
        CheckpointError, match=r"for my/base: it has no weights for model\.layers\.1\.\S*q_proj and 1 other"
    ):
        make_adapter(layers=1, base_model_name_or_path="my/base").apply_to(base)


def test_advice_is_another_where_the_base_is_the_adapters_own(base) -> None:
    with pytest.raises(CheckpointError, match=r"the base model that it names: .*; try peft\.PeftModel"):
        make_adapter(d_in=31, base_model_name_or_path=base.name_or_path).apply_to(base)


@pytest.fixture(scope="module")
def sees() -> Gemma3Config:
    """A model that also sees: its vision tower has modules of the same names as its decoder."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    text = sizes | {"vocab_size": 261, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
    vision = sizes | {"image_size": 28, "patch_size": 14}
    return Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)


def build(config: Gemma3Config) -> Gemma3ForConditionalGeneration:
    torch.manual_seed(3)
    return Gemma3ForConditionalGeneration(config).eval()


LANGUAGE = r".*language_model\..*\.(q|v)_proj"


def test_an_adapter_for_the_language_tower_leaves_the_other_alone(sees, ids, tmp_path) -> None:
    adapter, peft = peft_adapter(build(sees), tmp_path, target_modules=LANGUAGE)
    names = adapter.spec.module_names
    for spec in (adapter.spec, replace(adapter.spec, target_modules=names)):  # by its paths, and by names alone
        model = replace(adapter, spec=spec).apply_to(build(sees))
        assert torch.equal(logits(model, ids), logits(peft, ids))
        assert len(lora_layers(model)) == 4


def test_modules_are_found_under_their_earlier_names(sees, ids, tmp_path) -> None:
    adapter, peft = peft_adapter(build(sees), tmp_path, target_modules=LANGUAGE)
    names = {key: key.replace("model.model.language_model.", "model.language_model.model.") for key in adapter.weights}
    old = {names[key]: value for key, value in adapter.weights.items()}
    assert old.keys() != adapter.weights.keys()
    earlier = replace(adapter, weights=old, spec=replace(adapter.spec, target_modules=adapter.spec.module_names))
    model = earlier.apply_to(build(sees))
    assert torch.equal(logits(model, ids), logits(peft, ids))
    assert torch.equal(logits(earlier.apply_to(model), ids), logits(peft, ids))  # and again, in its place


@pytest.mark.parametrize("gone", ["model.layers.1", "model.layers.0", "model.embed_tokens"])
def test_a_base_that_is_partly_on_a_disk_answers_under_its_adapter(
    base_dir, load_base, ids, tmp_path, gone: str
) -> None:
    places = dict.fromkeys(["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"], "cpu")
    places |= {"model.rotary_emb": "cpu", gone: "disk"}
    base = AutoModelForCausalLM.from_pretrained(base_dir, device_map=places, offload_folder=tmp_path / "offload").eval()
    adapters = make_adapter(1), make_adapter(2, r=3)
    model = base
    for adapter in (*adapters, adapters[0]):
        model = adapter.apply_to(model)
        assert torch.equal(logits(model, ids), logits(adapter.apply_to(load_base()), ids))
    with model.disable_adapter():
        assert torch.equal(logits(model, ids), logits(load_base(), ids))
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    expected = generate_answers(adapters[0].apply_to(load_base()), tokenizer, ["x", "yy"], 4)
    assert generate_answers(model, tokenizer, ["x", "yy"], 4) == expected
