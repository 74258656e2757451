"""Shards: many adapters in one file, each read alone, written resumably, on a disk or behind a URL."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from text2lora import CheckpointError, InvalidDescriptionError, LoraAdapter, OutputError, Text2LoraModel
from text2lora.batch import AdapterSettings, ShardWriter
from text2lora.cli import app
from text2lora.errors import InvalidArgumentError, InvalidInputError
from text2lora.shards import KEY, Shard, find_shards

TEXTS = ["upper case the city", "lower case", "the city, the city", "upper case the city!", "größer 🏙"]


@pytest.fixture
def model(checkpoint_dir: Path) -> Text2LoraModel:
    return Text2LoraModel.from_pretrained(checkpoint_dir)


def write_all(writer: ShardWriter, per_shard: int = 2, texts: list[str] = TEXTS) -> list[str]:
    return [writer.write(part) for part in writer.plan(texts, per_shard)]


def names(output: str | Path) -> list[str]:
    return [name for shard in find_shards(output) for name in shard.facts.descriptions]


@pytest.mark.parametrize("place", ["{folder}/new/adapters", "memory://{folder}/adapters"])
@pytest.mark.parametrize(
    "settings",
    [
        AdapterSettings(),
        AdapterSettings(0.5, torch.bfloat16, fold_rslora=True),
        AdapterSettings(dtype=torch.float16),
    ],
)
def test_an_adapter_out_of_a_shard_is_the_one_made_alone(
    model, place: str, settings: AdapterSettings, tmp_path: Path
) -> None:
    output = place.format(folder=tmp_path)
    writer = ShardWriter(model, output, settings)
    assert len(write_all(writer)) == 3
    assert sorted(names(output)) == sorted(map(writer.name, TEXTS))
    for text in TEXTS:
        read = LoraAdapter.from_pretrained(output, writer.name(text))
        alone = model.generate_lora(text, scale=settings.scale).to(settings.dtype)
        alone = alone.folded() if settings.fold_rslora else alone
        assert read.spec == alone.spec
        assert read.metadata == alone.metadata
        assert read.weights.keys() == alone.weights.keys()
        for key, weight in alone.weights.items():
            assert read.weights[key].dtype == weight.dtype
            torch.testing.assert_close(read.weights[key], weight, rtol=1e-2 if settings.dtype else 1e-4, atol=1e-4)


def test_peft_loads_what_a_shard_held(model, base_dir: Path, tmp_path: Path) -> None:
    writer = ShardWriter(model, str(tmp_path / "adapters"))
    (shard,) = write_all(writer, per_shard=9)
    read = LoraAdapter.from_pretrained(shard, writer.name(TEXTS[1]))
    read.save_pretrained(tmp_path / "one")
    model.generate_lora(TEXTS[1]).save_pretrained(tmp_path / "alone")
    ids, logits = torch.tensor([[5, 6, 7, 8]]), []
    for folder in ("one", "alone"):
        base = AutoModelForCausalLM.from_pretrained(base_dir)
        logits.append(PeftModel.from_pretrained(base, tmp_path / folder)(ids).logits)
        logits.append(base.base_model(ids).last_hidden_state) if folder == "alone" else None
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_no_path_of_this_machine_goes_to_the_hub(model, base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr("text2lora.batch.write_shard", lambda path, weights, facts: written.append(facts))
    ShardWriter(model, "hf://datasets/me/many").write(TEXTS)
    (facts,) = written
    assert facts.spec.base_model_name_or_path is None
    assert str(base_dir) not in str(facts)


def test_only_the_rows_of_an_adapter_are_read(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ShardWriter(model, f"memory://{tmp_path}")
    (path,) = write_all(writer, per_shard=9)
    shard, read = Shard.open(path), []
    files, _ = fsspec.url_to_fs(path)
    inner = files.cat_file
    monkeypatch.setattr(type(files), "cat_file", lambda self, *place: read.append(place[2] - place[1]) or inner(*place))
    weights = shard.read(writer.name(TEXTS[2]))
    assert sum(read) == sum(weight.nbytes for weight in weights.values())


def test_a_file_system_may_have_arguments_of_its_own(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one of S3's is a version."""
    monkeypatch.setattr("text2lora.shards.FIRST_READ", 100)
    writer = ShardWriter(model, f"memory://{tmp_path}")
    path = writer.write(TEXTS)
    files, _ = fsspec.url_to_fs(path)
    inner = files.cat_file

    def cat_file(self: object, place: str, *, start: int, end: int) -> bytes:
        return inner(place, start, end)

    monkeypatch.setattr(type(files), "cat_file", cat_file)
    assert list(Shard.open(path).facts.descriptions) == list(map(writer.name, TEXTS))


