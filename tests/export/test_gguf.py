from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, Gemma3Config, LlamaConfig

from text2lora import CheckpointError, LoraAdapter, LoraSpec, MissingExtraError, OutputError
from text2lora.errors import InvalidArgumentError
from text2lora.export import export_gguf, write_modelfile
from text2lora.export.gguf import permute_heads
from text2lora.installation import install_command
from text2lora.targets import empty_model

gguf = pytest.importorskip("gguf")

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "vocab_size": 32,
    "pad_token_id": 0,
}


def adapter_for(config: Any, *modules: str, r: int = 2, **spec: Any) -> LoraAdapter:
    """Random, on all modules of these names."""
    weights = {}
    for path, module in empty_model(config).named_modules():
        if path.rpartition(".")[2] in modules and "vision" not in path:
            features_out, features_in = module.weight.shape
            weights[f"base_model.model.{path}.lora_A.weight"] = torch.randn(r, features_in)
            weights[f"base_model.model.{path}.lora_B.weight"] = torch.randn(features_out, r)
    return LoraAdapter(weights, LoraSpec(r, 4.0, modules, **spec), {"description": "Answer\nin  rhymes."})


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    reader = gguf.GGUFReader(path)
    values = {name: field.contents() for name, field in reader.fields.items()}
    return values, {tensor.name: tensor.data for tensor in reader.tensors}


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("gemma2", "gemma2"), ("gemma3_text", "gemma3"), ("qwen2", "qwen2"), ("qwen3", "qwen3")],
)
def test_weights_have_llama_cpps_names_and_stay_as_they_are(kind: str, architecture: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(kind, **SIZES)
    adapter = adapter_for(config, "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    values, tensors = read(export_gguf(adapter, tmp_path / "a.gguf", base=config))
    assert values["general.architecture"] == architecture
    places = "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"
    assert set(tensors) == {
        f"blk.{layer}.{place}.weight.lora_{factor}" for layer in (0, 1) for place in places for factor in "ab"
    }
    for place, path in (("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"), ("ffn_down", "mlp.down_proj")):
        for factor in "AB":
            want = adapter.weights[f"base_model.model.model.layers.1.{path}.lora_{factor}.weight"]
            np.testing.assert_array_equal(tensors[f"blk.1.{place}.weight.lora_{factor.lower()}"], want.numpy())


def test_llama_has_the_rows_of_queries_and_keys_in_its_order(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES)
    adapter = adapter_for(config, "q_proj", "k_proj", "v_proj")
    _, tensors = read(export_gguf(adapter, tmp_path / "a.gguf", base=config))
    for place, name, heads in (("attn_q", "q_proj", 4), ("attn_k", "k_proj", 2), ("attn_v", "v_proj", None)):
        key = f"base_model.model.model.layers.0.self_attn.{name}"
        a, b = adapter.weights[f"{key}.lora_A.weight"], adapter.weights[f"{key}.lora_B.weight"]
        want = permute_heads(b @ a, heads) if heads else b @ a
        found = tensors[f"blk.0.{place}.weight.lora_b"] @ tensors[f"blk.0.{place}.weight.lora_a"]
        np.testing.assert_allclose(found, want.numpy(), rtol=1e-5, atol=1e-6)


def test_permuting_b_permutes_the_product_and_makes_pairs_neighbours() -> None:
    a, b = torch.randn(3, 5, dtype=torch.float64), torch.randn(12, 3, dtype=torch.float64)
    torch.testing.assert_close(permute_heads(b @ a, 2), permute_heads(b, 2) @ a)
    rows = torch.arange(12)  # two heads of six features: 0 turns with 3, 1 with 4, ...
    assert permute_heads(rows, 2).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_rslora_is_folded_into_alpha_and_the_origin_is_told(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES)
    adapter = adapter_for(config, "q_proj", r=4, use_rslora=True, base_model_name_or_path="meta-llama/Llama-3.1-8B")
    values, _ = read(export_gguf(adapter, tmp_path / "a.gguf", base=config))
    assert values["adapter.lora.alpha"] == 8.0
    assert values["general.type"] == "adapter"
    assert values["adapter.type"] == "lora"
    assert values["general.name"] == "Answer in rhymes."
    assert values["general.base_model.0.name"] == "meta-llama/Llama-3.1-8B"
    assert values["general.base_model.0.repo_url"] == "https://huggingface.co/meta-llama/Llama-3.1-8B"


def test_no_path_of_this_machine_is_in_the_file(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES)
    config.save_pretrained(tmp_path / "secret" / "base")
    adapter = adapter_for(config, "q_proj", base_model_name_or_path=str(tmp_path / "secret" / "base"))
    assert b"secret" not in export_gguf(adapter, tmp_path / "a.gguf").read_bytes()


def test_the_config_of_the_base_is_enough_and_bytes_repeat(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES)
    config.save_pretrained(tmp_path / "base")
    assert [file.name for file in (tmp_path / "base").iterdir()] == ["config.json"]
    adapter = adapter_for(config, "v_proj", "q_proj")
    files = [export_gguf(adapter, tmp_path / name, base=str(tmp_path / "base")) for name in ("a.gguf", "b.gguf")]
    assert files[0].read_bytes() == files[1].read_bytes()
    (tmp_path / "touched").touch()
    assert files[0].stat().st_mode == (tmp_path / "touched").stat().st_mode
    assert {file.name for file in tmp_path.iterdir()} == {"base", "touched", "a.gguf", "b.gguf"}


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "F32"), (torch.float16, "F16"), (torch.bfloat16, "BF16")])
def test_each_dtype_is_exact(dtype: torch.dtype, name: str, tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES)
    adapter = adapter_for(config, "v_proj").to(torch.float64)
    path = export_gguf(adapter, tmp_path / "a.gguf", base=config, dtype=dtype)
    assert path.read_bytes() == export_gguf(adapter, tmp_path / "b", base=config, dtype=name.lower()).read_bytes()
    (tensor,) = [t for t in gguf.GGUFReader(path).tensors if t.name == "blk.1.attn_v.weight.lora_b"]
    assert tensor.tensor_type.name == name
    want = adapter.weights["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"].to(dtype).float()
    np.testing.assert_array_equal(gguf.dequantize(tensor.data, tensor.tensor_type), want.numpy())


