"""How to install the library again, or with more of it, from where it came."""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from urllib.parse import urlsplit
from urllib.request import url2pathname


def install_command(extra: str = "", *options: str) -> str:
    """The `pip install` of the library as it was installed: from a folder, a repository, a file or an index."""
    name = f"text2lora[{extra}]" if extra else "text2lora"
    try:
        origin = json.loads(metadata.distribution("text2lora").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:  # a folder on the path
        origin = {}
    if "dir_info" in origin:  # https://packaging.python.org/en/latest/specifications/direct-url/
        name = url2pathname(urlsplit(origin["url"]).path) + name.removeprefix("text2lora")
        options += ("-e",) if origin["dir_info"].get("editable") else ()
    elif vcs := origin.get("vcs_info"):
        name += f" @ {vcs['vcs']}+{origin['url']}@{vcs['commit_id']}"
    elif origin:
        name += f" @ {origin['url']}"
    return " ".join(["pip install", *options, shlex.quote(name)])
