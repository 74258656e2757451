"""The data of training: tasks with descriptions and examples, and the embeddings of the descriptions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from text2lora.digest import digest
from text2lora.encoder import TextEncoder
from text2lora.files import atomic_file
from text2lora.language import Example

BLOCK = 4096
"""The number of descriptions that are sorted by length and embedded together."""


class Probe(NamedTuple):
    """A description to validate with, and examples of what its adapter should do."""

    description: str
    examples: Sequence[Example]


@dataclass(frozen=True)
class TaskDraw:
    """One task of a training step: the row of its description, and examples."""

    description: int
    examples: Sequence[Example]


class TaskSource(Protocol):
    """Tasks to train on. `descriptions` holds the descriptions of all tasks.

    A source may also have `task_names`, the name of each description's task; then the checkpoint stores statistics of
    the descriptions. It may also have `probes`, which maps the name of each validation split to a list of `Probe`.
    """

    descriptions: list[str]

    def draw(self, rng: random.Random, examples: int) -> TaskDraw:
        """Draw a task, one of its descriptions, and that many examples."""
        ...


class DescriptionBank:
    """The embeddings of many descriptions, computed once; in half precision if that can hold them.

    Args:
        encoder: The text encoder; it may return one vector for each text or the states of all tokens.
        descriptions: The texts to embed.
        cache: A safetensors file that stores the result; it is reused if texts and encoder are the same.
    """

    def __init__(self, encoder: TextEncoder, descriptions: Sequence[str], cache: Path | None = None):
        key = digest([encoder.digest, list(descriptions)]) if cache else ""
        if cache and key == _cache_key(cache):
            stored = load_file(cache)
            self._states, self._lengths = stored["states"], stored["lengths"]
        else:
            blocks, lengths = [], []
            size, batch_size = (512, 64) if encoder.pooling == "none" else (BLOCK, 256)  # token states need memory
            for start in range(0, len(descriptions), size):
                encoded = encoder.encode(descriptions[start : start + size], batch_size)
                encoded = encoded.reshape(len(encoded), -1, encoded.shape[-1])  # [n, tokens, d], one token if pooled
                is_token = encoded.ne(0).any(-1) | (encoded.shape[1] == 1)
                blocks.append(_narrow(encoded[is_token]))
                lengths.append(is_token.sum(1))
            self._lengths = torch.cat(lengths).cpu()
            self._states = torch.cat(blocks).cpu()  # [all tokens, d]
            if cache:
                with atomic_file(cache) as temporary:
                    save_file({"states": self._states, "lengths": self._lengths}, temporary, metadata={"key": key})
        self._starts = self._lengths.cumsum(0) - self._lengths
        self._pooled = encoder.pooling != "none"

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, rows: Sequence[int]) -> torch.Tensor:
        """Return float32 task embeddings [n, d], or token states [n, tokens, d] padded with zeros."""
        if self._pooled:
            return self._states[torch.as_tensor(rows)].float()
        picked = [self._states[self._starts[i] : self._starts[i] + self._lengths[i]].float() for i in rows]
        return torch.nn.utils.rnn.pad_sequence(picked, batch_first=True)


def _narrow(states: torch.Tensor) -> torch.Tensor:
    """A copy in half precision, or in full if a number is too large, as some encoders write without normalisation."""
    half = states.half()
    return half if half.isfinite().all() else states.clone()


def _cache_key(cache: Path) -> str | None:
    """The key that a cache file was written with; None if there is no readable file."""
    try:
        with safe_open(cache, "pt") as file:
            return (file.metadata() or {}).get("key")
    except (OSError, SafetensorError):
        return None


def find_others(tasks: Sequence[object]) -> list[int]:
    """For each row the next one of another task, from half the list further on; the row itself if there is none.

    The rows of a task are neighbours, so that half the list away is mostly another task.
    """
    count, found = len(tasks), []
    for row in range(count):
        places = ((row + count // 2 + i) % count for i in range(count))
        found.append(next((place for place in places if tasks[place] != tasks[row]), row))
    return found


def perturb(task_emb: torch.Tensor, noise: float, token_dropout: float) -> torch.Tensor:
    """Perturb task embeddings in training: add Gaussian noise to each feature and drop whole tokens.

    Args:
        task_emb: Task embeddings [n, d], or token states [n, tokens, d] with rows of zeros as padding.
        noise: The standard deviation of the noise.
        token_dropout: The probability of dropping a token; token states only. The first token is never dropped.
    """
    is_token = task_emb.ne(0).any(-1, keepdim=True)
    if token_dropout and task_emb.ndim == 3:
        keep = torch.rand(is_token.shape) >= token_dropout
        keep[:, 0] = True
        is_token = is_token & keep
    return (task_emb + noise * torch.randn_like(task_emb)) * is_token
