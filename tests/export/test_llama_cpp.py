"""Exported adapters in llama.cpp itself: the same greedy answers, token for token, as transformers and PEFT give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from text2lora import LoraAdapter, LoraSpec, Text2LoraModel
from text2lora.export import ARCHITECTURES, export_gguf
from text2lora.export import gguf as export_module
from text2lora.nano import sample_record
from text2lora.targets import find_target_modules

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
from llama_cpp import LlamaServer, write_base

DESCRIPTIONS = [
    "Return the city in capital letters.",
    "Who placed the order? Just the initials.",
    "Give me the price and the item as one JSON object.",
    "Return the first name only.",
]
RECORDS = [sample_record("order", 500 + i)[0] for i in range(8)]
SIZES = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
OWN_SIZES = {
    "mistral": {"head_dim": 16, "sliding_window": None},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "granite": {
        "attention_multiplier": 0.3,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
    },
}


class Nano:
    """The nano base in transformers and in llama.cpp, with four adapters of its hypernetwork."""

    def __init__(self, folder: Path) -> None:
        self.t2l = Text2LoraModel.from_pretrained("nano")
        self.tokenizer = self.t2l.base_tokenizer
        self.prompts = [self.tokenizer(record)["input_ids"] for record in RECORDS]
        self.model = self.t2l.load_base_model().eval()
        self.base = write_base(self.model, self.tokenizer, folder / "base.gguf")
        self.adapters = self.t2l.generate_lora(DESCRIPTIONS)
        self.plain = [greedy(self.model, ids) for ids in self.prompts]
        self.peft = [self.answers(adapter) for adapter in self.adapters]

    def answers(self, adapter: LoraAdapter) -> list[list[int]]:
        model = adapter.apply_to(self.model)
        return [greedy(model, ids) for ids in self.prompts]

    def in_llama_cpp(self, *files: Path, scale: float = 1.0) -> list[list[list[int]]]:
        server = LlamaServer(self.base, *files)
        return [[server.answer(ids, i, scale) for ids in self.prompts] for i in range(len(files))]


@torch.inference_mode()
def greedy(model: PreTrainedModel, ids: list[int], max_new_tokens: int = 48) -> list[int]:
    prompt = torch.tensor([ids])
    output = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_new_tokens, do_sample=False
    )
    return output[0, len(ids) :].tolist()


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Nano:
    return Nano(tmp_path_factory.mktemp("nano"))


def test_nano_answers_as_with_peft_for_each_adapter(nano: Nano, tmp_path: Path) -> None:
    files = [export_gguf(adapter, tmp_path / f"{i}.gguf") for i, adapter in enumerate(nano.adapters)]
    assert nano.in_llama_cpp(*files) == nano.peft
    cities = [nano.tokenizer.decode(answer, skip_special_tokens=True) for answer in nano.peft[0]]
    assert all(city.isupper() for city in cities)  # the adapters do something
    assert all(one != other for one, other in zip(nano.peft[0], nano.plain, strict=True))


def test_at_scale_zero_nano_answers_as_without_an_adapter(nano: Nano, tmp_path: Path) -> None:
    file = export_gguf(nano.adapters[0], tmp_path / "city.gguf")
    assert nano.in_llama_cpp(file, scale=0.0) == [nano.plain]


def test_a_scale_in_the_file_is_the_strength_of_the_adapter(nano: Nano, tmp_path: Path) -> None:
    """Zero, too: llama.cpp takes an alpha of 0 for none, and then an adapter at full strength."""
    half = nano.adapters[1].scaled(0.5)
    files = [export_gguf(half, tmp_path / "half.gguf"), export_gguf(half.scaled(0), tmp_path / "none.gguf")]
    assert nano.in_llama_cpp(*files) == [nano.answers(half), nano.plain]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_files_answer_as_float32_does(nano: Nano, tmp_path: Path, dtype: torch.dtype) -> None:
    file = export_gguf(nano.adapters[0], tmp_path / "city.gguf", dtype=dtype)
    assert nano.in_llama_cpp(file) == [nano.peft[0]]


@pytest.mark.parametrize(("kind", "least"), [("q8_0", 31), ("q4_0", 26)])
def test_quantised_files_answer_nearly_as_float32_does(nano: Nano, tmp_path: Path, kind: str, least: int) -> None:
    files = [export_gguf(adapter, tmp_path / f"{i}.gguf", dtype=kind) for i, adapter in enumerate(nano.adapters)]
    found = nano.in_llama_cpp(*files)
    pairs = [pair for ours, theirs in zip(found, nano.peft, strict=True) for pair in zip(ours, theirs, strict=True)]
    assert len(pairs) == 32
    assert sum(one == other for one, other in pairs) >= least


def test_rows_in_the_order_of_transformers_would_be_noticed(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strong = nano.adapters[0].scaled(3)  # as they are, nano's adapters change what is attended to but little
    right = export_gguf(strong, tmp_path / "right.gguf")
    monkeypatch.setattr(export_module, "PERMUTED", ())
    wrong = export_gguf(strong, tmp_path / "wrong.gguf")
    found = nano.in_llama_cpp(right, wrong)
    assert found[0] == nano.answers(strong) != found[1]


def test_rslora_that_is_not_folded_would_be_noticed(
    nano: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strong = nano.adapters[1].scaled(3)
    right = export_gguf(strong, tmp_path / "right.gguf")
    monkeypatch.setattr(LoraAdapter, "folded", lambda adapter: adapter)
    wrong = export_gguf(strong, tmp_path / "wrong.gguf")
    found = nano.in_llama_cpp(right, wrong)
    assert found[0] == nano.answers(strong) != found[1]


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A random model of each architecture; queries and keys have different numbers of heads."""
    torch.manual_seed(1)
    config = AutoConfig.for_model(request.param, **SIZES, **OWN_SIZES.get(request.param, {}))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def random_adapter(model: PreTrainedModel) -> LoraAdapter:
    """On all linear modules of the decoder layers."""
    found = find_target_modules(model.config)
    shapes, paths, num_layers = found.shapes, found.paths, found.num_layers
    weights = {}
    for name, (features_in, features_out) in shapes.items():
        for layer in range(num_layers):
            key = f"base_model.model.{paths[name].format(layer=layer)}"
            weights[f"{key}.lora_A.weight"] = torch.randn(4, features_in) * 0.3
            weights[f"{key}.lora_B.weight"] = torch.randn(features_out, 4) * 0.3
    return LoraAdapter(weights, LoraSpec(4, 2.0, tuple(shapes), use_rslora=True))


def test_every_architecture_answers_as_with_peft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = write_base(model, tokenizer, tmp_path / "base.gguf")
    adapter = random_adapter(model)
    right = export_gguf(adapter, tmp_path / "right.gguf", base=model.config)
    architecture = ARCHITECTURES[model.config.model_type]
    others = set(ARCHITECTURES.values()) - {architecture}
    flipped = others if architecture in export_module.PERMUTED else others | {architecture}
    monkeypatch.setattr(export_module, "PERMUTED", flipped)
    wrong = export_gguf(adapter, tmp_path / "wrong.gguf", base=model.config)
    server = LlamaServer(base, right, wrong)
    prompts = [torch.randint(5, 261, (9,)).tolist() for _ in range(8)]
    plain = [greedy(model, ids, 12) for ids in prompts]
    peft = [greedy(adapter.apply_to(model), ids, 12) for ids in prompts]
    assert [server.answer(ids, max_new_tokens=12) for ids in prompts] == plain
    assert [server.answer(ids, 0, max_new_tokens=12) for ids in prompts] == peft
    assert peft != plain
    if "qkv_proj" not in adapter.spec.target_modules:  # one matrix, in one order
        assert [server.answer(ids, 1, max_new_tokens=12) for ids in prompts] != peft
