"""LoraAdapter: on disk, and on a live model."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import LlamaConfig, LlamaForCausalLM

from text2lora import CheckpointError, LoraAdapter, LoraSpec, OutputError, Text2LoraModel
from text2lora.errors import InvalidArgumentError

SPEC = LoraSpec(r=2, lora_alpha=8.0, target_modules=("v_proj", "q_proj"), use_rslora=True)
OUT = {"q_proj": 32, "v_proj": 16}


def make_adapter(seed: int = 0, r: int = 2, layers: int = 2, d_in: int = 32, **spec: object) -> LoraAdapter:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(layers):
        for name, d_out in OUT.items():
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{key}.lora_A.weight"] = torch.randn(r, d_in, generator=generator) * 0.2
            weights[f"{key}.lora_B.weight"] = torch.randn(d_out, r, generator=generator) * 0.2
    return LoraAdapter(weights, replace(SPEC, r=r, **spec), {"description": "Do it.", "checkpoint": "here"})


@torch.no_grad()
def merged_logits(base, adapter: LoraAdapter, ids: torch.Tensor) -> torch.Tensor:
    """The plain reference: W + scaling * B A written into the base's own weights."""
    spec = adapter.spec
    scaling = spec.lora_alpha / (spec.r**0.5 if spec.use_rslora else spec.r)
    for key in adapter.weights:
        if key.endswith("lora_A.weight"):
            a, b = adapter.weights[key], adapter.weights[key.replace("lora_A", "lora_B")]
            path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            base.get_submodule(path).weight += scaling * b @ a
    return base(ids).logits


@torch.no_grad()
def logits(model, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits


@pytest.mark.parametrize("rslora", [True, False])
def test_applied_adapter_equals_merged_weights(load_base, ids, rslora: bool) -> None:
    adapter = make_adapter(use_rslora=rslora)
    made = logits(adapter.apply_to(load_base()), ids)
    expected = merged_logits(load_base(), adapter, ids)
    assert (expected - logits(load_base(), ids)).abs().max() > 0.1
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


def test_saved_adapter_loads_with_peft_bit_for_bit(load_base, ids, tmp_path: Path) -> None:
    adapter = make_adapter()
    folder = adapter.save_pretrained(tmp_path / "adapter")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    loaded = PeftModel.from_pretrained(load_base(), folder)
    assert torch.equal(logits(loaded, ids), logits(adapter.apply_to(load_base()), ids))


def test_saved_adapter_loads_again(tmp_path: Path) -> None:
    adapter = make_adapter()
    again = LoraAdapter.from_pretrained(adapter.save_pretrained(tmp_path / "adapter"))
    assert set(again.weights) == set(adapter.weights)
    assert all(torch.equal(again.weights[key], value) for key, value in adapter.weights.items())
    assert again.spec == replace(adapter.spec, target_modules=("q_proj", "v_proj"))
    assert again.num_bytes == adapter.num_bytes == 4 * 2 * 2 * (32 + 32 + 32 + 16)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, r=8, use_rslora=False),
        replace(SPEC, lora_alpha=16, base_model_name_or_path="me/base", revision="v1"),
    ],
)
def test_the_config_file_says_what_pefts_own_says_beyond_its_defaults(spec: LoraSpec) -> None:
    """PEFT itself is not imported to write it."""
    usual, own, written = LoraConfig().to_dict(), spec.to_peft().to_dict(), spec.to_json()
    own["target_modules"] = sorted(own["target_modules"])
    assert {name for name, value in own.items() if value != usual[name]} <= written.keys()
    assert {name: own[name] for name in written} == written


