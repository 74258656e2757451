"""Target modules of all kinds of models: found before training, and right from a training step to the merged model."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from text2lora import CheckpointError, LoraAdapter, Text2LoraConfig
from text2lora.adapter import to_adapters
from text2lora.injection import LoraInjector
from text2lora.targets import find_target_modules

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


def config_of(model_type: str, **settings: Any) -> PreTrainedConfig:
    return AutoConfig.for_model(model_type, **SIZES | settings)


def gemma3() -> PreTrainedConfig:
    """A model that also sees, whose two towers have modules of the same names and as many layers."""
    text = SIZES | {"head_dim": 8, "sliding_window": 16}
    vision = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": 8, "patch_size": 4}
    return AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)


MAMBA = {"state_size": 8, "time_step_rank": 4}
SHARED = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
DOTS = {"moe_intermediate_size": 16, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 0}
DOTS |= {"n_group": 1, "topk_group": 1, "head_dim": 8}
LLAMA4 = {"head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 4, "attention_chunk_size": 32}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
KINDS: dict[str, tuple[PreTrainedConfig, list[str]]] = {
    "llama": (config_of("llama"), [*ATTENTION, *MLP]),
    "olmo2": (config_of("olmo2"), [*ATTENTION, *MLP]),
    "phi": (config_of("phi"), ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"]),
    "gpt2": (AutoConfig.for_model("gpt2", **SIZES | GPT2), ["c_attn", "c_fc"]),
    "mamba": (config_of("mamba", **MAMBA), ["in_proj", "x_proj"]),
    "mixtral": (config_of("mixtral", **EXPERTS), ATTENTION),
    "qwen2_moe": (config_of("qwen2_moe", **EXPERTS | SHARED), [*ATTENTION, *MLP, "shared_expert_gate"]),
    "dots1": (config_of("dots1", **EXPERTS | DOTS), ATTENTION),
    "llama4_text": (config_of("llama4_text", **LLAMA4), [*ATTENTION, *MLP]),
    "phimoe": (config_of("phimoe", **EXPERTS), ATTENTION),
    "gemma3": (gemma3(), [*ATTENTION, *MLP]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_linear_trains_saves_loads_and_merges(kind: str, tmp_path: Path) -> None:
    base_config, expected = KINDS[kind]
    config = Text2LoraConfig.from_base_config(base_config, "all-linear", lora_r=2, lora_alpha=4.0)
    assert config.target_modules == expected
    base = AutoModelForCausalLM.from_config(base_config).float().eval().requires_grad_(False)
    for parameter in base.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.1)
    weights = {
        name: tuple(torch.randn(1, 2, *shape).mul(0.2).requires_grad_() for shape in ((2, size[0]), (size[1], 2)))
        for name, size in config.module_shapes.items()
    }
    ids = torch.arange(4, 14).view(2, 5)
    injector = LoraInjector(base, config)
    with injector.inject(weights):
        base(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        for factor in (factor for factors in weights.values() for factor in factors):
            assert factor.grad is not None
            assert factor.grad.abs().sum() > 0
            factor.sub_(factor.grad.sign(), alpha=0.01)
        with injector.inject(weights):
            trained = base(input_ids=ids).logits
        right = torch.testing.assert_close
        assert (trained - base(input_ids=ids).logits).abs().max() > 0.01
        adapter = to_adapters(config, weights, [{}])[0]
        folder = adapter.save_pretrained(tmp_path / "adapter")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*adapter.*")  # of weights that are missing, or of names not found
            plain = PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()
        right(plain(input_ids=ids).logits, trained, rtol=1e-4, atol=1e-4)
        right(plain.merge_and_unload()(input_ids=ids).logits, trained, rtol=1e-4, atol=1e-4)
        again = LoraAdapter.from_pretrained(folder)
        assert {*again.weights} == {*adapter.weights}
        right(again.apply_to(base)(input_ids=ids).logits, trained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        ("mamba", ["in_proj", "out_proj"], r"module 'out_proj' of a mamba .*\(.*incompatible.*\): .* in_proj, x_proj"),
        ("mamba", ["dt_proj"], r"module 'dt_proj' of a mamba model cannot carry a LoRA \(the model reads its weight"),
        ("dots1", ["gate_proj"], r"module 'gate_proj' of a dots1 model cannot .*without also .* v_proj, o_proj"),
        ("dots1", MLP, r"module 'gate_proj' of a dots1 model cannot carry a LoRA"),
        (
            "llama4_text",
            ["router"],
            r"module 'router' of a llama4_text model cannot carry .*expected some of q_",
        ),
        ("mixtral", ["w1"], r"target modules \['w1'\] are not linear modules of every layer of a mixtral model"),
    ],
)
def test_a_module_that_cannot_carry_a_lora_is_refused_before_training(
    kind: str, names: list[str], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        Text2LoraConfig.from_base_config(KINDS[kind][0], names)
    assert "\n" not in str(caught.value)


def test_a_model_without_such_modules_is_refused_in_a_whole_sentence() -> None:
    mixed = AutoConfig.for_model("nemotron_h", hybrid_override_pattern="M*-M", num_hidden_layers=4)
    for modules in ("all-linear", ["q_proj"]):
        with pytest.raises(CheckpointError, match="a nemotron_h model has no linear module that is in all"):
            Text2LoraConfig.from_base_config(mixed, modules)


def test_modules_of_a_model_that_also_sees_are_its_language_models() -> None:
    config = Text2LoraConfig.from_base_config(KINDS["gemma3"][0])
    assert config.target_modules == ["q_proj", "v_proj"]
    assert config.module_paths["q_proj"] == "model.language_model.layers.{layer}.self_attn.q_proj"
    assert config.module_shapes["q_proj"] == [32, 32]
    assert config.whole_paths
    assert not Text2LoraConfig.from_base_config(KINDS["gemma3"][0], "gate_proj").whole_paths  # of one tower alone
    again = Text2LoraConfig(**config.to_diff_dict() | {"dtype": None})
    assert again.whole_paths


@pytest.mark.parametrize("fault", [AttributeError, ImportError, TypeError, AssertionError])
def test_whatever_keeps_a_model_from_being_made_is_one_line(fault: type[Exception], monkeypatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise fault("it needs\nmore")

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", fail)
    with pytest.raises(CheckpointError, match=r"a llama model cannot be made from its config \(it needs\)$"):
        find_target_modules(config_of("llama"))
