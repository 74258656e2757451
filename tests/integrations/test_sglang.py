"""SGLang gets from the tensors and the config of an adapter what PEFT gets from its folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

PAGE = Path(__file__).parents[2] / "docs/how-to/serve.md"


def test_the_code_of_the_page_gives_sglang_the_updates_of_peft(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    found = names["engine"].updates["city"]
    t2l = names["t2l"]
    assert t2l.config.use_rslora  # or folding would not be tested
    adapter = t2l.generate_lora("Return the city in capitals.")
    assert json.loads(json.dumps(names["adapter"].spec.to_json())) == names["adapter"].spec.to_json()
    model = PeftModel.from_pretrained(t2l.load_base_model(), adapter.save_pretrained(tmp_path / "city"))
    deltas = {
        name: module.get_delta_weight("default")
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert deltas.keys() == found.keys()
    for name, delta in deltas.items():
        torch.testing.assert_close(found[name], delta, rtol=1e-4, atol=1e-6)
