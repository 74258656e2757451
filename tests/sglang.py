"""A stand-in for SGLang's engine, which reads adapters as SGLang does: of the config, only what is used here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


class Engine:
    """Keeps the update of the weight of each module, by adapter.

    Attributes:
        updates: By adapter and module path, alpha / r * B A; whether a config says rsLoRA is not read.
    """

    def __init__(
        self, *, model_path: str, enable_lora: bool, max_lora_rank: int, lora_target_modules: Sequence[str]
    ) -> None:
        assert enable_lora
        self._max_rank, self._modules = max_lora_rank, set(lora_target_modules)
        self.model_path, self.updates = model_path, dict[str, dict[str, torch.Tensor]]()

    def load_lora_adapter_from_tensors(
        self,
        lora_name: str,
        tensors: Sequence[tuple[str, torch.Tensor]],
        config_dict: Mapping[str, Any],
        load_format: str | None = None,
    ) -> None:
        """Add an adapter."""
        assert config_dict["peft_type"].lower() == "lora"
        assert set(config_dict["target_modules"]) <= self._modules
        assert config_dict["r"] <= self._max_rank
        scaling = config_dict["lora_alpha"] / config_dict["r"]
        factors = dict(tensors)
        self.updates[lora_name] = {
            key.removesuffix(".lora_A.weight"): scaling * factors[key.replace("lora_A", "lora_B")] @ a
            for key, a in factors.items()
            if "lora_A" in key
        }
