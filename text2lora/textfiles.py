"""Text files that users bring."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from text2lora.errors import Text2LoraError, TrainingError


def read_text(path: Path, kind: type[Text2LoraError] = TrainingError) -> str:
    """The text of a file: UTF-8, with or without the mark that Windows puts before it, gzipped or not.

    Raises:
        Text2LoraError: of that kind; it cannot be read.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (OSError, EOFError, zlib.error, ValueError) as error:  # the last from characters that no path has
        raise kind(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise kind(f"{path} cannot be read (line {line} is no UTF-8 text): save it as UTF-8") from error


def read_lines(path: Path, kind: type[Text2LoraError] = TrainingError) -> list[Any]:
    """The values of a file of JSON lines; empty lines are passed over.

    Raises:
        Text2LoraError: of that kind; it cannot be read, or a line is not JSON.
    """
    values = []
    for number, line in enumerate(read_text(path, kind).split("\n"), 1):  # splitlines would also cut at U+2028
        if line.strip():
            try:
                values.append(json.loads(line))
            except ValueError as error:
                raise kind(f"{path}, line {number} is not JSON ({error})") from error
    return values
