from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from text2lora import LoraAdapter, OutputError, Text2LoraModel
from text2lora.export import export_zip, zip_adapter


@pytest.fixture
def adapter(t2l: Text2LoraModel) -> LoraAdapter:
    return t2l.generate_lora("Return the city.")


def test_unpacked_zip_loads_with_peft(
    adapter: LoraAdapter, base: PreTrainedModel, ids: torch.Tensor, tmp_path: Path
) -> None:
    with zipfile.ZipFile(export_zip(adapter, tmp_path / "city.zip")) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "city")
    plain = base(ids).logits
    loaded = PeftModel.from_pretrained(base, tmp_path / "city").eval()(ids).logits
    again = LoraAdapter.from_pretrained(tmp_path / "city")
    assert again.metadata == adapter.metadata
    assert all(torch.equal(weight, adapter.weights[key]) for key, weight in again.weights.items())
    assert not torch.allclose(loaded, plain)


def test_bytes_repeat_and_tell_nothing_of_this_machine(adapter: LoraAdapter, tmp_path: Path, base_dir: Path) -> None:
    data = zip_adapter(adapter)
    assert data == zip_adapter(adapter)
    assert export_zip(adapter, tmp_path / "a" / "city.zip").read_bytes() == data
    assert adapter.spec.base_model_name_or_path == str(base_dir)
    assert str(base_dir.parent).encode() not in data


def test_names_in_the_zip_are_plain(adapter: LoraAdapter) -> None:
    with zipfile.ZipFile(io.BytesIO(zip_adapter(adapter))) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644}


def test_only_files_are_replaced(adapter: LoraAdapter, tmp_path: Path) -> None:
    (tmp_path / "city.zip").write_text("old")
    assert zipfile.is_zipfile(export_zip(adapter, tmp_path / "city.zip"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is not a file"):
        export_zip(adapter, tmp_path / "folder")
    with pytest.raises(OutputError, match="is not a file"):
        export_zip(adapter, "/dev/null")
