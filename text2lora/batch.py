"""Many adapters in one resumable run: from a list of descriptions to a folder for each, or files of many."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from text2lora.adapter import LoraAdapter, check_dtype, check_fits
from text2lora.arguments import check_count, checked, checked_class
from text2lora.digest import digest
from text2lora.encoder import check_description
from text2lora.errors import CheckpointError, InvalidArgumentError, InvalidDescriptionError, OutputError
from text2lora.files import check_path, read_text
from text2lora.hub import is_adapter
from text2lora.lora import concatenate, map_factors, spec_of
from text2lora.names import slug
from text2lora.shards import PATTERN, Shard, ShardFacts, find_shards, write_shard

if TYPE_CHECKING:
    from text2lora.modeling import Text2LoraModel

NO_LINES = (".json", ".csv", ".tsv", ".yaml", ".yml", ".parquet", ".xlsx", ".md", ".html", ".pdf", ".docx")
"""Endings of files whose lines are no descriptions."""
SHARD_BYTES = 2**28
"""Size of a shard's weights, where nothing else is asked for."""


@checked_class(InvalidArgumentError)
@dataclass(frozen=True)
class AdapterSettings:
    """How adapters are written: the options of `generate_lora` and `LoraAdapter.save_pretrained`."""

    scale: float = 1.0
    dtype: torch.dtype | None = None
    fold_rslora: bool = False

    def __post_init__(self) -> None:
        check_dtype(self.dtype)


class WrittenAdapter(NamedTuple):
    """One adapter of a batch: its description, its folder, and whether it was there already."""

    description: str
    folder: Path
    skipped: bool


def folder_name(description: str, model: str, settings: AdapterSettings) -> str:
    """A readable and unique name for an adapter's folder: words, and a digest of everything that decides the adapter.

    The model is given as its own digest, `Text2LoraModel.digest`.
    """
    return f"{slug(description)}-{digest([description, model, asdict(settings)])[:10]}"


@checked(OutputError)
def read_descriptions(path: Path) -> list[str]:
    """Read the descriptions in a file. Each line is a description, or in a file of JSON lines (`.jsonl`, `.ndjson`),
    `{"description": ...}`. Blank lines are skipped.

    Raises:
        InvalidDescriptionError: a line has no description that can be used; the message names the line.
        OutputError: the file cannot be read, or has the ending of a table or document instead of lines.
    """
    kind = path.name.lower().removesuffix(".gz")
    if kind.endswith(NO_LINES):
        raise OutputError(
            f"{path} is not a file of lines: expected text with a description on each line, or JSON lines (.jsonl) "
            'with a "description" in each'
        )
    lines = read_text(path, OutputError).split("\n")  # splitlines would also cut at U+2028
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)["description"] if kind.endswith((".jsonl", ".ndjson")) else line
            found.append(check_description(row))
        except InvalidDescriptionError as error:
            raise InvalidDescriptionError(f"{path} line {number}: {error}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InvalidDescriptionError(
                f'{path} line {number} is not a JSON object with a "description": {line[:60]!r}'
            ) from error
    if not found:
        raise InvalidDescriptionError(f"{path} contains no description: expected one on each line")
    return found


@checked(InvalidDescriptionError)
def choose_shard(descriptions: Sequence[str], number: int, count: int) -> list[str]:
    """Choose the descriptions for one of several machines, so that each description belongs to exactly one.

    A description's shard depends only on its text, so you can sort the list or add to it without changing the split.
    The shards are numbered from 1 to `count`.
    """

    def shard(text: str) -> int:
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % count + 1

    return [text for text in map(check_description, descriptions) if shard(text) == number]


@checked(OutputError)
def write_adapters(
    model: Text2LoraModel,
    descriptions: Sequence[str],
    output_dir: Path,
    settings: AdapterSettings | None = None,
    force: bool = False,
) -> Iterator[WrittenAdapter]:
    """Write an adapter for each description, several in each pass of the hypernetwork.

    To continue an interrupted run, make the same call again: adapters whose folders exist are not made again. A folder
    appears complete or not at all, and its name contains a digest of everything that decides the adapter: description,
    settings, the checkpoint's weights and config, and the text encoder. A description that occurs twice is made once.

    Args:
        model: the model that makes the adapters.
        descriptions: what the adapters should do; all are checked before the first adapter is made.
        output_dir: the folder that gets one folder for each adapter.
        settings: how the adapters are written.
        force: whether to make adapters again whose folders exist.

    Yields:
        Each adapter, when it is on disk: first those that existed, then the new ones in the given order.

    Raises:
        InvalidDescriptionError: see `check_description`.
        OutputError: a folder cannot be written.
    """
    settings = settings or AdapterSettings()
    texts = list(dict.fromkeys(map(check_description, descriptions)))
    decided = model.digest if texts else ""
    folders = {text: output_dir / folder_name(text, decided, settings) for text in texts}
    there = set() if force else {text for text in texts if is_adapter(folders[text])}
    yield from (WrittenAdapter(text, folders[text], True) for text in texts if text in there)
    waiting = [text for text in texts if text not in there]
    for start in range(0, len(waiting), model.tasks_per_pass):
        chosen = waiting[start : start + model.tasks_per_pass]
        for text, adapter in zip(chosen, model.generate_lora(chosen, scale=settings.scale), strict=True):
            adapter.save_pretrained(folders[text], settings.dtype, settings.fold_rslora)
            yield WrittenAdapter(text, folders[text], False)


