"""Many adapters in one run: named apart, resumable, each like one made alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import randomise
from transformers import BertModel

from text2lora import InvalidDescriptionError, LoraAdapter, OutputError, Text2LoraModel
from text2lora.batch import AdapterSettings, choose_shard, folder_name, read_descriptions, write_adapters
from text2lora.confidence import Calibration
from text2lora.encoder import check_description

TEXTS = ["upper case the city", "lower case", "the city, the city", "upper case the city!"]


@pytest.fixture
def model(checkpoint_dir: Path):
    return Text2LoraModel.from_pretrained(checkpoint_dir)


@pytest.fixture
def count_passes(model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of descriptions of each pass of the hypernetwork."""
    sizes: list[int] = []
    inner = model.generate_lora
    monkeypatch.setattr(model, "generate_lora", lambda texts, **kw: sizes.append(len(texts)) or inner(texts, **kw))
    return sizes


def test_every_folder_holds_what_the_description_alone_gives(model, tmp_path: Path) -> None:
    made = list(write_adapters(model, TEXTS, tmp_path, AdapterSettings(scale=0.5, fold_rslora=True)))
    assert [m.description for m in made] == TEXTS
    assert len({m.folder for m in made}) == 4
    for text, folder, skipped in made:
        assert not skipped
        adapter, alone = LoraAdapter.from_pretrained(folder), model.generate_lora(text, scale=0.5).folded()
        assert adapter.spec.scaling == alone.spec.scaling
        assert not adapter.spec.use_rslora
        for key, value in alone.weights.items():
            torch.testing.assert_close(adapter.weights[key], value, rtol=1e-4, atol=1e-5)


def test_a_broken_run_goes_on_where_it_stopped(model, tmp_path: Path, count_passes: list[int], monkeypatch) -> None:
    monkeypatch.setattr(type(model), "tasks_per_pass", 2)
    run = write_adapters(model, TEXTS, tmp_path)
    next(run)
    next(run)
    next(run)
    run.close()  # three are on disk
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert (len(before), count_passes) == (3, [2, 2])
    assert [m.skipped for m in write_adapters(model, TEXTS, tmp_path)] == [True, True, True, False]
    assert count_passes == [2, 2, 1]
    assert all(path.read_bytes() == data for path, data in before.items())
    assert all(m.skipped for m in write_adapters(model, TEXTS, tmp_path))


def test_other_settings_make_other_folders(model, tmp_path: Path) -> None:
    several = [
        AdapterSettings(),
        AdapterSettings(2.0),
        AdapterSettings(dtype=torch.bfloat16),
        AdapterSettings(1.0, None, True),
    ]
    for each in several:
        assert not next(write_adapters(model, TEXTS[:1], tmp_path, each)).skipped
    assert len(list(tmp_path.iterdir())) == len(several)


