"""Whatever is given: a correct result or one clear error, and never half a folder."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peft import PeftConfig
from test_adapter import logits, lora_layers, make_adapter

from text2lora import LoraAdapter, Text2LoraError, Text2LoraModel

few = settings(max_examples=40)
characters = st.characters(codec=None) | st.characters(categories=["Cs", "Cc", "Cf", "Zs", "So"])


@pytest.fixture(scope="module")
def model(checkpoint_dir: Path) -> Text2LoraModel:
    return Text2LoraModel.from_pretrained(checkpoint_dir)


def one_line(call: Callable[[], object]) -> object | None:
    """The result, or None after a library error of one line."""
    try:
        return call()
    except Text2LoraError as error:
        message = str(error)
    assert message
    assert len(message.splitlines()) == 1
    return None


@few
@given(st.text(characters, max_size=40) | st.none() | st.integers() | st.binary())
@example("שלום עולם: \u202eabc")
@example("🏳️‍🌈 " * 30)
@example("\ud800")
@example("\u200b")
@example("{description} {0} %s \\ ' \"")
@example("﷽" * 5000)
@example("word " * 60_000)
def test_any_description(model: Text2LoraModel, text: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = one_line(lambda: model.generate_lora(text).save_pretrained(Path(folder) / "adapter"))
        if made is None:
            assert list(Path(folder).iterdir()) == []
            assert not isinstance(text, str) or not text.strip() or any(unicodedata.category(c) in "CcCs" for c in text)
        else:
            weights = LoraAdapter.from_pretrained(made).weights
            assert all(value.isfinite().all() for value in weights.values())


@few
@given(st.floats() | st.integers() | st.text(max_size=3) | st.none() | st.sampled_from([10**400, 1e38, 1e300, 5e-324]))
def test_any_scale(model: Text2LoraModel, scale: object) -> None:
    adapter = one_line(lambda: model.generate_lora("a", scale=scale))
    if adapter is None:
        assert not isinstance(scale, int | float) or not 0 <= scale < 1e37
    else:
        assert adapter.spec.lora_alpha == 8.0 * float(scale)
        with tempfile.TemporaryDirectory() as folder:
            adapter.save_pretrained(Path(folder) / "adapter", fold_rslora=True)
            config = PeftConfig.from_pretrained(Path(folder) / "adapter")
        assert config.lora_alpha == pytest.approx(16.0 * float(scale))
        assert config.lora_alpha / config.r < torch.finfo(torch.float32).max


DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)


@settings(few, max_examples=60)
@given(st.sampled_from([*DTYPES, "float32", 3]))
def test_any_dtype(dtype: object) -> None:
    adapter = make_adapter()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "adapter"
        if one_line(lambda: adapter.save_pretrained(target, dtype=dtype)) is None:
            assert list(Path(folder).iterdir()) == []
            assert dtype not in (torch.float32, torch.bfloat16, torch.float16)
        else:
            again = LoraAdapter.from_pretrained(target)
            assert all(torch.equal(again.weights[key], value.to(dtype)) for key, value in adapter.weights.items())


words = st.sampled_from("q_proj weight bias default model layers lora_A base_layer A keys type T to __base__".split())


@few
@given(st.text(characters, max_size=6) | words | st.integers())
def test_any_adapter_name(load_base, ids, name: object) -> None:
    base = load_base()
    live = make_adapter(1).apply_to(base, "first")
    made = one_line(lambda: make_adapter(2).apply_to(live, name))
    if made is None:
        assert list(live.peft_config) == ["first"]
        assert torch.equal(logits(live, ids), logits(make_adapter(1).apply_to(load_base()), ids))
    else:
        assert set(made.peft_config) == {"first", name}
        assert torch.equal(logits(made, ids), logits(make_adapter(2).apply_to(load_base()), ids))
        make_adapter(3).apply_to(live, "first")
        live.set_adapter(name, inference_mode=True)
        assert torch.equal(logits(made, ids), logits(make_adapter(2).apply_to(load_base()), ids))
    assert len(lora_layers(base)) == 4


@settings(few, max_examples=80)
@example("a" * 300)
@given(st.text(characters, min_size=1, max_size=30))
def test_any_folder_name(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "parent" / "".join(name.replace("/", "-").replace("..", "dots").splitlines())
        made = one_line(lambda: make_adapter().save_pretrained(target))
        if made is None:
            assert not target.parent.exists() or list(target.parent.iterdir()) == []
        else:
            assert LoraAdapter.from_pretrained(made).spec.r == 2
