"""Files: names, atomic folders, cards."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from text2lora import CheckpointError, LoraSpec, OutputError, base_model_path, library_version
from text2lora.hub import adapter_card, atomic_folder, fetch_files, resolve_name

SPEC = LoraSpec(r=8, lora_alpha=16.0, target_modules=("q_proj", "v_proj"), base_model_name_or_path="google/gemma-2-2b")


def test_built_in_names_stand_for_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    built_in = {"nano": tmp_path / "inside"}
    assert resolve_name("nano", built_in) == str(tmp_path / "inside")
    assert resolve_name("me/mine", built_in) == "me/mine"
    (tmp_path / "nano").mkdir()
    assert resolve_name("nano", built_in) == "nano"  # what the user has wins


def test_unknown_built_in_base_is_named() -> None:
    assert base_model_path("nano").endswith("base")
    with pytest.raises(CheckpointError, match="no built-in base model 'micro': expected one of nano"):
        base_model_path("micro")


def test_version_is_a_string() -> None:
    assert library_version()[0].isdigit()


def test_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o700 == 0o700


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_folder_is_as_before_after_any_error(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").touch()
    with pytest.raises(type(error)), atomic_folder(tmp_path / "there") as folder:  # noqa: PT012
        (folder / "new").touch()
        raise error
    assert [p.name for p in tmp_path.rglob("*")] == ["there", "old"]


def test_parent_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), atomic_folder(tmp_path / "file" / "folder"):
        pass


def test_files_of_a_folder_are_found_or_named(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.json").touch()
    assert fetch_files(tmp_path, ["a.json"], subfolder="sub") == {"a.json": tmp_path / "sub" / "a.json"}
    with pytest.raises(CheckpointError, match=r"has no b.json: expected a folder with a.json and b.json"):
        fetch_files(tmp_path, ["a.json", "b.json"], subfolder="sub")


@pytest.mark.parametrize("name", ["/nothing/here", "./nothing", "~/nothing", "nobody/has-this", "a/b/c/d", "sp ace"])
def test_what_is_nowhere_is_one_line(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetch_files(name, ["adapter_config.json"])
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_card_tells_the_hub_the_base_and_the_reader_the_origin() -> None:
    text = adapter_card(SPEC, {"description": "Answer\nin rhymes.", "checkpoint": "me/t2l"})
    data = ModelCard(text).data
    assert data.base_model == "google/gemma-2-2b"
    assert data.library_name == "peft"
    assert "base_model:adapter:google/gemma-2-2b" in data.tags
    assert "# Answer in rhymes." in text
    assert "| checkpoint | me/t2l |" in text
    assert 'AutoModelForCausalLM.from_pretrained("google/gemma-2-2b")' in text


@pytest.mark.parametrize("base", ["/home/me/base", "nano", None])
def test_card_names_no_base_that_the_hub_has_not(base: str | None) -> None:
    spec = LoraSpec(r=8, lora_alpha=16.0, target_modules=("q_proj",), base_model_name_or_path=base)
    card = ModelCard(adapter_card(spec, {}))
    assert card.data.base_model is None
    assert card.data.tags == ["lora", "text2lora"]


@pytest.mark.parametrize("text", ["a: b", "---", "# x", '"quoted" {{ braces }} {% raw %}', "`code` | pipe"])
def test_any_description_makes_a_readable_card(text: str) -> None:
    card = adapter_card(SPEC, {"description": text})
    assert text in card
    assert ModelCard(card).data.library_name == "peft"