def test_whatever_decides_an_adapter_decides_its_folder(
    model, checkpoint_dir: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    """Two checkpoints of one name, one that was trained on in place, and another encoder."""

    def make(checkpoint: Path, **kwargs: object) -> tuple[bool, bool]:
        loaded = Text2LoraModel.from_pretrained(checkpoint, **kwargs)
        (made,) = write_adapters(loaded, TEXTS[:1], tmp_path / "out")
        weights, expected = LoraAdapter.from_pretrained(made.folder).weights, loaded.generate_lora(TEXTS[0]).weights
        return made.skipped, all(torch.equal(weights[key], value) for key, value in expected.items())

    for parent in "ab":
        shutil.copytree(checkpoint_dir, tmp_path / parent / "ck")
    assert make(tmp_path / "a" / "ck") == (False, True)
    assert make(tmp_path / "b" / "ck") == (True, True)  # a copy makes the same adapter
    randomise(model, seed=9)
    model.save_pretrained(tmp_path / "b" / "ck")
    assert make(tmp_path / "b" / "ck") == (False, True)
    assert make(tmp_path / "a" / "ck") == (True, True)
    shutil.copytree(encoder_dir, tmp_path / "encoder")
    assert make(tmp_path / "a" / "ck", encoder=str(tmp_path / "encoder")) == (True, True)  # the same one elsewhere
    other = BertModel.from_pretrained(encoder_dir)
    randomise(other, seed=9)
    other.save_pretrained(tmp_path / "encoder")
    assert make(tmp_path / "a" / "ck", encoder=str(tmp_path / "encoder")) == (False, True)
    Calibration(total=0.5, mean=0.25, least=0.125, bias=1.0).save(tmp_path / "a" / "ck")  # which adapters carry
    assert make(tmp_path / "a" / "ck") == (False, True)
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_what_is_there_is_made_again_by_force(model, tmp_path: Path) -> None:
    (made,) = write_adapters(model, TEXTS[:1], tmp_path)
    weights = made.folder / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(b"")
    assert [m.skipped for m in write_adapters(model, TEXTS[:1], tmp_path)] == [True]
    assert [m.skipped for m in write_adapters(model, TEXTS[:1], tmp_path, force=True)] == [False]
    assert weights.read_bytes() == good


def test_a_description_that_stands_twice_is_made_once(model, tmp_path: Path) -> None:
    assert len(list(write_adapters(model, ["lower case", " lower case\n", "lower case"], tmp_path))) == 1


def test_nothing_is_made_when_a_description_is_bad(model, tmp_path: Path) -> None:
    with pytest.raises(InvalidDescriptionError, match="the description is empty"):
        list(write_adapters(model, ["good", " "], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
def test_names_are_readable_safe_and_apart(texts: list[str]) -> None:
    good = []
    for text in texts:
        try:
            good.append(check_description(text))
        except InvalidDescriptionError:
            continue
    names = {folder_name(text, "", AdapterSettings()) for text in good}
    assert len(names) == len(set(good))
    for name in names:
        assert name == Path(name).name
        assert name.isascii()
        assert len(name) < 100
        assert not name.startswith((".", "-"))


def test_reads_lines_and_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first\n\n  second \nthird", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"description": "first", "id": 3}\n\n{"description": "zwei\\nZeilen"}\n')
    assert read_descriptions(tmp_path / "a.txt") == ["first", "second", "third"]
    assert read_descriptions(tmp_path / "a.jsonl") == ["first", "zwei\nZeilen"]
    (tmp_path / "b.txt").write_bytes("\ufefffirst\r\nzurück\r\n".encode())  # as Windows writes it
    assert read_descriptions(tmp_path / "b.txt") == ["first", "zurück"]
    (tmp_path / "b.txt").write_bytes("first\nzurück\n".encode("cp1252"))
    with pytest.raises(OutputError, match=r"b\.txt cannot be read \(line 2 is not UTF-8 text\): save it as UTF-8"):
        read_descriptions(tmp_path / "b.txt")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "good\nbad\x07\n", r"a\.txt line 2: the description has control characters \(U\+0007\)"),
        ("a.txt", "\n \n", r"a\.txt contains no description"),
        (
            "a.jsonl",
            '{"description": "good"}\n{"text": "x"}',
            r'a\.jsonl line 2 is not a JSON object with a "description"',
        ),
        ("a.jsonl", "plain words", r"a\.jsonl line 1 is not a JSON object"),
        ("a.jsonl", '["x"]', r"a\.jsonl line 1 is not a JSON object"),
        ("a.jsonl", '{"description": 3}', r"a\.jsonl line 1: a description must be a string, got int"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidDescriptionError, match=message):
        read_descriptions(tmp_path / name)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone\.txt cannot be read \(No such file"):
        read_descriptions(tmp_path / "gone.txt")
    (tmp_path / "latin.txt").write_bytes("Übung".encode("latin-1"))
    with pytest.raises(OutputError, match=r"latin\.txt cannot be read"):
        read_descriptions(tmp_path / "latin.txt")


def test_json_lines_may_hold_any_text(tmp_path: Path) -> None:
    texts = ["عربي", "emoji 🎈", "a" * 10_000, "tab\tand\nline"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"description": t}) for t in texts))
    assert read_descriptions(tmp_path / "a.jsonl") == texts


@given(st.lists(st.integers(), unique=True), st.integers(1, 9))
def test_every_description_falls_to_one_shard(numbers: list[int], count: int) -> None:
    texts = [f"task {number}" for number in numbers]
    shards = [choose_shard(texts, number, count) for number in range(1, count + 1)]
    assert sorted(text for shard in shards for text in shard) == sorted(texts)


def test_shards_are_of_like_size_and_keep_when_a_list_changes() -> None:
    texts = [f"task {number}" for number in range(4000)]
    shards = [choose_shard(texts, number, 4) for number in (1, 2, 3, 4)]
    assert all(900 < len(shard) < 1100 for shard in shards)
    changed = [*reversed(texts[1000:]), " new\n"]
    assert set(choose_shard(changed, 2, 4)) - {"new"} == set(shards[1]) - set(texts[:1000])


def test_shards_resume_and_together_make_what_one_machine_makes(model, tmp_path: Path) -> None:
    def run(number: int) -> list[bool]:
        return [made.skipped for made in write_adapters(model, choose_shard(TEXTS, number, 2), tmp_path / str(number))]

    first, second = run(1), run(2)
    assert len(first) + len(second) == len(TEXTS)
    assert not any(first + second)
    assert all(run(1) + run(2))
    list(write_adapters(model, TEXTS, tmp_path / "all"))
    names = sorted(path.name for number in "12" for path in (tmp_path / number).glob("*"))
    assert names == sorted(path.name for path in (tmp_path / "all").iterdir())


@pytest.mark.parametrize("name", ["d.csv", "d.json", "D.YAML", "d.json.gz"])
def test_a_file_of_another_kind_is_not_read_as_lines(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('id,description\n1,"Return the city."\n')
    with pytest.raises(OutputError, match="is not a file of lines: expected text with a description on each line"):
        read_descriptions(tmp_path / name)


@pytest.mark.parametrize("name", ["d.jsonl", "D.JSONL", "d.ndjson"])
def test_json_lines_are_known_by_any_of_their_endings(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"description": "Return the city."}\n')
    assert read_descriptions(tmp_path / name) == ["Return the city."]


def test_a_folder_without_weights_is_made_again(model, tmp_path: Path) -> None:
    (first,) = write_adapters(model, ["the city"], tmp_path)
    (first.folder / "adapter_model.safetensors").unlink()
    assert [made.skipped for made in write_adapters(model, ["the city"], tmp_path)] == [False]
    assert [made.skipped for made in write_adapters(model, ["the city"], tmp_path)] == [True]
