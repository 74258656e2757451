"""Files: names, atomic folders, cards."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from text2lora import CheckpointError, LoraSpec, OutputError, base_model_path, library_version
from text2lora.hub import _swap, adapter_card, atomic_folder, fetch_files, resolve_name

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


# -- killed in the middle ---------------------------------------------------------------------------------------------

CALLS = {"os.mkdir", "os.rename", "os.chmod", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree", "ctypes.dlsym"}


def killed_before(call: int, write: Callable[[], object]) -> bool:
    """Whether a process that writes ends by itself, rather than before its nth call to the file system."""
    pid = os.fork()
    if pid == 0:
        left = itertools.count(call, -1)

        def hook(event: str, _: object) -> None:
            if (event in CALLS or event == "open") and next(left) == 0:
                os._exit(9)

        sys.addaudithook(hook)
        write()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def contents(folder: Path) -> dict[str, str] | None:
    return {p.name: p.read_text() for p in folder.iterdir()} if folder.exists() else None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("swaps", [True, False])
@pytest.mark.parametrize("before", [None, {"a": "old", "b": "old"}])
def test_a_process_killed_anywhere_leaves_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, str] | None, swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr("text2lora.hub._swap", lambda one, two: False)
    elif not can_swap(tmp_path):
        pytest.skip("this file system cannot swap folders")
    after = {"a": "new", "b": "new"}

    def write() -> None:
        with atomic_folder(target) as folder:
            for name, text in after.items():
                (folder / name).write_text(text)

    for call in itertools.count():
        target = tmp_path / str(call) / "target"
        target.parent.mkdir()
        if before:
            target.mkdir()
            for name, text in before.items():
                (target / name).write_text(text)
        ended = killed_before(call, write)
        allowed = [before, after] if swaps else [None, before, after]
        assert contents(target) in allowed
        if contents(target) is None and before:  # without a swap: the old folder is beside it
            assert before in [contents(path) for path in target.parent.iterdir()]
        if ended:
            break
    assert contents(target) == after
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert call > 8


def can_swap(folder: Path) -> bool:
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    (folder / "one" / "file").touch()
    return _swap(folder / "one", folder / "two") and (folder / "two" / "file").exists()


def test_where_folders_cannot_be_swapped_the_old_one_is_replaced_too(tmp_path: Path, monkeypatch) -> None:
    assert not _swap(tmp_path / "absent", tmp_path)
    monkeypatch.setattr("text2lora.hub._swap", lambda one, two: False)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").touch()
    with atomic_folder(tmp_path / "there") as folder:
        (folder / "new").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["there", "new"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with atomic_folder(tmp_path / "link") as folder:
        (folder / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["link", "real", "real/new"]


def test_the_working_directory_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="working directory"), atomic_folder(Path()):
        pass
    assert list(tmp_path.parent.glob(f".{tmp_path.name}*")) == []
