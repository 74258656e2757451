"""What is done where the processor has no half-precision arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from text2lora import TextEncoder, processor
from text2lora.base import load_base_with_tokenizer
from text2lora.evaluation.backends import TransformersBackend
from text2lora.linear import Linear
from text2lora.processor import host_memory, is_slow, widen
from text2lora.training.engine import EngineConfig, prepare_base, start_engine


@pytest.fixture
def capabilities(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bool]]:
    """Of the processor; oneDNN takes everything, as it does with AVX-512."""
    found: dict[str, bool] = {"avx512_f": True}
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: found, raising=False)
    monkeypatch.setattr(processor, "onednn_dtypes", lambda: (torch.float32, torch.bfloat16, torch.float16))
    is_slow.cache_clear()
    yield found
    is_slow.cache_clear()


def test_bfloat16_is_slow_without_instructions_for_it(capabilities: dict[str, bool]) -> None:
    assert is_slow(torch.bfloat16)
    assert is_slow(torch.float16)
    assert not is_slow(torch.float32)
    assert not is_slow(torch.bfloat16, "cuda")
    capabilities["avx512_bf16"] = True
    is_slow.cache_clear()
    assert not is_slow(torch.bfloat16)
    assert is_slow(torch.float16)


def test_bfloat16_is_slow_where_pytorch_does_not_use_it(
    capabilities: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities["bf16"] = True
    monkeypatch.setattr(processor, "onednn_dtypes", lambda: (torch.float32,))
    assert is_slow(torch.bfloat16)


def test_a_model_is_widened_where_its_dtype_is_slow(
    capabilities: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def model() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(3, 4)).to(torch.bfloat16)

    narrow = model()
    weight = narrow[0].weight.detach().clone()
    wide = widen(narrow)
    assert wide[0].weight.dtype == torch.float32
    assert torch.equal(wide[0].weight, weight.float())
    monkeypatch.setattr(processor, "host_memory", lambda: 70)  # 64 bytes are more than 80 % of it
    assert widen(model())[0].weight.dtype == torch.bfloat16
    monkeypatch.undo()
    monkeypatch.setattr(processor, "is_slow", lambda dtype, device: False)
    assert widen(model())[0].weight.dtype == torch.bfloat16


def test_a_model_that_is_partly_elsewhere_stays(capabilities: dict[str, bool]) -> None:
    model = torch.nn.ModuleList([torch.nn.Linear(3, 4), torch.nn.Linear(3, 4, device="meta")]).to(torch.bfloat16)
    assert widen(model)[0].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("rows", [1, 40, 300])
def test_half_precision_products_are_right(monkeypatch: pytest.MonkeyPatch, bias: bool, slow: bool, rows: int) -> None:
    monkeypatch.setattr("text2lora.linear.is_slow", lambda dtype: slow)
    monkeypatch.setattr("text2lora.linear.WIDENED", 256 * 30)  # three pieces, the last one smaller
    layer = Linear(30, 600, bias=bias).to(torch.bfloat16)
    x = torch.randn(2, rows, 30).to(torch.bfloat16)
    with torch.no_grad():
        found, exact = (
            layer(x),
            torch.nn.functional.linear(
                x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double()
            ),
        )
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.double(), exact, rtol=0.02, atol=0.02)


def test_everything_that_computes_widens_what_was_saved_in_bfloat16(
    capabilities: dict[str, bool], base_dir: Path, encoder_dir: Path, make_model, load_base, tmp_path: Path
) -> None:
    base, encoder = tmp_path / "base", tmp_path / "encoder"
    for source, folder, auto in ((base_dir, base, AutoModelForCausalLM), (encoder_dir, encoder, AutoModel)):
        auto.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    t2l = make_model(base_model_name_or_path=str(base), encoder_name_or_path=str(encoder), encoder_dtype="bfloat16")
    engine = EngineConfig(mixed_precision="bf16", device="cpu")
    for name, wide, dtype in (("slow", True, torch.float32), ("native", False, torch.bfloat16)):
        capabilities["avx512_bf16"] = not wide
        is_slow.cache_clear()
        adapter = t2l.generate_lora(task_emb=torch.randn(1, 24))[0]
        accelerator = start_engine(engine, tmp_path)
        found = {
            "load_base_model": t2l.load_base_model(),
            "t2l run": load_base_with_tokenizer(*adapter.spec.base())[0],
            "t2l eval": TransformersBackend.from_names(str(base)).model,
            "encoder": TextEncoder.from_config(t2l.config).model,
            "training": prepare_base(load_base(dtype=torch.bfloat16), engine, accelerator),
        }
        assert {name: model.dtype for name, model in found.items()} == dict.fromkeys(found, dtype), name
        assert accelerator.mixed_precision == ("no" if wide else "bf16")
        AcceleratorState._reset_state(True)
    capabilities["avx512_bf16"] = False
    is_slow.cache_clear()
    asked = t2l.load_base_model(dtype=torch.bfloat16), TransformersBackend.from_names(str(base), dtype=torch.bfloat16)
    assert [asked[0].dtype, asked[1].model.dtype] == [torch.bfloat16] * 2


def test_memory_is_what_a_container_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = host_memory()
    (tmp_path / "limit").write_text("1000000\n")
    monkeypatch.setattr(processor, "Path", lambda file: tmp_path / "limit" if "memory.max" in file else Path(file))
    assert host_memory() == 1_000_000 < whole
