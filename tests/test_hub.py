"""Files: names, atomic folders, cards."""

from __future__ import annotations

import errno
import itertools
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import ModelCard, errors
from safetensors import SafetensorError
from safetensors.torch import load_file
from upstream_format import write_checkpoint

from text2lora import (
    CheckpointError,
    HubError,
    LoraAdapter,
    LoraSpec,
    OutputError,
    Text2LoraModel,
    library_version,
)
from text2lora.cards import adapter_card, card_metadata, checkpoint_card, merged_card
from text2lora.files import ABANDONED, _host, _swap, _umask, atomic_file, atomic_folder, check_output
from text2lora.hub import Source, hub_errors, hub_fault, patiently
from text2lora.names import distinct_names, is_local, resolve_name, slug

SPEC = LoraSpec(r=8, lora_alpha=16.0, target_modules=("q_proj", "v_proj"), base_model_name_or_path="google/gemma-2-2b")


def test_built_in_names_stand_for_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    built_in = {"nano": tmp_path / "inside"}
    assert resolve_name("nano", built_in) == str(tmp_path / "inside")
    assert resolve_name("me/mine", built_in) == "me/mine"
    (tmp_path / "nano").mkdir()
    assert resolve_name("nano", built_in) == str(tmp_path / "inside")  # whatever lies about in the working directory
    assert resolve_name("./nano", built_in) == "./nano"
    assert resolve_name(Path("nano"), built_in) == "nano"
    assert not is_local("nano")
    assert Text2LoraModel.from_pretrained("nano").config.base_model_name_or_path == "nano"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, t2l, checkpoint_dir: Path) -> Path:
    """The working directory, with an adapter in `runs/city`, a checkpoint in `mine` and one of the reference."""
    monkeypatch.chdir(tmp_path)
    t2l.generate_lora("the city").save_pretrained("runs/city")
    (tmp_path / "mine").symlink_to(checkpoint_dir)
    write_checkpoint(tmp_path / "reference")
    return tmp_path


def test_a_misspelt_subfolder_is_told_the_right_one(folders: Path) -> None:
    for load in (LoraAdapter, Text2LoraModel):
        with pytest.raises(CheckpointError, match="runs has no subfolder 'citty': did you mean 'city'"):
            load.from_pretrained("runs", subfolder="citty")


@pytest.mark.parametrize(
    ("load", "name", "told"),
    [
        (Text2LoraModel, "Nano", "neither an existing folder nor a valid Hub id: did you mean 'nano'?"),
        (Text2LoraModel, "mien", "did you mean 'mine'?"),
        (Text2LoraModel, "runs/city", "runs/city is an adapter, not a checkpoint: `t2l run`"),
        (LoraAdapter, "runs/citty", "runs/citty is not in the cache .*: did you mean 'runs/city'?"),
        (LoraAdapter, "./runs/CITY", "does not exist: did you mean 'runs/city'?"),
        (LoraAdapter, "runs", "runs has no adapter_config.json: did you mean 'runs/city'?"),
        (Text2LoraModel, ".", "has no config.json: did you mean 'mine'?"),
        (Text2LoraModel, "runs", "runs has no config.json: expected a folder with config.json"),
        (Text2LoraModel, "reference/hypermod.pt", "reference/hypermod.pt is a file: pass its folder, 'reference'"),
        (LoraAdapter, "mine/config.json", "mine/config.json is a file: pass its folder, 'mine'"),
        (LoraAdapter, "mine", "mine is a checkpoint, not an adapter: `t2l make TEXT --model mine`"),
        (LoraAdapter, "nano", "nano is a checkpoint, not an adapter: `t2l make TEXT --model nano`"),
        (LoraAdapter, "reference", "reference is a checkpoint, not an adapter"),
        (LoraAdapter, "qwertyuiop", "nor a valid Hub id: expected a folder or USER/NAME"),
    ],
)
def test_what_is_here_is_looked_at_before_the_hub_is_asked(
    folders: Path, monkeypatch: pytest.MonkeyPatch, load: type, name: str, told: str
) -> None:
    if not name.startswith("runs/citty"):
        monkeypatch.setattr("huggingface_hub.resolve_revision", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    with pytest.raises(CheckpointError, match=told):
        load.from_pretrained(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Return the city!", "return-the-city"),
        ("Gib es zurück", "gib-es-zuruck-"),
        ("Straße", "strasse-"),
        ("nano", "nano-"),
        ("CON", "con-"),
        ("com1", "com1-"),
        ("console", "console"),
        ("都市", "adapter-"),
    ],
)
def test_names_keep_letters_and_are_no_built_in_ones(text: str, name: str) -> None:
    assert re.fullmatch(rf"{name}[0-9a-f]{{6}}" if name.endswith("-") else name, slug(text))