def test_adapter_that_peft_saved_loads(load_base, ids, tmp_path: Path) -> None:
    peft_model = get_peft_model(load_base(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    peft_model.save_pretrained(tmp_path, save_embedding_layers=False)
    made = LoraAdapter.from_pretrained(tmp_path).apply_to(load_base())
    assert torch.equal(logits(made, ids), logits(peft_model, ids))


def test_target_modules_that_are_a_pattern_are_read_from_the_weights(load_base, tmp_path: Path) -> None:
    peft_model = get_peft_model(load_base(), LoraConfig(r=2, target_modules=r".*\.(q|v)_proj"))
    peft_model.save_pretrained(tmp_path, save_embedding_layers=False)
    spec = LoraAdapter.from_pretrained(tmp_path).spec
    assert spec.module_names == ("q_proj", "v_proj")
    assert spec.target_modules == tuple(f"model.layers.{i}.self_attn.{name}_proj" for i in (0, 1) for name in "qv")


@pytest.mark.parametrize("option", [{"use_dora": True}, {"rank_pattern": {"q_proj": 3}}])
def test_what_is_more_than_a_plain_lora_is_refused(load_base, tmp_path: Path, option: dict[str, object]) -> None:
    peft_model = get_peft_model(load_base(), LoraConfig(r=2, target_modules=["q_proj"], **option))
    peft_model.save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(CheckpointError, match="not a plain LoRA"):
        LoraAdapter.from_pretrained(tmp_path)


def test_an_adapter_shows_what_it_is_in_a_line() -> None:
    adapter = replace(make_adapter(), metadata={"description": "Return the <city>, " + "and the name " * 20})
    shown = repr(adapter)
    assert shown.startswith("LoraAdapter(description='Return the <city>, and the name")
    assert "target_modules='q_proj, v_proj', r='2'" in shown
    assert len(shown) < 300
    assert "\n" not in shown
    table = adapter._repr_html_()
    assert "<th>r</th><td>2</td>" in table
    assert "Return the &lt;city&gt;" in table


def test_same_name_replaces_in_place(base, ids, load_base) -> None:
    first, second = make_adapter(1), make_adapter(2)
    model = first.apply_to(base)
    parameter = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj").lora_A["default"].weight
    again = second.apply_to(model)
    assert again is model
    assert again.get_submodule("base_model.model.model.layers.0.self_attn.q_proj").lora_A["default"].weight is parameter
    assert torch.equal(logits(again, ids), logits(second.apply_to(load_base()), ids))
    assert torch.equal(logits(first.apply_to(model), ids), logits(first.apply_to(load_base()), ids))  # not written into


def test_new_name_adds_and_becomes_active(base, ids, load_base) -> None:
    first, second = make_adapter(1), make_adapter(2)
    model = second.apply_to(first.apply_to(base), "second")
    assert set(model.peft_config) == {"default", "second"}
    assert model.active_adapters == ["second"]
    assert torch.equal(logits(model, ids), logits(second.apply_to(load_base()), ids))
    model.set_adapter("default", inference_mode=True)
    assert torch.equal(logits(model, ids), logits(first.apply_to(load_base()), ids))


@pytest.mark.parametrize("other", [{"r": 3}, {"lora_alpha": 2.0}, {"use_rslora": False}])
def test_other_layout_under_the_same_name_replaces(base, ids, load_base, other: dict[str, object]) -> None:
    second = make_adapter(2, **other)
    model = second.apply_to(make_adapter(1).apply_to(base))
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model, ids), logits(second.apply_to(load_base()), ids))


def lora_layers(model: torch.nn.Module) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def test_a_plain_base_given_again_is_found_in_its_wrapper(base, ids, load_base, recwarn) -> None:
    first, second = make_adapter(1), make_adapter(2)
    wrapper = first.apply_to(base)
    assert second.apply_to(base) is wrapper
    assert list(wrapper.peft_config) == ["default"]
    assert torch.equal(logits(wrapper, ids), logits(second.apply_to(load_base()), ids))
    assert first.apply_to(base, "first") is wrapper
    assert set(wrapper.peft_config) == {"default", "first"}
    assert len(lora_layers(base)) == 4
    assert not [w for w in recwarn if "second time" in str(w.message)]