@pytest.mark.parametrize(("kind", "error"), [("q8_0", 0.01), ("q4_0", 0.15)])
def test_rows_of_whole_blocks_are_quantised_and_others_stay_in_float16(kind: str, error: float, tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES | {"hidden_size": 64})
    adapter = adapter_for(config, "up_proj", "down_proj", r=4)  # which read 64 and 24 features
    path = export_gguf(adapter, tmp_path / "a.gguf", base=config, dtype=kind)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    types = {name: tensor.tensor_type.name for name, tensor in tensors.items() if "blk.1" in name}
    assert types.pop("blk.1.ffn_up.weight.lora_a") == kind.upper()
    assert set(types.values()) == {"F16"}
    for key, name in (("up_proj.lora_A", "ffn_up.weight.lora_a"), ("up_proj.lora_B", "ffn_up.weight.lora_b")):
        want = adapter.weights[f"base_model.model.model.layers.1.mlp.{key}.weight"].numpy()
        found = gguf.dequantize(tensors[f"blk.1.{name}"].data, tensors[f"blk.1.{name}"].tensor_type)
        assert np.linalg.norm(found - want) < error * np.linalg.norm(want)


def test_a_weight_too_large_for_a_16_bit_scale_is_refused(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES)
    adapter = adapter_for(config, "v_proj")
    adapter.weights["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"][0, 0] = 1e6
    for kind in ("f16", "q8_0"):
        with pytest.raises(CheckpointError, match="too large for float16"):
            export_gguf(adapter, tmp_path / "a.gguf", base=config, dtype=kind)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn])
def test_what_llama_cpp_does_not_read_becomes_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES)
    adapter = adapter_for(config, "v_proj")
    weights = {key: weight.to(dtype) if ".lora_B." in key else weight for key, weight in adapter.weights.items()}
    path = export_gguf(LoraAdapter(weights, adapter.spec), tmp_path / "a.gguf", base=config)
    assert {tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors} == {"F32"}
    with pytest.raises(
        InvalidArgumentError, match=r"dtype is torch\.\w+: llama\.cpp reads float32, float16 and bfloat16"
    ):
        export_gguf(adapter, tmp_path / "b.gguf", base=config, dtype=dtype)


