"""Digests of everything that decides a result, for the names of files and the keys of caches."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase


def digest(values: object, tensors: Mapping[str, torch.Tensor] | None = None) -> str:
    """The SHA-256, in hexadecimal, of values and tensors, to the last bit.

    Each tensor enters by its CRC-32, which changes with every single weight and misses any other change once in four
    billion times. So a large text encoder is read at the speed of the memory, where SHA-256 would take seconds.
    Values that JSON cannot hold count as their text. The order of the tensors does not matter.
    """
    tensors = tensors or {}
    names = sorted(tensors)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # zlib lets other threads run meanwhile
        sums = list(pool.map(_checksum, (tensors[name] for name in names)))
    shapes = [[name, list(tensors[name].shape), str(tensors[name].dtype)] for name in names]
    return hashlib.sha256(json.dumps([values, shapes, sums], sort_keys=True, default=str).encode()).hexdigest()


def config_values(config: PreTrainedConfig) -> dict[str, Any]:
    """What a config says about its model, without its path and the version of transformers."""
    return {
        key: value for key, value in config.to_dict().items() if key not in ("_name_or_path", "transformers_version")
    }


def tokenizer_values(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What decides a tokenizer's output, without its truncation and padding, which each call changes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {"vocabulary": tokenizer.get_vocab()}
    return {key: value for key, value in json.loads(backend.to_str()).items() if key not in ("truncation", "padding")}


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