def test_a_base_unloaded_in_between_is_wrapped_anew(base, ids, load_base) -> None:
    plain = make_adapter(1).apply_to(base).unload()
    assert torch.equal(logits(plain, ids), logits(load_base(), ids))
    made = make_adapter(2).apply_to(plain)
    assert torch.equal(logits(made, ids), logits(make_adapter(2).apply_to(load_base()), ids))


def test_the_wrapper_is_no_part_of_the_base(base, tmp_path: Path) -> None:
    make_adapter().apply_to(base)
    assert not [name for name, _ in base.named_modules() if "text2lora" in name]
    assert not [key for key in base.state_dict() if "text2lora" in key]


def test_nothing_is_trainable_and_the_model_is_in_eval_mode(base) -> None:
    model = make_adapter(2).apply_to(make_adapter(1).apply_to(base.train()), "second")
    assert not model.training
    loras = {name: p.requires_grad for name, p in model.named_parameters() if "lora_" in name}
    assert len(loras) == 16
    assert not any(loras.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapter_takes_the_dtype_of_the_base(load_base, dtype: torch.dtype) -> None:
    model = make_adapter(1).apply_to(load_base(dtype=dtype))
    model = make_adapter(3).apply_to(make_adapter(2).apply_to(model, "second"))
    assert {p.dtype for name, p in model.named_parameters() if "lora_" in name} == {dtype}


WRONG_BASES = {
    "wider": {"hidden_size": 64, "head_dim": 8},
    "more value heads": {"num_key_value_heads": 4},
    "more layers": {"num_hidden_layers": 3},
    "fewer layers": {"num_hidden_layers": 1},
}


@pytest.mark.parametrize("change", WRONG_BASES)
@pytest.mark.parametrize("wrapped", [False, True])
def test_wrong_base_is_one_clear_error_and_stays_as_it_was(llama_config, change: str, wrapped: bool) -> None:
    base = LlamaForCausalLM(LlamaConfig(**(llama_config.to_dict() | WRONG_BASES[change])))
    model = get_peft_model(base, LoraConfig(target_modules=["o_proj"])) if wrapped else base
    before = [name for name, _ in model.named_modules()]
    adapter = make_adapter(base_model_name_or_path="my/base")
    with pytest.raises(CheckpointError, match=r"for my/base: .*pass the base model that it was made for"):
        adapter.apply_to(model, "new")
    assert [name for name, _ in model.named_modules()] == before


def test_scale_multiplies_the_effect_on_the_weights(load_base, ids) -> None:
    adapter = make_adapter()
    double = LoraAdapter({k: v * 2 if "lora_B" in k else v for k, v in adapter.weights.items()}, adapter.spec)
    scaled = logits(adapter.scaled(2.0).apply_to(load_base()), ids)
    torch.testing.assert_close(scaled, logits(double.apply_to(load_base()), ids), rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(adapter.scaled(0.0).apply_to(load_base()), ids), logits(load_base(), ids))


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_scale_must_be_a_number_from_zero_upwards(scale: float) -> None:
    with pytest.raises(InvalidArgumentError, match="from 0 upwards"):
        make_adapter().scaled(scale)


def test_to_changes_the_dtype_of_the_copy_only() -> None:
    adapter = make_adapter()
    assert {v.dtype for v in adapter.to(torch.bfloat16).weights.values()} == {torch.bfloat16}
    assert {v.dtype for v in adapter.weights.values()} == {torch.float32}
    assert adapter.to(torch.bfloat16).num_bytes * 2 == adapter.num_bytes


# -- on disk ----------------------------------------------------------------------------------------------------------


def test_config_file_is_ordered_and_for_inference(tmp_path: Path) -> None:
    folder = make_adapter(base_model_name_or_path="my/base", revision="abc").save_pretrained(tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert list(config) == sorted(config)
    assert config["target_modules"] == ["q_proj", "v_proj"]
    expected = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 8.0, "use_rslora": True,
        "inference_mode": True, "base_model_name_or_path": "my/base", "revision": "abc",
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("text2lora.adapter.save_file", full)
    with pytest.raises(OutputError, match="No space left on device"):
        make_adapter().save_pretrained(tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_keeps_the_adapter_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_adapter(1).save_pretrained(tmp_path / "adapter")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("text2lora.adapter.save_file", full)
    with pytest.raises(OutputError):
        make_adapter(2).save_pretrained(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_saving_replaces_an_adapter_and_makes_parents(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "adapter"
    make_adapter(1, r=3).save_pretrained(folder)
    make_adapter(2).save_pretrained(folder)
    assert LoraAdapter.from_pretrained(folder).spec.r == 2
    assert list(folder.parent.iterdir()) == [folder]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert make_adapter().save_pretrained(tmp_path / "empty").is_dir()


@pytest.mark.parametrize("name", ["thesis.txt", "README.md"])
@pytest.mark.parametrize("beside_an_adapter", [False, True])
def test_files_of_the_user_are_never_replaced(tmp_path: Path, beside_an_adapter: bool, name: str) -> None:
    folder = tmp_path / "work"
    if beside_an_adapter:
        make_adapter().save_pretrained(folder)
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("years of work on text2lora")
    with pytest.raises(OutputError, match=f"contains {name}.*choose another folder"):
        make_adapter().save_pretrained(folder)
    assert (folder / name).read_text() == "years of work on text2lora"


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        make_adapter().save_pretrained(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written"):
        make_adapter().save_pretrained(tmp_path / "file" / "adapter")


def test_what_is_no_adapter_is_one_clear_error(tmp_path: Path, checkpoint_dir: Path) -> None:
    with pytest.raises(CheckpointError, match="is a checkpoint, not an adapter"):
        LoraAdapter.from_pretrained(checkpoint_dir)
    with pytest.raises(CheckpointError, match="does not exist"):
        LoraAdapter.from_pretrained(tmp_path / "nothing")
    folder = make_adapter().save_pretrained(tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "LOHA"}))
    with pytest.raises(CheckpointError, match="'LOHA'"):
        LoraAdapter.from_pretrained(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="does not contain a LoRA adapter that can be read"):
        LoraAdapter.from_pretrained(folder)


def test_generated_adapter_survives_disk_bit_for_bit(t2l: Text2LoraModel, load_base, ids, tmp_path: Path) -> None:
    adapter = t2l.generate_lora("upper case the city")
    folder = adapter.save_pretrained(tmp_path / "adapter")
    live = logits(adapter.apply_to(load_base()), ids)
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(), folder), ids), live)
    assert (live - logits(load_base(), ids)).abs().max() > 0.1


# -- strength, dtype, rsLoRA ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [2, 3, 8])
def test_folded_adapter_is_the_same_without_rslora(load_base, ids, tmp_path: Path, r: int) -> None:
    adapter = make_adapter(r=r)
    folder = adapter.save_pretrained(tmp_path / "adapter", fold_rslora=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert ("use_rslora" in config, config["lora_alpha"]) == (False, pytest.approx(8.0 * r**0.5))
    loaded = PeftModel.from_pretrained(load_base(), folder)
    assert torch.equal(logits(loaded, ids), logits(adapter.apply_to(load_base()), ids))
    assert adapter.folded().folded() == adapter.folded()
    assert adapter.spec.use_rslora


def test_one_over_root_r_is_the_strength_without_rslora() -> None:
    adapter = make_adapter(r=4)
    assert adapter.scaled(4**-0.5).spec.scaling == replace(adapter.spec, use_rslora=False).scaling


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_saved_in_a_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    adapter = make_adapter()
    again = LoraAdapter.from_pretrained(adapter.save_pretrained(tmp_path / "adapter", dtype=dtype))
    assert all(torch.equal(again.weights[key], value.to(dtype)) for key, value in adapter.weights.items())


def test_what_a_dtype_cannot_hold_is_refused(tmp_path: Path) -> None:
    adapter = make_adapter()
    with pytest.raises(InvalidArgumentError, match=r"dtype is torch.int8: expected one of torch's float32, bfloat16"):
        adapter.save_pretrained(tmp_path / "adapter", dtype=torch.int8)
    key = next(iter(adapter.weights))
    huge = replace(adapter, weights=dict(adapter.weights) | {key: adapter.weights[key] * 1e6})
    with pytest.raises(CheckpointError, match="too large for float16: choose bfloat16"):
        huge.save_pretrained(tmp_path / "adapter", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_save_killed_at_a_random_time_leaves_the_old_adapter_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = [make_adapter(seed) for seed in range(2)]
    key = next(iter(adapters[0].weights))
    folder = adapters[0].save_pretrained(tmp_path / "adapter")
    for seed in range(12):
        if not (pid := os.fork()):
            for turn in range(10_000):
                adapters[turn % 2].save_pretrained(folder)
        time.sleep(random.Random(seed).uniform(0.005, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        found = LoraAdapter.from_pretrained(folder)
        assert {p.name for p in folder.iterdir()} == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
        assert any(torch.equal(found.weights[key], adapter.weights[key]) for adapter in adapters)
    monkeypatch.setattr("text2lora.files._swept", None)  # as in a new process
    adapters[0].save_pretrained(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


# -- what other adapters of PEFT say ----------------------------------------------------------------------------------


def read_with(folder: Path, **changes: object) -> LoraAdapter:
    path = make_adapter().save_pretrained(folder / "adapter") / "adapter_config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return LoraAdapter.from_pretrained(folder / "adapter")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("init_lora_weights", value) for value in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga")),
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 3}),
        ("alpha_pattern", {"q_proj": 3}),
        ("modules_to_save", ["lm_head"]),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("layer_replication", [[0, 2]]),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("alora_invocation_tokens", [1, 2]),
        ("use_qalora", True),
        ("qalora_group_size", 8),
        ("ensure_weight_tying", True),
        ("arrow_config", {"top_k": 2}),
        ("a_field_of_the_next_peft", "twice"),
    ],
)
def test_a_config_that_says_more_than_plain_is_refused_by_name(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=rf"not a plain LoRA adapter \({field} is .*load it with peft.PeftModel"):
        read_with(tmp_path, **{field: value})


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_dropout": 0.3, "fan_in_fan_out": True, "task_type": "SEQ_CLS", "peft_version": "0.99.0"},
        {"auto_mapping": {"base_model_class": "LlamaForCausalLM"}, "inference_mode": False, "megatron_core": None},
        *({"init_lora_weights": value} for value in (True, False, None, "gaussian", "orthogonal", "eva")),
        {"loftq_config": {"loftq_bits": 4}, "eva_config": {"rho": 2.0}, "runtime_config": {"a": True}},
        {"rank_pattern": {}, "modules_to_save": [], "layer_replication": None, "use_dora": False},
        {"a_field_of_the_next_peft": None, "enable_lora": None, "merge_weights": False, "another": {}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_changes_nothing_of_a_lora_is_read(tmp_path: Path, fields: dict[str, object]) -> None:
    assert read_with(tmp_path, **fields).spec == replace(make_adapter().spec, target_modules=("q_proj", "v_proj"))


def test_an_adapter_that_changed_its_base_is_neither_read_nor_added_to(load_base, tmp_path: Path) -> None:
    """PiSSA takes the largest singular values out of the base: a plain LoRA of its A and B is off by them."""
    pissa = get_peft_model(load_base(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa"))
    pissa.save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(CheckpointError, match="init_lora_weights is 'pissa'"):
        LoraAdapter.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="'pissa', which changed the base model's weights: load the base"):
        make_adapter().apply_to(pissa, "other")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("r", "8", "r is '8': expected a whole number from 1 upwards"),
        *(("r", value, f"r is {value}") for value in (0, 2.0, True, None)),
        ("r", ..., "r is None"),
        ("lora_alpha", "16", "lora_alpha is '16': expected a number"),
        *(("lora_alpha", value, f"lora_alpha is {value}") for value in (None, True, float("nan"), float("inf"))),
        ("use_rslora", "yes", "use_rslora is 'yes': expected true or false"),
        ("target_modules", [1], r"target_modules is \[1\]: expected a list of names"),
        ("target_modules", {"q_proj": 1}, "target_modules is .*expected a list"),
        ("base_model_name_or_path", 3, "base_model_name_or_path is 3: expected a string"),
        ("revision", ["main"], "revision is"),
        ("peft_type", ..., "peft_type None"),
        ("peft_type", ["LORA"], "peft_type"),
    ],
)
def test_a_value_that_no_adapter_can_have_is_named(tmp_path: Path, field: str, value: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_with(tmp_path, **{field: value})
    assert str(tmp_path / "adapter") in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "[1]", '"LORA"', "null", "3"])
