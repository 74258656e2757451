from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from text2lora import CheckpointError, LoraAdapter, LoraSpec, OutputError, Text2LoraModel
from text2lora.export import export_merged
from text2lora.inference import generate_answers
from text2lora.nano import sample_record


@pytest.fixture
def adapter(t2l: Text2LoraModel) -> LoraAdapter:
    return t2l.generate_lora("Return the city.")


def test_merged_nano_answers_as_with_peft(tmp_path: Path) -> None:
    nano = Text2LoraModel.from_pretrained("nano")
    adapter = nano.generate_lora("Return the city in capital letters.")
    folder = export_merged(adapter, tmp_path / "merged")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    records = [sample_record("order", 600 + i)[0] for i in range(20)]
    peft = adapter.apply_to(nano.load_base_model().eval())
    answers = generate_answers(model, tokenizer, records)
    assert answers == generate_answers(peft, nano.base_tokenizer, records)
    assert all(answer.isupper() for answer in answers)
    assert tokenizer.chat_template == nano.base_tokenizer.chat_template
    assert not hasattr(model, "peft_config")


def test_merged_weights_are_those_of_peft(
    adapter: LoraAdapter, base: PreTrainedModel, tmp_path: Path, load_base: Callable[..., PreTrainedModel]
) -> None:
    folder = export_merged(adapter, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(folder)
    want = adapter.apply_to(base).merge_and_unload().state_dict()
    plain = load_base().state_dict()
    assert merged.state_dict().keys() == want.keys() == plain.keys()
    for key, weight in merged.state_dict().items():
        torch.testing.assert_close(weight, want[key])
        assert torch.equal(weight, plain[key]) != key.endswith(("q_proj.weight", "v_proj.weight"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_made_in_float32_and_rounded_once(
    adapter: LoraAdapter, tmp_path: Path, dtype: torch.dtype, load_base: Callable[..., PreTrainedModel]
) -> None:
    merged = AutoModelForCausalLM.from_pretrained(export_merged(adapter, tmp_path / "merged", dtype=dtype))
    assert merged.dtype == dtype
    exact = adapter.apply_to(load_base()).merge_and_unload().to(dtype).state_dict()
    for key, weight in merged.state_dict().items():
        assert (weight != exact[key]).float().mean() < 1e-3, key  # PEFT multiplies in another order


def test_a_low_precision_base_is_not_rounded_before_the_sum(
    adapter: LoraAdapter, tmp_path: Path, load_base: Callable[..., PreTrainedModel], base_dir: Path
) -> None:
    load_base(dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(base_dir).save_pretrained(tmp_path / "base")
    kept = AutoModelForCausalLM.from_pretrained(export_merged(adapter, tmp_path / "kept", base=str(tmp_path / "base")))
    assert kept.dtype == torch.bfloat16
    folder = export_merged(adapter, tmp_path / "float", base=str(tmp_path / "base"), dtype=torch.float32)
    exact = AutoModelForCausalLM.from_pretrained(folder)
    assert exact.dtype == torch.float32
    for key, weight in exact.to(torch.bfloat16).state_dict().items():
        assert torch.equal(weight, kept.state_dict()[key]), key


def test_strength_is_merged(adapter: LoraAdapter, tmp_path: Path, load_base: Callable[..., PreTrainedModel]) -> None:
    folder = export_merged(adapter.scaled(0), tmp_path / "merged")
    merged, plain = AutoModelForCausalLM.from_pretrained(folder).state_dict(), load_base().state_dict()
    assert all(torch.equal(weight, plain[key]) for key, weight in merged.items())


def test_card_tells_base_relation_and_description_but_no_path(adapter: LoraAdapter, tmp_path: Path) -> None:
    card = ModelCard.load(export_merged(adapter, tmp_path / "merged") / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.tags == ["text2lora"]
    assert card.data.base_model is None  # a folder of this machine
    assert "> Return the city." in card.text
    assert str(tmp_path.parent) not in card.content


def test_weights_are_split_into_files(adapter: LoraAdapter, tmp_path: Path) -> None:
    folder = export_merged(adapter, tmp_path / "merged", max_shard_size="30KB")
    assert (folder / "model.safetensors.index.json").is_file()
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    AutoModelForCausalLM.from_pretrained(folder)


def test_what_a_base_needs_for_pictures_comes_along(adapter: LoraAdapter, tmp_path: Path, base_dir: Path) -> None:
    shutil.copytree(base_dir, tmp_path / "base")
    (tmp_path / "base" / "preprocessor_config.json").write_text('{"size": 8}')
    folder = export_merged(adapter, tmp_path / "with", base=tmp_path / "base")
    assert (folder / "preprocessor_config.json").read_text() == '{"size": 8}'


def test_the_vocabulary_that_converters_read_comes_along(adapter: LoraAdapter, tmp_path: Path, base_dir: Path) -> None:
    assert not (export_merged(adapter, tmp_path / "without") / "tokenizer.model").exists()
    shutil.copytree(base_dir, tmp_path / "base")
    (tmp_path / "base" / "tokenizer.model").write_bytes(b"pieces")
    folder = export_merged(adapter, tmp_path / "with", base=str(tmp_path / "base"))
    assert (folder / "tokenizer.model").read_bytes() == b"pieces"


@pytest.mark.parametrize("size", ["", "foo", "5", "0GB", "-1MB"])
def test_a_size_that_is_none_is_refused(adapter: LoraAdapter, tmp_path: Path, size: str) -> None:
    with pytest.raises(OutputError, match="expected a size such as 5GB"):
        export_merged(adapter, tmp_path / "merged", max_shard_size=size)


def test_what_is_there_is_kept(adapter: LoraAdapter, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for name, is_there in (("full", "exists"), ("full/file", "is a file")):
        with pytest.raises(OutputError, match=f"{is_there}: choose another folder"):
            export_merged(adapter, tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "file"]


def test_another_base_is_refused_and_nothing_is_written(adapter: LoraAdapter, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="pass the base model that it was made for"):
        export_merged(adapter, tmp_path / "merged", base="nano")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        export_merged(adapter, tmp_path / "merged", base="moon/moon")
    assert not any(tmp_path.iterdir())


def test_weights_that_leave_float16_are_refused(adapter: LoraAdapter, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="too large for float16"):
        export_merged(adapter.scaled(1e7), tmp_path / "merged", dtype=torch.float16)
    assert not any(tmp_path.iterdir())


def test_tied_embeddings_are_not_changed_behind_ones_back(
    base_dir: Path, load_base: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    model = load_base()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(base_dir).save_pretrained(tmp_path / "base")
    weights = {
        "base_model.model.lm_head.lora_A.weight": torch.randn(2, 32),
        "base_model.model.lm_head.lora_B.weight": torch.randn(261, 2),
    }
    adapter = LoraAdapter(weights, LoraSpec(2, 2.0, ("lm_head",), base_model_name_or_path=str(tmp_path / "base")))
    with pytest.raises(CheckpointError, match="lm_head is tied to the embeddings"):
        export_merged(adapter, tmp_path / "merged")


def test_transposed_modules_are_merged_as_peft_does(tokenizer: object, tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=261, n_positions=32))
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    key = "base_model.model.transformer.h.0.attn.c_attn"
    weights = {f"{key}.lora_A.weight": torch.randn(2, 16), f"{key}.lora_B.weight": torch.randn(48, 2)}
    adapter = LoraAdapter(weights, LoraSpec(2, 2.0, ("c_attn",), base_model_name_or_path=str(tmp_path / "base")))
    merged = AutoModelForCausalLM.from_pretrained(export_merged(adapter, tmp_path / "merged"))
    want = adapter.apply_to(model).merge_and_unload().transformer.h[0].attn.c_attn.weight
    torch.testing.assert_close(merged.transformer.h[0].attn.c_attn.weight, want)


def test_a_full_disk_leaves_nothing(adapter: LoraAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(tokenizer: object, folder: Path, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", fill)
    with pytest.raises(OutputError, match="No space left on device"):
        export_merged(adapter, tmp_path / "merged")
    assert not any(tmp_path.iterdir())


def test_a_model_that_another_process_wrote_meanwhile_is_kept(
    adapter: LoraAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = PreTrainedModel.save_pretrained

    def save_late(model: PreTrainedModel, folder: Path, **options: object) -> None:
        (tmp_path / "merged").mkdir()
        (tmp_path / "merged" / "of-another-process").touch()
        save(model, folder, **options)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_late)
    with pytest.raises(OutputError, match="merged exists: choose another folder"):
        export_merged(adapter, tmp_path / "merged")
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["of-another-process"]
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