def test_the_text_model_of_one_that_sees_is_found(tmp_path: Path) -> None:
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Gemma3Config(text_config=SIZES | {"model_type": "gemma3_text"}, vision_config=vision)
    adapter = adapter_for(config, "up_proj")
    assert any("language_model" in key for key in adapter.weights)
    _, tensors = read(export_gguf(adapter, tmp_path / "a.gguf", base=config))
    assert "blk.0.ffn_up.weight.lora_a" in tensors


def test_what_llama_cpp_has_no_place_for_is_named(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match=r"no weight for lm_head of a llama model.*t2l export merged"):
        export_gguf(adapter_for(config, "lm_head"), tmp_path / "a.gguf", base=config)
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=32)
    with pytest.raises(CheckpointError, match=r"adapters of gpt2 models.*expected one of gemma, .*, llama, .*qwen3"):
        export_gguf(LoraAdapter({}, LoraSpec(2, 2.0, ("c_attn",))), tmp_path / "a.gguf", base=config)
    assert not any(tmp_path.iterdir())


def test_untied_lm_head_has_its_place(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES, tie_word_embeddings=False)
    _, tensors = read(export_gguf(adapter_for(config, "lm_head"), tmp_path / "a.gguf", base=config))
    assert set(tensors) == {"output.weight.lora_a", "output.weight.lora_b"}


def test_another_base_and_a_damaged_adapter_are_refused(tmp_path: Path) -> None:
    adapter = adapter_for(LlamaConfig(**SIZES), "q_proj")
    with pytest.raises(CheckpointError, match="pass the base model that it was made for"):
        export_gguf(adapter, tmp_path / "a.gguf", base=LlamaConfig(**SIZES | {"hidden_size": 32}))
    weights = dict(adapter.weights)
    weights.popitem()
    with pytest.raises(CheckpointError, match="damaged"):
        export_gguf(LoraAdapter(weights, adapter.spec), tmp_path / "a.gguf", base=LlamaConfig(**SIZES))


def test_a_base_that_is_nowhere_or_not_named_is_one_line(tmp_path: Path) -> None:
    adapter = adapter_for(LlamaConfig(**SIZES), "q_proj")
    with pytest.raises(CheckpointError, match="no base model is named: pass a base model"):
        export_gguf(adapter, tmp_path / "a.gguf")
    with pytest.raises(CheckpointError, match="the base model 'moon/moon' cannot be loaded"):
        export_gguf(adapter, tmp_path / "a.gguf", base="moon/moon")


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = builtins.__import__

    def without_gguf(name: str, *rest: Any, **more: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return find(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_gguf)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("export"))):
        export_gguf(LoraAdapter({}, LoraSpec(2, 2.0, ())), tmp_path / "a.gguf")


@pytest.mark.parametrize("name", [".", "file/a.gguf", "nul\0.gguf"])
def test_where_nothing_can_be_written_is_an_output_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = LlamaConfig(**SIZES)
    with pytest.raises(OutputError):
        export_gguf(adapter_for(config, "q_proj"), tmp_path / name, base=config)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_modelfile_names_base_and_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_modelfile(tmp_path / "my city.gguf", "llama3.1:8b-instruct-fp16")
    assert path == tmp_path / "my city.Modelfile"
    page = (Path(__file__).parents[2] / "docs/how-to/edge.md").read_text(encoding="utf-8")
    assert path.read_text().replace("my city", "city-upper") in page
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines == ["FROM llama3.1:8b-instruct-fp16", "ADAPTER ./my city.gguf"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.gguf").touch()
    path = write_modelfile(Path("out", "city.gguf"), "base.gguf")
    assert "FROM ../base.gguf\n" in path.read_text()
    for base in ("", "llama3.1\nSYSTEM lie"):
        with pytest.raises(OutputError, match="cannot be written into a Modelfile"):
            write_modelfile(Path("city.gguf"), base)
