from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from text2lora import LoraAdapter, Text2LoraModel


@pytest.fixture
def folder(t2l: Text2LoraModel, tmp_path: Path) -> Path:
    """The working directory, with an adapter in `city`."""
    t2l.generate_lora("Return the city.").save_pretrained(tmp_path / "city")
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("command", ["gguf", "merged", "zip"])
def test_help_has_an_example(t2l_command, command: str) -> None:
    result = t2l_command("export", command, "--help")
    assert result.code == 0
    assert f"Example: t2l export {command} city" in result.out


def test_files_are_named_after_the_adapter(t2l_command, folder: Path) -> None:
    pytest.importorskip("gguf")
    for command, made in (("gguf", "city.gguf"), ("merged", "city-merged"), ("zip", "city.zip")):
        result = t2l_command("export", command, "city")
        assert (result.code, result.out) == (0, f"{made}\n")
        assert f"Written {made}" in result.err
    assert names(folder) == ["city", "city-merged", "city.gguf", "city.zip"]
    assert zipfile.is_zipfile("city.zip")
    AutoModelForCausalLM.from_pretrained("city-merged")


def test_options_reach_the_files(t2l_command, folder: Path) -> None:
    gguf = pytest.importorskip("gguf")
    done = t2l_command("export", "gguf", "city/", "-o", "a/c.gguf", "--dtype", "float16", "--scale", "0.5")
    assert done.code == 0
    reader = gguf.GGUFReader("a/c.gguf")
    assert reader.fields["adapter.lora.alpha"].contents() == 8.0  # of 8, rsLoRA at rank 4, and half of that
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F16"}
    assert t2l_command("export", "gguf", "city", "-o", "q.gguf", "--type", "q4_0").code == 0
    types = {tensor.name[-1]: tensor.tensor_type.name for tensor in gguf.GGUFReader("q.gguf").tensors}
    assert types == {"a": "Q4_0", "b": "F16"}
    assert t2l_command("export", "merged", "city", "-o", "m", "--dtype", "bfloat16", "--scale", "0.5").code == 0
    assert str(AutoModelForCausalLM.from_pretrained("m").dtype) == "torch.bfloat16"
    assert r"| scale | 0\.5 |" in ModelCard.load("m/README.md").text


def test_modelfile_stands_beside_the_file(t2l_command, folder: Path) -> None:
    pytest.importorskip("gguf")
    result = t2l_command("export", "gguf", "city", "-o", "out/c.gguf", "--ollama", "llama3.1:8b")
    assert (result.code, result.out) == (0, "out/c.gguf\nout/c.Modelfile\n")
    assert names(folder / "out") == ["c.Modelfile", "c.gguf"]
    assert "FROM llama3.1:8b\nADAPTER ./c.gguf\n" in (folder / "out" / "c.Modelfile").read_text()


def test_what_is_there_stays_without_force(t2l_command, folder: Path) -> None:
    pytest.importorskip("gguf")
    for name, command in (("city.gguf", "gguf"), ("city.zip", "zip")):
        (folder / name).write_text("mine")
        result = t2l_command("export", command, "city")
        assert result.code == 1
        assert f"{name} exists: choose another name, or replace it with --force" in result.err
        assert (folder / name).read_text() == "mine"
        assert t2l_command("export", command, "city", "--force").code == 0
    (folder / "city-merged").mkdir()
    (folder / "city-merged" / "mine").touch()
    assert t2l_command("export", "merged", "city").code == 1
    assert "mine, which is not part of a merged model" in t2l_command("export", "merged", "city", "--force").err
    assert names(folder / "city-merged") == ["mine"]
    (folder / "city-merged" / "mine").unlink()
    for more in ([], ["--force", "--dtype", "bfloat16"]):
        assert t2l_command("export", "merged", "city", *more).code == 0
    assert str(AutoModelForCausalLM.from_pretrained("city-merged").dtype) == "torch.bfloat16"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["gguf", "moon/moon"], 1, "moon/moon"),
        (["gguf", "city", "--base", "moon/moon"], 1, "the base model 'moon/moon' cannot be loaded"),
        (["gguf", "city", "--base", "nano"], 1, "pass the base model that it was made for"),
        (["gguf", "city", "--dtype", "int4"], 2, "'int4' is not one of"),
        (["gguf", "city", "--scale", "nan"], 1, "scale is nan"),
        (["gguf", "city", "--ollama", " "], 2, "expected an Ollama model"),
        (["zip", "city", "-o", "city", "--force"], 1, "city does not end in .zip"),
        (["gguf", "city", "-o", "city/adapter_model.safetensors", "--force"], 1, "does not end in .gguf"),
        (["gguf", "city", "-o", "a.Modelfile", "--ollama", "x", "--force"], 1, "a.Modelfile does not end in .gguf"),
        (["zip"], 2, "Missing argument"),
    ],
)
def test_bad_calls_are_one_line_and_leave_nothing(t2l_command, folder: Path, words, code, told) -> None:
    pytest.importorskip("gguf")
    result = t2l_command("export", *words)
    assert result.code == code
    assert told in " ".join(result.err.replace("│", " ").split())
    assert names(folder) == ["city"]


@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_another_process_made_meanwhile_is_kept(t2l_command, folder: Path, monkeypatch, force) -> None:
    def write_late(adapter: LoraAdapter, path: Path) -> None:
        Path("city.zip").write_text("another")
        path.write_text("ours")

    monkeypatch.setattr("text2lora.export.export_zip", write_late)
    done = t2l_command("export", "zip", "city", *(["--force"] if force else []))
    assert (done.code, Path("city.zip").read_text()) == ((0, "ours") if force else (1, "another"))
    assert force or "city.zip exists: choose another name" in done.err
    assert names(folder) == ["city", "city.zip"]
