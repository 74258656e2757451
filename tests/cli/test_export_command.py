from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from text2lora import Text2LoraModel
from text2lora.cli import app, main


@pytest.fixture
def folder(t2l: Text2LoraModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with an adapter in `city`."""
    t2l.generate_lora("Return the city.").save_pretrained(tmp_path / "city")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["t2l", "export", *words])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("command", ["gguf", "merged", "zip"])
def test_help_has_an_example(command: str) -> None:
    result = CliRunner().invoke(app, ["export", command, "--help"])
    assert result.exit_code == 0
    assert f"Example: t2l export {command} city-upper" in result.output


def test_files_are_named_after_the_adapter(folder: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("gguf")
    for command in ("gguf", "merged", "zip"):
        assert call(monkeypatch, command, "city") == 0
    assert names(folder) == ["city", "city-merged", "city.gguf", "city.zip"]
    assert capsys.readouterr().out.split() == ["city.gguf", "city-merged", "city.zip"]
    assert zipfile.is_zipfile("city.zip")
    AutoModelForCausalLM.from_pretrained("city-merged")


def test_options_reach_the_files(folder: Path, monkeypatch) -> None:
    gguf = pytest.importorskip("gguf")
    assert call(monkeypatch, "gguf", "city/", "-o", "a/c.gguf", "--dtype", "float16", "--scale", "0.5") == 0
    reader = gguf.GGUFReader("a/c.gguf")
    assert reader.fields["adapter.lora.alpha"].contents() == 8.0  # of 8, rsLoRA at rank 4, and half of that
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F16"}
    assert call(monkeypatch, "merged", "city", "-o", "m", "--dtype", "bfloat16", "--scale", "0.5") == 0
    assert str(AutoModelForCausalLM.from_pretrained("m").dtype) == "torch.bfloat16"
    assert "| scale | 1 x 0.5 |" in ModelCard.load("m/README.md").text


def test_modelfile_stands_beside_the_file(folder: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("gguf")
    assert call(monkeypatch, "gguf", "city", "-o", "out/c.gguf", "--ollama", "llama3.1:8b") == 0
    assert names(folder / "out") == ["c.Modelfile", "c.gguf"]
    assert "FROM llama3.1:8b\nADAPTER ./c.gguf\n" in (folder / "out" / "c.Modelfile").read_text()
    assert capsys.readouterr().out.split() == ["out/c.gguf", "out/c.Modelfile"]


def test_what_is_there_stays_without_force(folder: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("gguf")
    for name, command in (("city.gguf", "gguf"), ("city.zip", "zip")):
        (folder / name).write_text("mine")
        assert call(monkeypatch, command, "city") == 1
        assert f"{name} exists: choose another name, or replace it with --force" in capsys.readouterr().err
        assert (folder / name).read_text() == "mine"
        assert call(monkeypatch, command, "city", "--force") == 0
    (folder / "city-merged").mkdir()
    (folder / "city-merged" / "mine").touch()
    assert call(monkeypatch, "merged", "city") == 1
    assert names(folder / "city-merged") == ["mine"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["gguf", "moon/moon"], 1, "moon/moon"),
        (["gguf", "city", "--base", "moon/moon"], 1, "the base model 'moon/moon' cannot be loaded"),
        (["gguf", "city", "--base", "nano"], 1, "pass the base it was made for"),
        (["gguf", "city", "--dtype", "int4"], 2, "'int4' is not one of float32, bfloat16, float16"),
        (["gguf", "city", "--scale", "nan"], 1, "scale is nan"),
        (["gguf", "city", "--ollama", " "], 2, "expected a model of Ollama"),
        (["merged", "city", "--shard-size", "big"], 1, "expected one such as 5GB"),
        (["zip", "city", "-o", "city", "--force"], 1, "city is not a file"),
        (["zip"], 2, "Missing argument"),
    ],
)
def test_bad_calls_are_one_line_and_leave_nothing(words, code, told, folder: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("gguf")
    assert call(monkeypatch, *words) == code
    assert told in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert names(folder) == ["city"]
