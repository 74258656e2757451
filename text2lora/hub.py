"""Files: where checkpoints and adapters are found, how they are written, and their cards."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from text2lora.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from text2lora.adapter import LoraSpec

CARD_NAME = "README.md"

PACKAGE = Path(__file__).parent
CHECKPOINTS = {"nano": PACKAGE / "nano" / "checkpoint"}
BASES = {"nano": PACKAGE / "nano" / "base"}
"""What ships inside the package, by the name that stands for its path in configs."""


def library_version() -> str:
    """The installed version of text2lora."""
    try:
        return version("text2lora")
    except PackageNotFoundError:  # run from a source tree
        return "0+unknown"


def resolve_name(name: str | os.PathLike[str], built_in: dict[str, Path]) -> str:
    """The folder of a built-in name; a path or Hub id as it is."""
    return str(built_in[str(name)]) if str(name) in built_in and not Path(name).exists() else str(name)


def base_model_path(name: str = "nano") -> str:
    """The folder of a base model that ships with the package; `AutoModelForCausalLM.from_pretrained` loads it.

    Raises:
        CheckpointError: there is none of that name.
    """
    if name not in BASES:
        raise CheckpointError(f"no built-in base model {name!r}: expected one of {', '.join(BASES)}")
    return str(BASES[name])


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary sibling folder that becomes `target` when the block ends well, and is removed when it does not.

    A process killed at any point leaves a new target absent or complete. One that existed is as it was or complete
    where the system can swap two folders in one step (Linux and macOS, on their own file systems); elsewhere there is
    an instant at which it is absent, and the old folder lies beside it. What was left of a killed process is a hidden
    sibling, which may be deleted.

    Raises:
        OutputError: the parent cannot be written, or the target is the working directory.
    """
    try:
        place = Path(os.path.realpath(target))  # of a link, what it points to
        if place == Path.cwd():
            raise OutputError(f"{target} is the working directory, which cannot be replaced: choose another folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{place.name[:48]}-", dir=place.parent))
    except OutputError:
        raise
    except (OSError, ValueError) as error:  # the latter from characters that no path has
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{target} cannot be written ({reason}): choose another folder") from error
    try:
        folder.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        yield folder
        for path in folder.rglob("*"):  # safetensors makes its files private too
            path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())
        if not place.exists():
            folder.rename(place)
        elif not _swap(folder, place):
            old = folder.with_name(folder.name + "-old")
            place.rename(old)
            try:
                folder.rename(place)
            except OSError:
                old.rename(place)
                raise
            shutil.rmtree(old)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{target} cannot be written ({reason}): choose another folder") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # after a swap, what was there before


def _swap(one: Path, two: Path) -> bool:
    """Swap two folders in one step; False where the system or the file system has no call for it."""
    paths, here = (os.fsencode(one), os.fsencode(two)), -100  # AT_FDCWD
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return bool(libc.renamex_np(*paths, 2) == 0)  # RENAME_SWAP
        return bool(libc.renameat2(here, paths[0], here, paths[1], 2) == 0)  # RENAME_EXCHANGE
    return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def fetch_files(
    source: str | os.PathLike[str], names: Sequence[str], subfolder: str | None = None, **hub: Any
) -> dict[str, Path]:
    """Paths of the named files of a folder or a Hub repository, downloaded where needed.

    Args:
        source: a folder or a Hub id.
        names: file names.
        subfolder: inside it.
        **hub: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        CheckpointError: one of them is not there.
    """
    folder = Path(source)
    if folder.is_dir():
        paths = {name: folder / (subfolder or "") / name for name in names}
        for path in paths.values():
            if not path.is_file():
                raise CheckpointError(f"{path.parent} has no {path.name}: expected a folder with {' and '.join(names)}")
        return paths
    if os.path.isabs(source) or str(source).startswith((".", "~")):
        raise CheckpointError(f"{source} does not exist: pass a folder or a Hub id")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return {n: Path(hf_hub_download(str(source), n, subfolder=subfolder, **hub)) for n in names}
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{source} is neither a folder here nor a repository to be had on the Hub ({reason})"
        ) from error


ADAPTER_CARD = """---
{{ card_data }}
---

# {{ title }}

A LoRA adapter{% if base %} for `{{ base }}`{% endif %}, made from a sentence by a hypernetwork, without training data.

{% if description -%}
> {{ description }}

{% endif -%}
| | |
|---|---|
{% for name, value in rows -%}
| {{ name }} | {{ value }} |
{% endfor %}
```python
{{ snippet }}
```

A description steers a model, it does not guarantee its behaviour: evaluate the adapter before you rely on it. The
licence of the base model applies to its use.
"""


def load_snippet(base: str | None, adapter: str) -> str:
    """The lines of Python that load an adapter with PEFT alone."""
    source = json.dumps(base or "THE_BASE_MODEL")
    lines = ["from peft import PeftModel; from transformers import AutoModelForCausalLM"]
    if base in BASES:
        source = f"text2lora.base_model_path({source})"
        lines.insert(0, "import text2lora")
    lines.append(f"base = AutoModelForCausalLM.from_pretrained({source})")
    lines.append(f"model = PeftModel.from_pretrained(base, {json.dumps(adapter)})")
    return "\n".join(lines)


def adapter_card(spec: LoraSpec, metadata: dict[str, str]) -> str:
    """The README of an adapter, with the front matter that the Hub reads."""
    from huggingface_hub import ModelCard, ModelCardData

    base = spec.base_model_name_or_path
    on_hub = bool(base) and not os.path.isabs(base or "") and "/" in (base or "")
    data: Any = ModelCardData(
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["lora", "text2lora"] + ([f"base_model:adapter:{base}"] if on_hub else []),
    )
    if on_hub:
        data.base_model, data.base_model_relation = base, "adapter"
    description = metadata.get("description", "")
    rows = [(k.replace("_", " "), v) for k, v in metadata.items() if k != "description"]
    rows += [("r", str(spec.r)), ("alpha", f"{spec.lora_alpha:g}"), ("rsLoRA", "yes" if spec.use_rslora else "no")]
    rows += [("target modules", ", ".join(spec.target_modules))]
    card = ModelCard.from_template(
        data,
        template_str=ADAPTER_CARD,
        title=" ".join(description.split())[:80] or "LoRA adapter",
        description=" ".join(description.split()),
        base=base,
        snippet=load_snippet(base, "PATH_OR_REPO_OF_THIS_ADAPTER"),
        rows=rows,
    )
    return str(card)
