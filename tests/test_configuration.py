"""Text2LoraConfig, and what it finds out about base models from their config alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)
from transformers.pytorch_utils import Conv1D

from text2lora import CheckpointError, Text2LoraConfig

SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BASES = {
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "gemma": GemmaConfig(**SIZES, head_dim=16),
    "gemma2": Gemma2Config(**SIZES, head_dim=16),
}
GPT2 = GPT2Config(vocab_size=32, n_embd=32, n_layer=2, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=1)


@pytest.mark.parametrize("name", [*BASES, "gpt2"])
def test_shapes_and_paths_are_those_of_the_built_model(name: str) -> None:
    base_config = BASES.get(name, GPT2)
    config = Text2LoraConfig.from_base_config(base_config, ["all-linear"])
    model = AutoModelForCausalLM.from_config(base_config)
    assert config.num_layers == base_config.num_hidden_layers
    for module_name in config.target_modules:
        for layer in range(config.num_layers):
            module = model.get_submodule(config.module_paths[module_name].format(layer=layer))
            out_features, in_features = module.weight.T.shape if isinstance(module, Conv1D) else module.weight.shape
            assert config.module_shapes[module_name] == [in_features, out_features]


@pytest.mark.parametrize("name", BASES)
def test_query_and_value_projections_are_the_default(name: str) -> None:
    config = Text2LoraConfig.from_base_config(BASES[name])
    heads = 4 * getattr(BASES[name], "head_dim", 8)
    assert config.target_modules == ["q_proj", "v_proj"]
    assert config.module_shapes == {"q_proj": [32, heads], "v_proj": [32, heads // 2]}
    assert config.module_paths["v_proj"] == "model.layers.{layer}.self_attn.v_proj"


def test_all_linear_means_the_decoder_layers_in_the_models_order() -> None:
    expected = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert Text2LoraConfig.from_base_config(BASES["llama"], ["all-linear"]).target_modules == expected
    assert Text2LoraConfig.from_base_config(BASES["llama"], "all-linear").target_modules == expected


def test_given_order_is_kept_and_repetitions_are_not() -> None:
    config = Text2LoraConfig.from_base_config(BASES["llama"], ["v_proj", "q_proj", "v_proj"])
    assert config.target_modules == ["v_proj", "q_proj"]


def test_one_module_may_be_given_as_a_string() -> None:
    assert Text2LoraConfig.from_base_config(BASES["llama"], "q_proj").target_modules == ["q_proj"]


def test_modules_of_gpt2_are_found_though_they_are_not_linear_layers() -> None:
    config = Text2LoraConfig.from_base_config(GPT2, ["c_attn"])
    assert config.module_shapes == {"c_attn": [32, 96]}
    assert config.module_paths == {"c_attn": "transformer.h.{layer}.attn.c_attn"}


def test_a_name_that_stands_for_two_modules_of_a_layer_is_refused() -> None:
    # PEFT would match attn.c_proj and mlp.c_proj alike
    with pytest.raises(CheckpointError, match=r"\['c_proj'\].*expected some of c_attn, c_fc"):
        Text2LoraConfig.from_base_config(GPT2, ["c_proj"])


def test_a_config_that_no_model_can_have_is_told_from_an_encoder() -> None:
    for wrong in ({"attn_implementation": "nope"}, {"hidden_act": "nope"}):
        config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1, vocab_size=8, **wrong)
        with pytest.raises(CheckpointError, match=r"a llama model cannot be made from its config .*nope"):
            Text2LoraConfig.from_base_config(config)


@pytest.mark.parametrize("modules", [["q_prj"], [], ["lm_head"]])
def test_unknown_modules_are_named_with_what_there_is(modules: list[str]) -> None:
    with pytest.raises(CheckpointError, match=r"linear modules of every layer of a llama.*q_proj, k_proj"):
        Text2LoraConfig.from_base_config(BASES["llama"], modules)


def test_a_model_that_is_no_decoder_is_refused() -> None:
    with pytest.raises(CheckpointError, match="t5"):
        Text2LoraConfig.from_base_config(T5Config())


def test_no_weights_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []
    original = torch.nn.Linear.__init__

    def spy(self: torch.nn.Linear, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)
        made.append(self.weight.device)

    monkeypatch.setattr(torch.nn.Linear, "__init__", spy)
    Text2LoraConfig.from_base_config(BASES["llama"])
    assert made
    assert {device.type for device in made} == {"meta"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_sise": 64}, "'latent_sise' is not an attribute of a config: did you mean 'latent_size'"),
        ({"zzz": 64}, "'zzz' is not an attribute of a config: leave it out"),
        ({"num_layers": 2}, "'num_layers' is derived from the base model: leave it out"),
        ({"latent_size": 3}, "^latent_size is 3: expected a multiple of 4"),
        ({"lora_r": 0}, "^lora_r is 0: expected 1 or more"),
        ({"lora_alpha": 0.0}, "^lora_alpha is 0.0: expected a number above 0"),
        ({"lora_r": "8"}, "'lora_r' expected int"),
    ],
)
def test_settings_that_a_config_cannot_have_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Text2LoraConfig.from_base_config(BASES["llama"], **settings)


def test_whole_numbers_are_numbers_too() -> None:
    assert Text2LoraConfig.from_base_config(BASES["llama"], lora_alpha=16, lora_r=4).lora_scaling == 8.0


def test_scaling_is_pefts() -> None:
    plain = Text2LoraConfig(lora_r=4, lora_alpha=8.0, use_rslora=False)
    rank_stabilised = Text2LoraConfig(lora_r=4, lora_alpha=8.0, use_rslora=True)
    assert plain.lora_scaling == 2.0
    assert rank_stabilised.lora_scaling == 4.0


def test_config_survives_a_file_with_the_order_of_its_modules(tmp_path) -> None:
    config = Text2LoraConfig.from_base_config(BASES["llama"], ["v_proj", "down_proj", "k_proj"], lora_r=3)
    config.save_pretrained(tmp_path)
    again = Text2LoraConfig.from_pretrained(tmp_path)
    assert list(again.target_modules) == ["v_proj", "down_proj", "k_proj"]
    assert (again.module_shapes, again.module_paths, again.lora_r) == (config.module_shapes, config.module_paths, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latent_size": 18}, "latent_size is 18: expected a multiple of 4"),
        ({"task_encoder": "tokens"}, "does not go with encoder_pooling='mean'"),
        ({"encoder_pooling": "none"}, "does not go with encoder_pooling='none'"),
        ({"target_modules": ["q_proj"]}, "no shape or path for target module 'q_proj'"),
        ({"head": "huge"}, "head"),
        ({"lora_alpha": 0.0}, "^lora_alpha is 0.0: expected a number above 0"),
        ({"lora_r": "8"}, "'lora_r' expected int, got str"),
        ({"num_layers": 0}, "num_layers is 0: expected 1 or more"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan: expected a number"),
        ({"dropout": 1.0}, "dropout is 1.0: expected a share"),
        ({"encoder_layers": []}, r"layers are \[\]"),
        ({"encoder_instruction": "Read this."}, "expected a template with {description}"),
        (
            {"task_encoder": "tokens", "encoder_pooling": "none", "task_encoder_heads": 3},
            "a multiple of task_encoder_he",
        ),
    ],
)
def test_contradictory_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        Text2LoraConfig(**wrong)
    assert "\n" not in str(caught.value)


def test_an_attribute_that_is_set_is_checked_too() -> None:
    config = Text2LoraConfig()
    with pytest.raises(CheckpointError, match="'lora_r' expected int, got str"):
        config.lora_r = "8"
    assert config.lora_r == 8


def test_folders_of_a_config_are_absolute(base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`models/base` would be taken for a Hub id, by others and from another working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("models/base", "enc", "nano"):
        (tmp_path / name).mkdir(parents=True)
    names = {"base_model_name_or_path": "models/base", "encoder_name_or_path": "enc"}
    config = Text2LoraConfig.from_base_config(base.config, **names)
    assert config.base_model_name_or_path == str(tmp_path / "models" / "base")
    assert config.encoder_name_or_path == str(tmp_path / "enc")
    kept = {"base_model_name_or_path": "nano", "encoder_name_or_path": "me/encoder"}
    config = Text2LoraConfig.from_base_config(base.config, **kept)
    assert (config.base_model_name_or_path, config.encoder_name_or_path) == ("nano", "me/encoder")
    monkeypatch.setattr(base.config, "name_or_path", "models/base")
    assert Text2LoraConfig.from_base_config(base.config).base_model_name_or_path == str(tmp_path / "models" / "base")


def test_the_error_of_a_wrong_setting_is_not_its_own_cause() -> None:
    with pytest.raises(CheckpointError) as caught:
        Text2LoraConfig.from_base_config(BASES["llama"], lora_r=0)
    chain = [caught.value]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    assert cause is None