def test_a_broken_run_goes_on_and_a_list_that_grows_makes_only_what_is_new(model, tmp_path: Path) -> None:
    writer = ShardWriter(model, str(tmp_path))
    writer.write(writer.plan(TEXTS, 2)[0])  # and then it was broken off
    assert writer.plan(TEXTS, 3) == [TEXTS[2:]]
    write_all(writer, 3)
    assert writer.plan(TEXTS) == []
    assert writer.plan(["a new one", *TEXTS, "a new one"]) == [["a new one"]]
    assert ShardWriter(model, str(tmp_path), AdapterSettings(2.0)).plan(TEXTS) == [TEXTS]
    assert sorted(names(tmp_path)) == sorted(map(writer.name, TEXTS))


def test_a_batch_that_is_written_twice_is_one_shard_of_the_same_bytes(model, tmp_path: Path) -> None:
    one, two = (ShardWriter(model, str(tmp_path / name)) for name in "ab")
    paths = [Path(one.write(TEXTS)), Path(one.write(TEXTS)), Path(two.write(TEXTS))]
    assert paths[0] == paths[1]
    assert paths[0].name == paths[2].name
    assert paths[0].read_bytes() == paths[2].read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == [paths[0].name]


def test_a_shard_that_is_cut_off_is_made_again(model, tmp_path: Path) -> None:
    """As a file system without whole uploads may leave it."""
    writer = ShardWriter(model, str(tmp_path / "adapters"))
    path = Path(writer.write(TEXTS))
    whole = path.read_bytes()
    for length in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="not a complete shard"):
            LoraAdapter.from_pretrained(path, writer.name(TEXTS[0]))
        assert writer.plan(TEXTS) == [TEXTS]
        assert writer.write(TEXTS) == str(path)
        assert path.read_bytes() == whole


def test_one_machine_names_adapters_for_all(model, tmp_path: Path) -> None:
    """Where the encoder is held in another dtype on another processor, its digest is another."""
    first = ShardWriter(model, str(tmp_path))
    model.encoder.model.bfloat16()
    second = ShardWriter(model, str(tmp_path), decided=first.decided)
    assert ShardWriter(model, str(tmp_path)).name(TEXTS[0]) != first.name(TEXTS[0]) == second.name(TEXTS[0])


