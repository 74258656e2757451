"""An adapter as a zip of its PEFT folder."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from text2lora.arguments import checked
from text2lora.errors import OutputError
from text2lora.files import atomic_file

if TYPE_CHECKING:
    from text2lora.adapter import LoraAdapter

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can name


@checked(OutputError)
def zip_adapter(adapter: LoraAdapter) -> bytes:
    """The adapter's files in a zip, without a folder around them. Unpack it into a folder, which PEFT loads.

    The same adapter gives the same bytes: the zip has no times, no user names and no compression, which would save
    little on weights. A base model that is a path on this machine is not named.
    """
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as parent, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        folder = adapter.shareable().save_pretrained(Path(parent, "adapter"))
        for file in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(file.name, EPOCH)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # a file of Unix that all may read
            archive.writestr(entry, file.read_bytes())
    return buffer.getvalue()


@checked(OutputError)
def export_zip(adapter: LoraAdapter, path: str | os.PathLike[str]) -> Path:
    """Write `zip_adapter` to a file; an existing file is replaced.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(Path(path)) as temporary:
        temporary.write_bytes(zip_adapter(adapter))
    return Path(path)
