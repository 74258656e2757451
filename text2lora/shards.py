"""Shards: safetensors files with many LoRAs, each of which can be read alone, from a disk or a URL that fsspec knows.

A shard needs no other file. For each target module, it contains A [n, layers, r, in] and B [n, layers, out, r] of its n
LoRAs, as `q_proj.lora_A` and `q_proj.lora_B`. The file's header contains what PEFT needs to know about them, and the
name and the description of each row.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save_file

from text2lora.errors import CheckpointError, shown
from text2lora.files import atomic_url, file_system, first_line
from text2lora.lora import LoraSpec, LoraWeights, lora_key

KEY, VERSION = "text2lora", 1
PATTERN = "shard-{}.safetensors"
MAX_HEADER = 100_000_000
"""Bytes, of safetensors."""
FIRST_READ = 2**17
"""Bytes that hold the headers of most shards, so that one request reads them."""


@dataclass(frozen=True)
class ShardFacts:
    """What a shard says about its LoRAs.

    Attributes:
        spec: the spec of all LoRAs.
        paths: the path of each target module in the base model, with `{layer}` for the layer's number.
        metadata: where the LoRAs come from.
        descriptions: the description of each LoRA by its name, in the order of the rows.
    """

    spec: LoraSpec
    paths: Mapping[str, str]
    metadata: Mapping[str, str]
    descriptions: Mapping[str, str]


@dataclass(frozen=True)
class Shard:
    """A shard that exists.

    Attributes:
        path: the path or URL of the file.
        facts: what the shard says about its LoRAs.
        tensors: the dtype, shape and place of each tensor, from the file's header.
        start: the position in the file where the tensors start, in bytes.
    """

    path: str
    facts: ShardFacts
    tensors: Mapping[str, Mapping[str, Any]]
    start: int

    @classmethod
    def open(cls, path: str, size: int | None = None) -> Shard:
        """Read the header of a shard, from a path or URL; its size is looked up unless it is known.

        Raises:
            CheckpointError: there is no such file, or it is incomplete or not a shard.
        """
        files, place = file_system(path, CheckpointError)
        try:
            size = files.size(place) if size is None else size
            data = files.cat_file(place, start=0, end=min(size, FIRST_READ))  # by name: S3's have others between
            length = int.from_bytes(data[:8], "little")
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise ValueError("it has no header")
            if len(data) < 8 + length:
                data += files.cat_file(place, start=len(data), end=8 + length)
            header = json.loads(data[8 : 8 + length])
            facts = json.loads(header.pop("__metadata__")[KEY])
            if facts.pop("version") != VERSION:
                raise ValueError("a later version of text2lora wrote it")
            known = ShardFacts(**facts | {"spec": LoraSpec(**facts["spec"])})
            shard = cls(path, known, header, 8 + length)
            shard._check(size)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} does not exist") from error
        except Exception as error:  # which depends on what is wrong with the file
            raise CheckpointError(f"{path} is not a complete shard of adapters ({first_line(error)})") from error
        return shard

    def _check(self, size: int) -> None:
        """Check that all tensors have a row for each LoRA, and that none is cut off."""
        for name, entry in self.tensors.items():
            module, dot, factor = name.rpartition(".lora_")
            begin, end = entry["data_offsets"]
            if not dot or factor not in ("A", "B") or module not in self.facts.paths:
                raise ValueError(f"it holds {shown(name)}")
            if len(entry["shape"]) != 4 or entry["shape"][0] != len(self.facts.descriptions) or begin > end:
                raise ValueError(f"{name} does not have one row for each adapter")
            if self.start + end > size:
                raise ValueError("it is cut off")

    def read(self, name: str) -> dict[str, torch.Tensor]:
        """Read the weights of one LoRA by PEFT's keys. Only its rows of the file are read.

        Raises:
            CheckpointError: the shard cannot be read.
        """
        row, entries, offset = list(self.facts.descriptions).index(name), {}, 0
        begins: list[int] = []
        ends: list[int] = []
        for key, entry in self.tensors.items():
            module, _, factor = key.rpartition(".lora_")
            count, layers, *matrix = entry["shape"]
            begin, end = entry["data_offsets"]
            length = (end - begin) // count
            begins.append(self.start + begin + row * length)
            ends.append(begins[-1] + length)
            for layer in range(layers):
                offsets = [offset + (layer + more) * length // layers for more in (0, 1)]
                path = self.facts.paths[module].replace("{layer}", str(layer))
                entries[lora_key(path, factor)] = {"dtype": entry["dtype"], "shape": matrix, "data_offsets": offsets}
            offset += length
        files, place = file_system(self.path, CheckpointError)
        header = json.dumps(entries).encode()
        try:
            rows = files.cat_ranges([place] * len(begins), begins, ends, on_error="raise")
            return load(b"".join([len(header).to_bytes(8, "little"), header, *rows]))
        except Exception as error:  # of any file system, or of safetensors
            raise CheckpointError(f"{self.path} cannot be read ({first_line(error)})") from error


def write_shard(path: str, weights: LoraWeights, facts: ShardFacts) -> None:
    """Write LoRAs into a shard, completely or not at all. The same LoRAs give the same bytes.

    Raises:
        OutputError: the shard cannot be written.
    """
    tensors = {
        f"{module}.lora_{factor}": weight.detach().cpu().contiguous()
        for module, factors in weights.items()
        for factor, weight in zip("AB", factors, strict=True)
    }
    text = json.dumps(dataclasses.asdict(facts) | {"version": VERSION}, ensure_ascii=False)
    with atomic_url(path) as temporary:
        save_file(tensors, temporary, {KEY: text})  # one entry: the order of several is not always the same


def find_shards(folder: str | os.PathLike[str]) -> list[Shard]:
    """Find the complete shards in a folder or below a URL; anything else is skipped.

    Raises:
        CheckpointError: the folder cannot be listed.
    """

    def attempt(found: tuple[str, int]) -> Shard | None:
        try:
            return Shard.open(*found)
        except CheckpointError:
            return None

    with ThreadPoolExecutor(16) as pool:
        return [shard for shard in pool.map(attempt, _list_shards(folder)) if shard]


def _list_shards(folder: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """The paths or URLs of what has the name of a shard, with its size."""
    files, place = file_system(os.fspath(folder), CheckpointError)
    try:
        files.invalidate_cache()
        listed = files.ls(place, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except Exception as error:  # of any file system
        raise CheckpointError(f"{folder} cannot be listed ({first_line(error)})") from error
    sizes = {entry["name"].rpartition("/")[2]: entry["size"] for entry in listed if entry["type"] == "file"}
    return [(f"{os.fspath(folder).rstrip('/')}/{name}", sizes[name]) for name in sorted(sizes) if is_shard(name)]


def find_in_shards(place: str, name: str | None) -> Shard | None:
    """Find the shard that contains a LoRA; None if the place is not a shard, a folder of shards or a URL.

    Raises:
        CheckpointError: no name is given, or no shard in this place contains a LoRA of that name; or one is damaged.
    """
    if is_shard(place):
        shards = [Shard.open(place)]
    elif "://" in place or (
        os.path.isdir(place)
        and any(map(is_shard, os.listdir(place)))
        and not os.path.exists(os.path.join(place, name or "", "adapter_config.json"))
    ):
        shards = find_shards(place)
    else:
        folder, last = os.path.split(place)
        if not os.path.exists(place) and os.path.isdir(folder) and any(map(is_shard, os.listdir(folder))):
            raise CheckpointError(f"{place} does not exist: name the shards in {folder}, with {last!r} as `subfolder`")
        return None
    for shard in shards:
        if name in shard.facts.descriptions:
            return shard
    if not is_shard(place):
        for path, size in _list_shards(place):
            Shard.open(path, size)  # a damaged one says so: the name may be in it
    known = next((each for shard in shards for each in shard.facts.descriptions), None)
    if known is None:
        raise CheckpointError(f"{place} contains no shards of adapters")
    given = f"not {shown(name)}" if name else "and no name is given"
    raise CheckpointError(f"{place} contains many adapters, {given}: name one as `subfolder`, such as {known!r}")


def is_shard(path: str) -> bool:
    """Whether a path has the name of a shard."""
    before, after = PATTERN.split("{}")
    return path.rpartition("/")[2].startswith(before) and path.endswith(after)