def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    folder = make_adapter().save_pretrained(tmp_path / "adapter")
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match="not a LoRA adapter of PEFT"):
        LoraAdapter.from_pretrained(folder)


@pytest.mark.parametrize("value", ["all-linear", "All-Linear", r".*\.(q|v)_proj"])
def test_modules_that_are_not_listed_are_those_of_the_weights(tmp_path: Path, value: object, load_base, ids) -> None:
    adapter = read_with(tmp_path, target_modules=value)
    assert adapter.spec.module_names == ("q_proj", "v_proj")
    assert torch.equal(logits(adapter.apply_to(load_base()), ids), logits(make_adapter().apply_to(load_base()), ids))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(({"target_modules": value}, "target_modules is") for value in (None, ..., [])),
        ({"target_modules": ["q_proj"]}, r"weights for model\.layers\.0\.self_attn\.v_proj, .* PEFT leaves it out"),
        ({"target_modules": r".*\.q_proj"}, r"v_proj, .* correct target_modules$"),
        ({"target_modules": ["q_proj", "layers.0.self_attn.v_proj"]}, r"layers\.1\.self_attn\.v_proj"),
        (
            {"layers_to_transform": [0]},
            r"layers\.1\.self_attn\.q_proj, .* correct target_modules, layers_to_transform$",
        ),
        ({"layers_to_transform": 1, "layers_pattern": "layers"}, r"layers\.0\.self_attn\.q_proj"),
        ({"exclude_modules": ["v_proj"]}, r"layers\.0\.self_attn\.v_proj, .* correct target_modules, exclude_modules$"),
        ({"target_modules": "all-linear", "exclude_modules": ["q_proj"]}, r"layers\.0\.self_attn\.q_proj"),
        ({"target_modules": "(q_proj"}, "cannot be used: "),
        ({"target_modules": "q_proj", "layers_to_transform": [0]}, "cannot be used: "),
    ],
)
def test_weights_that_peft_would_leave_out_are_refused(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_with(tmp_path, **fields)


def test_weights_that_the_spec_leaves_out_are_not_saved(tmp_path: Path) -> None:
    """Nobody could read them."""
    adapter = make_adapter()
    less = replace(adapter, spec=replace(adapter.spec, target_modules=("q_proj",)))
    with pytest.raises(
        CheckpointError, match=r"weights for model\.layers\.0\.self_attn\.v_proj, but its spec does not"
    ):
        less.save_pretrained(tmp_path / "less")
    assert not list(tmp_path.iterdir())


def test_an_adapter_without_weights_is_refused(base, tmp_path: Path) -> None:
    nothing = replace(make_adapter(), weights={})
    with pytest.raises(CheckpointError, match="damaged"):
        nothing.apply_to(base)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is empty"):
        LoraAdapter.from_pretrained(nothing.save_pretrained(tmp_path / "adapter"))


def test_weights_under_other_names_are_refused(tmp_path: Path) -> None:
    adapter = make_adapter()
    names = {key: key.removeprefix("base_model.model.") for key in adapter.weights}
    odd = replace(adapter, weights={names[key]: value for key, value in adapter.weights.items()})
    with pytest.raises(CheckpointError, match=r"it has a weight model\.layers"):
        LoraAdapter.from_pretrained(odd.save_pretrained(tmp_path / "adapter"))


def test_files_say_only_what_is_not_usual_so_that_earlier_pefts_read_them(tmp_path: Path) -> None:
    plain = make_adapter(use_rslora=False).save_pretrained(tmp_path / "plain")
    assert json.loads((plain / "adapter_config.json").read_text()) == {
        "base_model_name_or_path": None,
        "inference_mode": True,
        "lora_alpha": 8.0,
        "peft_type": "LORA",
        "r": 2,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    }
    more = make_adapter(base_model_name_or_path="my/base", revision="abc").save_pretrained(tmp_path / "more")
    found = json.loads((more / "adapter_config.json").read_text())
    assert (found["use_rslora"], found["revision"], len(found)) == (True, "abc", 9)


def test_adapters_are_equal_if_all_of_them_is(make_model) -> None:
    model = make_model()
    one, same = (model.generate_lora(task_emb=torch.ones(1, 24))[0] for _ in range(2))
    other = model.generate_lora(task_emb=torch.zeros(1, 24))[0]
    assert one == same
    assert one != other
    assert one != one.scaled(2)
    assert one != "adapter"


def test_an_adapter_is_equal_to_what_is_read_back_whatever_the_order_of_its_modules(tmp_path: Path) -> None:
    adapter = make_adapter(target_modules=("v_proj", "q_proj"))
    assert LoraAdapter.from_pretrained(adapter.save_pretrained(tmp_path / "one")) == adapter
    assert adapter.spec == replace(SPEC, target_modules=("q_proj", "v_proj"))


def test_the_card_says_how_an_adapter_was_scaled(make_model, tmp_path: Path) -> None:
    model = make_model()
    made = [model.generate_lora("the city", scale=scale) for scale in (1.0, 0.5)]
    assert made[0].scaled(0.5) == made[1]
    assert made[1].scaled(1.0) == made[1]
    folder = made[1].scaled(3).save_pretrained(tmp_path / "one")
    assert r"| scale | 0\.5 x 3 |" in (folder / "README.md").read_text()


def test_weights_can_be_changed_and_trained(make_model) -> None:
    model = make_model()
    made = [model.generate_lora("the city"), model.generate_lora(task_emb=torch.ones(1, 24))[0]]
    for adapter in [*made, model.interpolate(["the city", "the price"], [1, 1])]:
        weight = next(iter(adapter.weights.values()))
        weight.mul_(2)
        (weight.requires_grad_() ** 2).sum().backward()
        assert torch.equal(weight.grad, 2 * weight)


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    folder = make_adapter().save_pretrained(tmp_path / "one")
    with pytest.raises(TypeError, match="unexpected keyword argument 'adapter_name'"):
        LoraAdapter.from_pretrained(folder, adapter_name="legal")


def test_the_card_keeps_addresses_and_hides_paths(tmp_path: Path) -> None:
    noted = {"homepage": "https://me:secret@example.com/a/b", "place": "/home/me/runs/x", "file": "file:///home/me/y"}
    adapter = make_adapter()
    LoraAdapter(adapter.weights, adapter.spec, noted).save_pretrained(tmp_path / "a")
    found = LoraAdapter.from_pretrained(tmp_path / "a").metadata
    assert found == {"homepage": "https://example.com/a/b", "place": "x", "file": "y"}
