"""What smol's training needs travels in parts to a machine without a network."""

from __future__ import annotations

import io
import runpy
import tarfile
from pathlib import Path

import pytest
import yaml

PACK = Path(__file__).parents[1] / "examples/smol/pack.py"


def test_parts_put_together_hold_tasks_recipe_and_packages(tmp_path: Path) -> None:
    script = runpy.run_path(str(PACK))
    script["pack"].__globals__["PACKAGES"] = ("typer",)
    (tmp_path / "train.jsonl").write_text('{"name": "a"}\n', encoding="utf-8")
    script["pack"].__globals__["MEGABYTE"] = 10_000
    parts = script["pack"](tmp_path / "train.jsonl", tmp_path / "parts", 1)
    assert len(parts) > 1
    assert all(part.stat().st_size <= 10_000 for part in parts)
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as tar:
        names = tar.getnames()
        assert {"train.jsonl", "continue.yaml", "typer/main.py"} <= set(names)
        assert not [name for name in names if "__pycache__" in name]
        recipe = yaml.safe_load(tar.extractfile("continue.yaml"))
    assert recipe["tasks"] == [{"path": "there/train.jsonl"}]


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    script = runpy.run_path(str(PACK))
    script["pack"].__globals__["PACKAGES"] = ("no_such_package",)
    (tmp_path / "train.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(SystemExit, match="the package no_such_package is not installed"):
        script["pack"](tmp_path / "train.jsonl", tmp_path / "parts", 1)
    assert not list((tmp_path / "parts").iterdir())
