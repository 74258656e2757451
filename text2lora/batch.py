"""Many adapters in one go: a list of descriptions in, a folder each out, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from text2lora.adapter import CONFIG_NAME
from text2lora.digest import digest
from text2lora.encoder import check_description
from text2lora.errors import InvalidDescriptionError, OutputError
from text2lora.files import read_text
from text2lora.names import slug

if TYPE_CHECKING:
    from text2lora.modeling import Text2LoraModel


@dataclass(frozen=True)
class AdapterSettings:
    """How adapters are written, besides their description: see `generate_lora` and `LoraAdapter.save_pretrained`."""

    scale: float = 1.0
    dtype: torch.dtype | None = None
    fold_rslora: bool = False


class Made(NamedTuple):
    """One adapter of a batch: its description, its folder, and whether it was there already."""

    description: str
    folder: Path
    skipped: bool


def folder_name(description: str, model: str, settings: AdapterSettings) -> str:
    """A readable name that two different adapters do not share: words, and a digest of all that decides the adapter.

    Args:
        description: of the adapter.
        model: the digest of what makes it, `Text2LoraModel.digest`.
        settings: how it is written.
    """
    return f"{slug(description)}-{digest([description, model, asdict(settings)])[:10]}"


def read_descriptions(path: Path) -> list[str]:
    """The descriptions in a file: one a line, or, in a `.jsonl`, one `{"description": ...}` a line. Blank lines are
    passed over.

    Raises:
        InvalidDescriptionError: a line that holds none; the message names it.
        OutputError: the file cannot be read.
    """
    lines = read_text(path, OutputError).split("\n")  # splitlines would also cut at U+2028
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)["description"] if path.suffix == ".jsonl" else line
            found.append(check_description(row))
        except InvalidDescriptionError as error:
            raise InvalidDescriptionError(f"{path} line {number}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidDescriptionError(
                f'{path} line {number} is not a JSON object with a "description": {line[:60]!r}'
            ) from error
    if not found:
        raise InvalidDescriptionError(f"{path} contains no description: expected one on each line")
    return found


def choose_shard(descriptions: Sequence[str], number: int, count: int) -> list[str]:
    """The descriptions of one machine of many, so that each falls to exactly one.

    A description's shard depends on its text alone: a list that grows or is sorted anew keeps its split.

    Args:
        descriptions: all of them.
        number: of the shard, from 1 to `count`.
        count: of shards.
    """

    def shard(text: str) -> int:
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % count + 1

    return [text for text in map(check_description, descriptions) if shard(text) == number]


def write_adapters(
    model: Text2LoraModel,
    descriptions: Sequence[str],
    output_dir: Path,
    settings: AdapterSettings | None = None,
    force: bool = False,
) -> Iterator[Made]:
    """Write an adapter for each description, several in a pass of the hypernetwork.

    An adapter whose folder is there is not made again, so that the same call goes on where it was broken off: folders
    appear whole or not at all, and their names hold a digest of all that decides an adapter: description, settings, the
    checkpoint's weights and config, and the text encoder. A description that stands twice is made once.

    Args:
        model: makes the adapters.
        descriptions: what they should do; every one is checked before the first is made.
        output_dir: gets a folder per adapter.
        settings: see `AdapterSettings`.
        force: make those again whose folders are there.

    Yields:
        Each adapter, when it is on disk: those that were there first, then the new ones in the order given.

    Raises:
        InvalidDescriptionError: see `check_description`.
        OutputError: a folder cannot be written.
    """
    settings = settings or AdapterSettings()
    texts = list(dict.fromkeys(check_description(text) for text in descriptions))
    decided = model.digest if texts else ""
    folders = {text: output_dir / folder_name(text, decided, settings) for text in texts}
    there = [text for text in texts if not force and (folders[text] / CONFIG_NAME).is_file()]
    yield from (Made(text, folders[text], True) for text in there)
    waiting = [text for text in texts if text not in set(there)]
    for start in range(0, len(waiting), model.tasks_per_pass):
        chosen = waiting[start : start + model.tasks_per_pass]
        for text, adapter in zip(chosen, model.generate_lora(chosen, scale=settings.scale), strict=True):
            adapter.save_pretrained(folders[text], settings.dtype, settings.fold_rslora)
            yield Made(text, folders[text], False)
