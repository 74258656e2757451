"""Names: tells paths from Hub ids and what may be published, and makes short names from descriptions or paths."""

from __future__ import annotations

import hashlib
import ntpath
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from text2lora.bundled import BASE_OF, BASES, CHECKPOINTS


def library_version() -> str:
    """The installed version of text2lora."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("text2lora")
    except PackageNotFoundError:  # run from a source tree
        return "0+unknown"


def resolve_name(name: str | os.PathLike[str], built_in: dict[str, Path]) -> str:
    """The folder of a built-in name, even if a local folder has that name (use `./name` or a `Path` for that)."""
    return str(built_in.get(name, name) if isinstance(name, str) else name)


RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)\d")
"""Names that no folder can have on Windows."""


def slug(text: str) -> str:
    """A name for a folder or repository, made of a description's words and no built-in one.

    Accents are left out, and a hash added where the words are not the whole description.
    """
    plain = unicodedata.normalize("NFKD", text.casefold())
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"[\u0300-\u036f]", "", plain)).strip("-")
    is_free = words not in CHECKPOINTS and not RESERVED.fullmatch(words)
    if words and len(words) <= 48 and text.isascii() and is_free:
        return words
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{words[:41].rstrip('-') or 'adapter'}-{digest}"


def is_local(name: str) -> bool:
    """Whether a name is a path of this machine, be it there or not, rather than a Hub id."""
    if name in CHECKPOINTS or name in BASES:
        return False
    of_windows = "\\" in name or re.match(r"[A-Za-z]:", name) is not None
    is_path = of_windows or os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1
    return is_path or os.path.isdir(name)


def is_public(name: str) -> bool:
    """Whether others find something under a name: a built-in one, or one that a repository of the Hub can have."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not is_local(name)


def public_name(name: str) -> str:
    """A name for cards: only the last part of a path on this machine; any other name, or URL, is not changed."""
    is_url = re.match(r"(?!file:)[a-z][a-z0-9+.-]+://", name, re.IGNORECASE)
    if is_url:
        return re.sub(r"//[^/@]*@", "//", name)  # without a password
    return ntpath.basename(ntpath.normpath(name)) if is_local(name) else name


def absolute_name(name: str) -> str:
    """A name that means the same wherever it is read: a folder's absolute path; any other name is not changed."""
    return os.path.abspath(name) if name not in BASE_OF and os.path.isdir(name) else BASE_OF.get(name, name)


def distinct_names(names: Sequence[str], taken: Sequence[str] = (), whole: bool = True) -> list[str]:
    """Short names for reports, one each and all of them different.

    Of a path the last part, and more of them where it takes those to tell it from another.

    Args:
        names: paths, Hub ids, or names on a server.
        taken: names that already mean something else.
        whole: whether to keep all of a name that is not a path on this machine.
    """
    keys = [tuple(filter(None, re.split(r"[/\\]", os.path.normpath(name)))) or (name,) for name in names]
    depth = {key: len(key) if whole and not is_local(name) else 1 for key, name in zip(keys, names, strict=True)}
    while True:
        shown = {key: "/".join(key[-parts:]) for key, parts in depth.items()}
        unclear = [text for text, count in Counter([*shown.values(), *taken]).items() if count > 1]
        if not (longer := [key for key, text in shown.items() if text in unclear and depth[key] < len(key)]):
            break
        depth |= {key: depth[key] + 1 for key in longer}
    found: list[str] = []
    for text in map(shown.__getitem__, keys):
        same = (text, *(f"{text} ({number})" for number in range(2, len(names) + 2)))
        found.append(next(name for name in same if name not in (*taken, *found)))
    return found


def without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config for the Hub: `..._name_or_path` that others cannot find becomes None."""
    return {
        key: None if key.endswith("name_or_path") and isinstance(value, str) and not is_public(value) else value
        for key, value in values.items()
    }