@pytest.mark.parametrize(
    ("names", "taken", "shown"),
    [
        (["/x/a/cap", "./lower", "me/mine"], [], ["cap", "lower", "me/mine"]),
        (["/x/a/cap", "/x/b/cap/", "/y/b/cap"], [], ["a/cap", "x/b/cap", "y/b/cap"]),
        (["/x/base", "base", "./cap", "cap", "/cap"], ["base"], ["x/base", "base (2)", "cap", "cap (2)", "cap (3)"]),
        (["./a/cap", "a/cap", "me/cap"], [], ["a/cap", "a/cap (2)", "me/cap"]),
    ],
)
def test_names_in_reports_differ_and_show_no_more_of_a_path_than_it_takes(
    names: list[str], taken: list[str], shown: list[str]
) -> None:
    assert distinct_names(names, taken) == shown


def test_version_is_a_string() -> None:
    assert library_version()[0].isdigit()


def test_card_of_a_merged_model_names_its_base() -> None:
    card = ModelCard(merged_card(SPEC, {"description": "Answer in rhymes."}))
    assert (card.data.base_model, card.data.base_model_relation) == ("google/gemma-2-2b", "finetune")
    assert "> Answer in rhymes." in card.text
    assert "merged into it.\n" in merged_card(SPEC, {})


def test_file_appears_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "file") as file:  # noqa: PT012
        file.write_text("new")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    with atomic_file(tmp_path / "a" / "file") as file:
        file.write_text("new")
        assert not (tmp_path / "a" / "file").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    (tmp_path / "folder").mkdir()
    for name in ("folder", "file/below", "nul\0"):
        with pytest.raises(OutputError), atomic_file(tmp_path / name):
            pass


def test_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o700 == 0o700


def test_only_what_the_target_is_to_blame_for_is_its_error(tmp_path: Path) -> None:
    """A file that is missing elsewhere, or a fault of the Hub, says nothing of the folder that is being written."""
    for write in (atomic_folder, atomic_file):
        with pytest.raises(FileNotFoundError), write(tmp_path / "out"):
            (tmp_path / "elsewhere").read_text()
        with pytest.raises(HubError, match=r"^no answer$"), write(tmp_path / "out"):
            raise HubError("no answer")
        with pytest.raises(SafetensorError), write(tmp_path / "out"):  # noqa: PT012
            (tmp_path / "damaged").write_bytes(b"x")
            load_file(tmp_path / "damaged")
        (tmp_path / "damaged").unlink()
        with pytest.raises(OutputError, match=r"out cannot be written .No space left"), write(tmp_path / "out"):
            raise OSError(errno.ENOSPC, "No space left on device")
        with (
            pytest.raises(OutputError, match=r"out cannot be written .(No such|Not a)"),
            write(tmp_path / "out") as path,
        ):
            (path / "absent" / "file").touch() if path.is_dir() else path.rename(path / "a")
        with pytest.raises(OutputError, match=r"out cannot be written .I/O error: No space"), write(tmp_path / "out"):
            raise SafetensorError("I/O error: No space left on device (os error 28)")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="needs Linux")