def test_shards_are_of_a_size(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text2lora.batch.SHARD_BYTES", 2 * model.adapter_bytes)
    assert [len(part) for part in ShardWriter(model, str(tmp_path)).plan(TEXTS)] == [2, 2, 1]
    half = ShardWriter(model, str(tmp_path), AdapterSettings(dtype=torch.bfloat16))
    assert [len(part) for part in half.plan(TEXTS)] == [4, 1]


def test_says_what_cannot_be_read(model, tmp_path: Path) -> None:
    writer = ShardWriter(model, str(tmp_path / "adapters"))
    path = writer.write(TEXTS)
    with pytest.raises(CheckpointError, match="contains many adapters, and no name is given"):
        LoraAdapter.from_pretrained(tmp_path / "adapters")
    with pytest.raises(CheckpointError, match=f"not 'mine': name one as `subfolder`, such as '{writer.name(TEXTS[0])}"):
        LoraAdapter.from_pretrained(path, "mine")
    with pytest.raises(CheckpointError, match="contains no shards"):
        LoraAdapter.from_pretrained("memory://nothing/here", "mine")
    with pytest.raises(CheckpointError, match="cannot be used"):
        LoraAdapter.from_pretrained("nosuch://bucket/adapters", "mine")
    with pytest.raises(CheckpointError, match="does not exist"):
        LoraAdapter.from_pretrained("shard-1.safetensors", "mine")
    with pytest.raises(InvalidInputError, match=r"per_shard is 0"):
        writer.plan(TEXTS, 0)
    with pytest.raises(InvalidDescriptionError):
        writer.plan(["lower case", " "])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        ShardWriter(model, str(tmp_path / "file" / "adapters")).write(TEXTS)


@pytest.mark.parametrize("wrong", ["version", "rows", "spec", "module"])
def test_refuses_a_shard_that_was_tampered_with(model, tmp_path: Path, wrong: str) -> None:
    writer = ShardWriter(model, str(tmp_path))
    path = writer.write(TEXTS)
    shard, tensors = Shard.open(path), load_file(path)
    facts = {
        "version": 2 if wrong == "version" else 1,
        "spec": vars(shard.facts.spec) | ({"r": -1} if wrong == "spec" else {}),
        "paths": {} if wrong == "module" else shard.facts.paths,
        "metadata": {},
        "descriptions": {"one": "only"} if wrong == "rows" else shard.facts.descriptions,
    }
    save_file(tensors, path, {KEY: json.dumps(facts)})
    with pytest.raises(CheckpointError, match="not a complete shard of adapters"):
        LoraAdapter.from_pretrained(path, writer.name(TEXTS[0]))


def test_folders_of_adapters_and_shards_may_lie_side_by_side(model, tmp_path: Path) -> None:
    writer = ShardWriter(model, str(tmp_path))
    writer.write(TEXTS[:2])
    model.generate_lora(TEXTS[2]).save_pretrained(tmp_path / "alone")
    assert LoraAdapter.from_pretrained(tmp_path, "alone").metadata["description"] == TEXTS[2]
    assert LoraAdapter.from_pretrained(tmp_path, writer.name(TEXTS[0])).metadata["description"] == TEXTS[0]
    shutil.rmtree(tmp_path / "alone")


def test_a_description_that_occurs_twice_has_one_row(model, tmp_path: Path) -> None:
    writer = ShardWriter(model, str(tmp_path))
    writer.write([TEXTS[0], f"{TEXTS[0]} ", TEXTS[1], TEXTS[0]])
    assert names(tmp_path) == list(map(writer.name, TEXTS[:2]))
    read, alone = LoraAdapter.from_pretrained(tmp_path, writer.name(TEXTS[1])), model.generate_lora(TEXTS[1])
    for key, weight in alone.weights.items():
        torch.testing.assert_close(read.weights[key], weight, rtol=1e-5, atol=1e-6)


def test_info_shows_an_adapter_out_of_a_shard(model, tmp_path: Path) -> None:
    write_all(writer := ShardWriter(model, tmp_path / "many"))
    name = writer.name(TEXTS[0])
    shown = CliRunner().invoke(app, ["info", str(tmp_path / "many"), "--subfolder", name, "--json"])
    assert json.loads(shown.output)["description"] == TEXTS[0]
    missing = CliRunner().invoke(app, ["info", str(tmp_path / "many")])
    assert isinstance(missing.exception, CheckpointError)
    assert "name one as" in str(missing.exception)


def test_dtypes_that_no_adapter_can_have_are_refused_as_in_folders(model, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"dtype is torch\.int8: expected one of"):
        AdapterSettings(dtype=torch.int8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e3)
    with pytest.raises(CheckpointError, match="too large for float16: choose bfloat16"):
        ShardWriter(model, tmp_path / "out", AdapterSettings(dtype=torch.float16)).write(["the city"])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_damaged_shard_is_not_hidden(model, tmp_path: Path) -> None:
    (path,) = write_all(ShardWriter(model, tmp_path / "many"), per_shard=9)
    name = names(tmp_path / "many")[0]
    Path(path).write_bytes(Path(path).read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is not a complete shard"):
        LoraAdapter.from_pretrained(tmp_path / "many", name)


def test_the_name_of_an_adapter_is_no_folder(model, tmp_path: Path) -> None:
    write_all(writer := ShardWriter(model, tmp_path / "many"))
    with pytest.raises(CheckpointError, match=r"does not exist: name the shards in .* as `subfolder`"):
        LoraAdapter.from_pretrained(tmp_path / "many" / writer.name(TEXTS[0]))