class ShardWriter:
    """Writes adapters in shards of many, for where a folder each would be millions of small files.

    A shard's name is a digest of the names of its adapters, which are those that `write_adapters` gives their folders.
    So a batch that is written twice, since a process ended before it could tell, is the same shard.

    Args:
        model: makes the adapters.
        output: a folder, or a URL that fsspec knows, as `s3://bucket/adapters`.
        settings: see `AdapterSettings`.
        decided: `Text2LoraModel.digest`, if it is known: for processes that must give an adapter the same name, though
            on another processor the same encoder can be held in another dtype.
    """

    @checked(InvalidArgumentError)
    def __init__(
        self,
        model: Text2LoraModel,
        output: str | os.PathLike[str],
        settings: AdapterSettings | None = None,
        decided: str | None = None,
    ):
        self.model, self.output = model, check_path(output, OutputError).rstrip("/")
        self.settings = settings or AdapterSettings()
        self.decided = decided or model.digest

    def name(self, description: str) -> str:
        """The name of a description's adapter."""
        return folder_name(check_description(description), self.decided, self.settings)

    @checked(InvalidDescriptionError)
    def plan(self, descriptions: Iterable[str], per_shard: int | None = None) -> list[list[str]]:
        """Split the descriptions whose adapters are not in a shard yet into shards, each description once.

        Args:
            descriptions: all descriptions; every one is checked.
            per_shard: the number of adapters in a shard; None is as many as take a quarter of a GB.

        Raises:
            InvalidDescriptionError: see `check_description`.
            InvalidInputError: `per_shard` is not a whole number from 1 upwards.
            CheckpointError: the output cannot be listed.
        """
        if per_shard is None:
            size = (self.settings.dtype or self.model.dtype).itemsize
            per_shard = max(1, SHARD_BYTES * self.model.dtype.itemsize // (self.model.adapter_bytes * size))
        check_count(per_shard, "per_shard")
        texts = list(dict.fromkeys(map(check_description, descriptions)))
        there = {name for shard in find_shards(self.output) for name in shard.facts.descriptions}
        waiting = [text for text in texts if self.name(text) not in there]
        return [waiting[start : start + per_shard] for start in range(0, len(waiting), per_shard)]

    @checked(InvalidDescriptionError)
    def write(self, descriptions: Sequence[str]) -> str:
        """Write the adapters of descriptions as one shard, or leave the one that is there.

        Returns:
            The shard's path or URL.

        Raises:
            InvalidDescriptionError: there is no description, or see `check_description`.
            OutputError: it cannot be written.
        """
        texts = list(dict.fromkeys(map(check_description, descriptions)))
        if not texts:
            raise InvalidDescriptionError("a shard of no descriptions: expected at least one")
        names = [self.name(text) for text in texts]
        path = f"{self.output}/{PATTERN.format(digest(names)[:16])}"
        with contextlib.suppress(CheckpointError):  # there is none yet, or no whole one
            return Shard.open(path).path
        parts = [
            map_factors(lambda factor: factor.to("cpu", self.settings.dtype), part)
            for part in self.model.generate_stacked(texts)
        ]
        weights = concatenate(parts)
        check_fits(self.settings.dtype, *(factor for pair in weights.values() for factor in pair))
        like = LoraAdapter({}, spec_of(self.model.config)).scaled(self.settings.scale)
        if self.output.startswith("hf://"):  # to the Hub, where nobody finds a base by a path on this machine
            like = like.shareable()
        facts = ShardFacts(
            (like.folded() if self.settings.fold_rslora else like).spec,
            {module: self.model.config.module_paths[module] for module in weights},
            self.model.provenance(self.settings.scale),
            dict(zip(names, texts, strict=True)),
        )
        write_shard(path, weights, facts)
        return path