def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as `/out` of `docker run -v $PWD/out:/out`, which cannot be renamed."""
    for place in (Path("/proc"), Path("/dev/shm")):
        with pytest.raises(OutputError, match=f"{place} is a mount point, .*: choose a folder in it"):
            check_output(place, ["*"])
    line = f"36 35 98:0 /mnt1 {tmp_path}/with\\040space rw,noatime - ext3 /dev/root rw\n"
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: line.encode() if path.name == "mountinfo" else read(path))
    for write in (atomic_folder, atomic_file):
        with pytest.raises(OutputError, match="with space is a mount point"), write(tmp_path / "with space"):
            pass
    assert list(tmp_path.iterdir()) == []


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
    assert Source.of(tmp_path, "sub").fetch(["a.json"]) == {"a.json": tmp_path / "sub" / "a.json"}
    with pytest.raises(CheckpointError, match=r"has no b.json: expected a folder with a.json and b.json"):
        Source.of(tmp_path, "sub").fetch(["a.json", "b.json"])


@pytest.mark.parametrize("name", ["/nothing/here", "./nothing", "~/nothing", "nobody/has-this", "a/b/c/d", "sp ace"])
def test_what_is_nowhere_is_one_line(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Source.of(name).fetch(["adapter_config.json"])
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


@pytest.mark.parametrize(
    "base", ["/home/me/base", r"C:\Users\me\base", "C:/Users/me", r"models\base", "a--b/c", "me/my base", "nano", None]
)
def test_card_names_no_base_that_the_hub_has_not(base: str | None) -> None:
    spec = LoraSpec(r=8, lora_alpha=16.0, target_modules=("q_proj",), base_model_name_or_path=base)
    card = ModelCard(adapter_card(spec, {}))
    assert card.data.base_model is None
    assert card.data.tags == ["lora", "text2lora"]
    assert "Users" not in card.content
    shared = LoraAdapter({}, spec).shareable().spec.base_model_name_or_path
    assert shared == (base if base == "nano" else None)


def test_the_code_in_the_card_finds_the_bundled_base(tmp_path: Path) -> None:
    """Which plain PEFT looks for on the Hub, and so does AutoPeftModel."""
    adapter = Text2LoraModel.from_pretrained("nano").generate_lora("Return the city.")
    card = (adapter.save_pretrained(tmp_path / "city") / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    names: dict = {}
    exec(code.replace("PATH_OR_REPO_OF_THIS_ADAPTER", str(tmp_path / "city")), names)
    assert names["model"].peft_config["default"].r == adapter.spec.r


@pytest.mark.parametrize(
    "text",
    [
        "a: b",
        "---",
        "first\n---\nlicense: mit\n---\n# x",
        '"quoted" {{ braces }} {% raw %} {# no #}',
        "`code` | pipe ``` fence",
        "<script>alert(1)</script> &lt; <!--",
        "1. one *two* _three_ [four](http://x) ![five](y) $x$",
        "    indented\ttab \u2028 \u202e 🦀 ümläut",
    ],
)
def test_no_description_breaks_the_card(text: str) -> None:
    from markdown_it import MarkdownIt

    card = adapter_card(SPEC, {"description": text, "checkpoint": "a|b\n| c |"})
    assert ModelCard(card).data.library_name == "peft"
    assert ModelCard(card).data.license is None
    assert card_metadata(card)["description"] == text
    tokens = MarkdownIt("commonmark").enable("table").parse(ModelCard(card).text)
    plain = adapter_card(SPEC, {"description": "plain", "checkpoint": "a b"})
    assert [t.type for t in tokens] == [
        t.type for t in MarkdownIt("commonmark").enable("table").parse(ModelCard(plain).text)
    ]
    heading = next(tokens[i + 1] for i, t in enumerate(tokens) if t.type == "heading_open")
    assert {child.type for child in heading.children} <= {"text", "text_special"}
    assert "".join(child.content for child in heading.children) == " ".join(text.split())[:80].strip()


def test_what_is_no_card_of_ours_has_no_metadata() -> None:
    for text in ["", "# x", "---\ntags: [a\n---\n", "---\ntext2lora: [1]\n---\n", "---\n- a\n---\n"]:
        assert card_metadata(text) == {}


def test_a_damaged_card_is_not_taken_for_none(tmp_path: Path) -> None:
    """A colon in a text that someone wrote by hand: the description would be lost."""
    spec = LoraSpec(8, 16.0, ("q_proj",))
    folder = LoraAdapter({}, spec, {"description": "Return the city."}).save_pretrained(tmp_path / "city")
    card = folder / "README.md"
    card.write_text(card.read_text().replace("Return the city.", "Return: the city."))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"README\.md cannot be read: .* not YAML .*; correct it, or delete it"):
        LoraAdapter.from_pretrained(folder)


def test_cards_show_no_path_of_this_machine(tmp_path: Path) -> None:
    spec = LoraSpec(8, 16.0, ("q_proj",), base_model_name_or_path=str(tmp_path / "base"))
    metadata = {"checkpoint": "runs/mine/t2l", "encoder": "~/enc", "description": "/as/it/is"}
    card = adapter_card(spec, metadata, "me/mine")
    assert str(tmp_path) not in card
    assert "~" not in card
    assert "runs" not in card
    assert '"/as/it/is"' not in card
    assert 'from_pretrained(base, "me/mine")' in card
    assert card_metadata(card) == {"checkpoint": "t2l", "encoder": "enc", "description": "/as/it/is"}


def test_checkpoint_card_has_what_the_hub_reads(make_config) -> None:
    config = make_config(base_model_name_or_path="google/gemma-2-2b", encoder_name_or_path="/home/me/enc")
    card = ModelCard(checkpoint_card(config, 1234, "me/t2l", {"gsm8k/accuracy": 0.25, "loss": 1.5}))
    assert (card.data.library_name, card.data.base_model) == ("text2lora", "google/gemma-2-2b")
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in card.data.eval_results] == [
        ("gsm8k", "accuracy", 0.25),
        ("text2lora", "loss", 1.5),
    ]
    assert "1,234 parameters" in card.text
    assert "/home" not in str(card)


def hub_http_error(status: int, kind: type[errors.HfHubHTTPError] = errors.HfHubHTTPError, **headers: str) -> OSError:
    request = httpx2.Request("GET", "https://huggingface.co/a/b/resolve/main/x.json")
    return kind("hf_secret", response=httpx2.Response(status, request=request, headers=headers), server_message=None)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (hub_http_error(403, errors.GatedRepoError), "a/b is gated: ask for access at"),
        (hub_http_error(404, errors.RepositoryNotFoundError), "a/b is not on the Hub, or it is private"),
        (hub_http_error(404, errors.RevisionNotFoundError), "a/b has no revision 'v1'"),
        (hub_http_error(404, errors.RemoteEntryNotFoundError), "a/b has no x.json"),
        (hub_http_error(401), "the Hub does not accept the token"),
        (hub_http_error(403), "the Hub does not let you do this with a/b"),
        (hub_http_error(429, **{"Retry-After": "300"}), "try again in 300 s"),
        (hub_http_error(504), "problem with a/b (status 504)"),
        (hub_http_error(418), "the Hub refuses a/b (status 418)"),
        (errors.LocalTokenNotFoundError("hf_secret"), "you are not logged in"),
        (errors.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE is set"),
        (httpx2.ReadTimeout("x"), "did not answer in time"),
        (httpx2.ConnectError("x"), "cannot be reached"),
        (httpx2.LocalProtocolError("Illegal header value b'Bearer hf_secret'"), "the token for a/b cannot be sent"),
        (UnicodeEncodeError("ascii", "hf_secret\u00fc", 9, 10, "x"), "the token for a/b cannot be sent"),
        (errors.HFValidationError("x"), "expected a folder or USER/NAME"),
        (OSError("token hf_secret here"), r"a/b cannot be used on the Hub \(token \*\*\* here\)"),
    ],
)
def test_every_fault_of_the_hub_is_one_line_without_tokens(error: Exception, told: str) -> None:
    told = told if "\\" in told else re.escape(told)
    with pytest.raises(HubError, match=told) as caught, hub_errors("a/b", "v1", HubError):  # noqa: PT012
        try:
            raise error
        except Exception as inner:
            raise OSError("transformers says hf_secret" if "cannot be used" not in told else str(inner)) from inner
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_fault_that_is_not_the_hubs_is_not_explained() -> None:
    assert hub_fault(ValueError("x"), "a/b") is None


def test_hub_that_stays_busy_is_asked_four_times(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)

    def busy() -> None:
        raise hub_http_error(429, **{"Retry-After": "7"})

    with pytest.raises(errors.HfHubHTTPError):
        patiently(busy)
    assert waits == [7, 7, 7]


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
        monkeypatch.setattr("text2lora.files._swap", lambda one, two: False)
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
    monkeypatch.setattr("text2lora.files._swap", lambda one, two: False)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").touch()
    with atomic_folder(tmp_path / "there") as folder:
        (folder / "new").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["there", "new"]


def leave(write: Callable[[Path], AbstractContextManager[Path]], target: Path) -> Path:
    """What a process leaves that is killed while it writes."""
    before = set(target.parent.iterdir())
    if not (pid := os.fork()):
        with write(target) as temporary:
            if temporary.is_dir():
                (temporary / "half").touch()
            os._exit(9)
    os.waitpid(pid, 0)
    (left,) = set(target.parent.iterdir()) - before
    return left


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_killed_processes_left_is_swept_by_the_next_save_beside_it(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / ".mine-t2l-notes").touch()
    (tmp_path / "old").touch()
    with atomic_file(tmp_path / "now"):  # the processes below do not sweep, so soon after
        pass
    for _ in range(3):
        leave(atomic_folder, tmp_path / "one")
        leave(atomic_file, tmp_path / "two\nlines")
    assert len(list(tmp_path.iterdir())) == 9
    for write in (atomic_folder, atomic_file):
        monkeypatch.setattr("text2lora.files._swept", None)  # as in a new process
        with write(tmp_path / write.__name__) as mine, atomic_folder(tmp_path / "other"):
            monkeypatch.setattr("text2lora.files._swept", None)
            with atomic_file(tmp_path / "third"):
                assert mine.exists()  # of a process that is running
    names = [".mine-t2l-notes", "atomic_file", "atomic_folder", "now", "old", "other", "third"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_another_host_writes_stays_until_nothing_has_changed_for_a_week(tmp_path: Path, monkeypatch) -> None:
    left = leave(atomic_folder, tmp_path / "one")
    theirs = left.rename(left.with_name(left.name.replace(_host(), "0123abcd")))
    long_ago = time.time() - ABANDONED - 3600

    def swept() -> bool:
        monkeypatch.setattr("text2lora.files._swept", None)
        with atomic_file(tmp_path / "file"):
            pass
        return not theirs.exists()

    assert not swept()
    os.utime(theirs, (long_ago, long_ago))
    assert not swept()  # what is in it is new
    os.utime(theirs / "half", (long_ago, long_ago))
    assert swept()


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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_modes_are_found_without_a_moment_in_which_every_file_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's file would be readable by everybody."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the process's mask was changed"))
    assert _umask() >= 0


def test_a_folder_that_may_not_be_written_leaves_nothing_beside_what_replaces_it(tmp_path: Path) -> None:
    """Its files stayed there under a hidden name; for root, who may remove any file, they did not."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    (tmp_path / "a").chmod(0o555)
    with atomic_folder(tmp_path / "a") as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["new"]
