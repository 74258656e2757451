"""The Hub: finding and downloading files, and explaining what failed."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from text2lora.bundled import CHECKPOINTS, PACKAGED
from text2lora.errors import CheckpointError, HubError, InvalidArgumentError, Text2LoraError, causes, shown
from text2lora.files import check_path, check_subfolder, first_line
from text2lora.names import is_local

if TYPE_CHECKING:
    from huggingface_hub import ResolvedRevision


T = TypeVar("T")
CARD_NAME = "README.md"
MARKERS = {"adapter": "adapter_config.json", "checkpoint": "config.json"}
"""The file that marks a repository as an adapter or as a checkpoint."""
HUB_OPTIONS = ("token", "local_files_only", "cache_dir")
"""The options of `from_pretrained` that say how the Hub is asked."""
UPSTREAM_WEIGHTS = "hypermod.pt"
"""The file that marks a checkpoint of the reference, whose folder also contains an `adapter_config.json`."""
ADAPTER_FILES = (MARKERS["adapter"], "adapter_model.safetensors", CARD_NAME)
CHECKPOINT_FILES = (CARD_NAME, MARKERS["checkpoint"], "model*.safetensors*", "novelty.safetensors", "confidence.json")
MERGED_FILES = (
    CARD_NAME, "*config.json", "model*.safetensors*", "*token*", "vocab*", "merges.txt", "chat_template*", "*processor*"
)  # fmt: skip
"""What an adapter, a checkpoint and a merged model are made of."""


@dataclass(frozen=True)
class Source:
    """Where files are read from: a folder, or a Hub repository at one commit.

    Attributes:
        path: A folder or a Hub id; None for a model that was not read from anywhere.
        subfolder: The folder inside it.
        revision: The commit on the Hub that all files are read from, as a string; its attribute `resolved` is the hash.
        hub: `token`, `local_files_only` and `cache_dir`.
    """

    path: str | None = None
    subfolder: str = ""
    revision: ResolvedRevision | str | None = None
    hub: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, path: str | os.PathLike[str], subfolder: str | None = None, revision: str | None = None, **hub: Any
    ) -> Self:
        """Find the commit that a revision of a Hub repository points to now, so that all files come from it.

        Raises:
            CheckpointError: there is no such folder, subfolder, repository or revision, or it cannot be reached and is
                not in the cache.
        """
        name, inside = check_path(path), check_subfolder(subfolder)
        if not isinstance(revision, str | None):
            raise InvalidArgumentError(f"revision is {shown(revision)}: expected a branch, a tag or a commit")
        if os.path.isdir(name):
            if not Path(name, inside).is_dir():
                there = [str(path.relative_to(name)) for level in ("*/", "*/*/") for path in Path(name).glob(level)]
                raise CheckpointError(
                    f"{name} has no subfolder {inside!r}: {_closest(inside, there)}pass the path of a folder in it"
                )
            return cls(name, inside, revision, hub)
        if name in CHECKPOINTS:
            raise CheckpointError(_no_adapter(name))
        if "/" not in name and not (is_local(name) or os.path.isfile(name)):
            raise CheckpointError(_no_name(name))
        return cls(name, inside, find_commit(name, revision, **hub), hub)

    @property
    def commit(self) -> str | None:
        """The hash of the commit on the Hub; None for a folder."""
        return getattr(self.revision, "resolved", None)

    def find(self, name: str) -> Path | None:
        """The path of an optional file, downloaded if necessary; None if there is no such file.

        If the Hub must not be asked (HF_HUB_OFFLINE, `local_files_only`), only the cache counts.

        Raises:
            CheckpointError: the Hub cannot be reached.
        """
        from huggingface_hub import constants
        from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

        if self.path is None:
            return None
        if os.path.isdir(self.path):
            path = Path(self.path, self.subfolder, name)
            return path if path.is_file() else None
        with hub_errors(self.path, self.revision):
            try:
                return self._download(name)
            except RemoteEntryNotFoundError:
                return None
            except LocalEntryNotFoundError:
                if constants.is_offline_mode() or self.hub.get("local_files_only"):
                    return None
                raise

    def fetch(self, names: Sequence[str]) -> dict[str, Path]:
        """The paths of files, downloaded if necessary.

        Raises:
            CheckpointError: one of the files does not exist.
        """
        if not os.path.isdir(source := str(self.path)):
            with hub_errors(source, self.revision):
                return {name: self._download(name) for name in names}
        paths = {name: Path(source, self.subfolder, name) for name in names}
        for path in paths.values():
            if not path.is_file():
                raise CheckpointError(
                    f"{path.parent} has no {path.name}: {look_inside(path.parent, path.name)}expected a folder with "
                    f"{' and '.join(names)}"
                )
        return paths

    def _download(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        subfolder = self.subfolder or None
        return Path(hf_hub_download(str(self.path), name, subfolder=subfolder, revision=self.revision, **self.hub))


def find_commit(name: str, revision: str | None = None, **hub: Any) -> ResolvedRevision:
    """The commit that a branch, tag or commit of a Hub repository points to now; None is the default branch.

    Raises:
        CheckpointError: there is no such repository or revision, or it cannot be reached and is not in the cache.
    """
    check_no_file(name)
    if is_local(name):
        raise CheckpointError(f"{name} does not exist: {_did_you_mean(name)}pass a folder or a Hub id")
    import huggingface_hub

    with hub_errors(name, revision):
        return patiently(lambda: huggingface_hub.resolve_revision(name, revision=revision, **hub))


@contextlib.contextmanager
def hub_errors(
    name: str, revision: str | None = None, kind: type[CheckpointError | HubError] = CheckpointError
) -> Iterator[None]:
    """Turns errors of the Hub's clients inside the block into one of our errors, with the line from `hub_fault`."""
    import httpx2  # what huggingface_hub speaks HTTP with
    from huggingface_hub.errors import RevisionResolutionError

    try:
        yield
    except Text2LoraError:
        raise
    except (OSError, ValueError, RuntimeError, ImportError, httpx2.HTTPError, RevisionResolutionError) as error:
        reason = _without_tokens(str(error).strip().split("\n")[0])
        raise kind(hub_fault(error, name, revision) or f"{name} cannot be used on the Hub ({reason})") from error


def hub_fault(error: BaseException, name: str, revision: str | None = None) -> str | None:
    """Explain an error from the Hub in one line that says what to do; None if it does not come from the Hub.

    Its causes count too, because transformers wraps the Hub's errors.
    """
    import httpx2
    from huggingface_hub import constants, errors

    chain = list(causes(error))

    def first(*kinds: type[T]) -> T | None:
        return next((link for link in chain if isinstance(link, kinds)), None)

    if fault := next((fault for link in chain if (fault := proxy_fault(link))), None):
        return fault
    site, log_in = constants.ENDPOINT, "log in with `hf auth login` or set HF_TOKEN"
    if first(errors.GatedRepoError):  # before RepositoryNotFoundError, which it is a kind of
        return f"{name} is gated: ask for access at {site}/{name}, then {log_in}"
    if first(errors.RepositoryNotFoundError):
        return f"{name} is not on the Hub, or it is private: {_did_you_mean(name)}check the name, or {log_in}"
    if first(errors.RevisionNotFoundError):
        return f"{name} has no revision {revision or 'main'!r}: pass one of its branches, tags or commits"
    if missing := first(errors.RemoteEntryNotFoundError):
        file = str(missing.response.url).partition("/resolve/")[2].partition("/")[2] or "such file"
        return (
            f"{name} has no {file}: expected a text2lora checkpoint or a LoRA adapter; check the name and the subfolder"
        )
    if first(errors.LocalTokenNotFoundError):
        return f"you are not logged in to the Hub: {log_in}; create a token with write access at {site}/settings/tokens"
    if refused := first(errors.HfHubHTTPError):
        return _refusal(refused, name, log_in)
    not_here = first(errors.LocalEntryNotFoundError, errors.RevisionResolutionError, errors.OfflineModeIsEnabled)
    if not_here and constants.is_offline_mode():
        return f"{name} is not in the cache and HF_HUB_OFFLINE is set: {_did_you_mean(name)}unset it to reach the Hub"
    if first(httpx2.TimeoutException):
        return f"the Hub at {site} did not answer in time for {name}: {_did_you_mean(name)}try again"
    if first(httpx2.LocalProtocolError, UnicodeEncodeError):  # a header that HTTP cannot carry
        return (
            f"the token for {name} cannot be sent: it is empty, or has a line break or a letter outside ASCII; {log_in}"
        )
    if first(httpx2.TransportError):
        hint = _did_you_mean(name)
        return f"the Hub at {site} cannot be reached for {name}: {hint}check the network, the proxy and HF_ENDPOINT"
    if not_here:
        return f"{name} is not in the cache: {_did_you_mean(name)}leave out local_files_only to download it"
    if first(errors.HFValidationError):
        return _no_name(name)
    return None


def load_fault(
    error: BaseException, name: str, revision: str | None = None, folder: str | os.PathLike[str] | None = None
) -> str:
    """Explain in one line why a model or an adapter cannot be loaded. Its files are in `folder`, or else in `name`."""
    place = Path(folder or name)
    return pointer_fault(place) or hub_fault(error, name, revision) or first_line(error)


def pointer_fault(folder: Path) -> str | None:
    """Explain in one line that a file only says where Git LFS keeps the real one; None if no file in the folder does.

    A clone without Git LFS leaves such pointers.
    """
    start = b"version https://git-lfs.github.com/spec/"
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(start):
            return f"{path} is a Git LFS pointer instead of the file: run `git lfs pull` in {folder}"
    return None


def proxies() -> dict[str, str]:
    """The environment variables that set proxies, with their values but without passwords."""
    names = [name for kind in ("all", "https", "http") for name in (f"{kind}_proxy", f"{kind}_proxy".upper())]
    return {name: re.sub(r"(?<=//)[^/@]*@", "***@", value) for name in names if (value := os.environ.get(name))}


def proxy_fault(error: BaseException) -> str | None:
    """Explain in one line why a proxy cannot be used; None if the error is of another kind."""
    told = ", ".join(f"{name}={value}" for name, value in proxies().items())
    if isinstance(error, ImportError) and "SOCKS" in str(error):
        return f"a SOCKS proxy ({told}) needs a package: pip install socksio, or set an HTTP proxy"
    if isinstance(error, ValueError) and "proxy URL" in str(error):
        return f"a proxy address is not valid ({told}): expected http://HOST:PORT"
    return None


def _refusal(error: Any, name: str, log_in: str) -> str:
    """`hub_fault` of an HTTP status."""
    status, told = error.response.status_code, _without_tokens(error.server_message or "").split("\n")[0]
    if status == 401:
        return f"the Hub does not accept the token for {name}: {log_in}, with a valid token"
    if status == 403:
        return f"the Hub does not let you do this with {name}: use another token, or propose it with --create-pr"
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        return f"the Hub limits your requests: try again {f'in {wait} s' if wait else 'later'}"
    if status in (409, 412):
        return f"{name} was changed by someone else in the meantime: try again"
    if status >= 500:
        return f"the Hub has a problem with {name} (status {status}): try again later"
    return f"the Hub refuses {name} (status {status}{': ' * bool(told)}{told})"


def _without_tokens(text: str) -> str:
    return re.sub(r"hf_\w+|(?<=Bearer )\S+", "***", text)


def _no_name(name: str) -> str:
    hint = _did_you_mean(name)
    if " " in name.strip():
        hint += "to make an adapter from a sentence, pass it as do= or with --do; "
    return f"{name!r} is neither an existing folder nor a valid Hub id: {hint}expected a folder or USER/NAME"


def _no_adapter(name: str) -> str:
    return f"{name} is a checkpoint, not an adapter: `t2l make TEXT --model {name}` makes adapters with it"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder contains a checkpoint of this library or of the reference implementation."""
    if (folder / UPSTREAM_WEIGHTS).is_file():
        return True
    try:
        config = json.loads((folder / MARKERS["checkpoint"]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "text2lora"


def is_adapter(folder: Path) -> bool:
    """Whether a folder contains a complete adapter."""
    return all((folder / name).is_file() for name in ADAPTER_FILES[:2])


def check_no_file(name: str) -> None:
    """Refuse the path of a file where a folder is expected.

    Raises:
        CheckpointError: there is such a file.
    """
    if os.path.isfile(name):
        folder = os.path.dirname(name) or "."
        marked = any(os.path.isfile(os.path.join(folder, marker)) for marker in MARKERS.values())
        raise CheckpointError(f"{name} is a file: pass {f'its folder, {folder!r}' if marked else 'a folder'}")


def check_kind(folder: Path, kind: Literal["adapter", "checkpoint"]) -> None:
    """Refuse an adapter where a checkpoint is expected, and a checkpoint where an adapter is.

    Without it, transformers would load the base model of an adapter.

    Raises:
        CheckpointError: the folder contains the other kind.
    """
    if kind == "checkpoint" and is_adapter(folder) and not is_checkpoint(folder):
        raise CheckpointError(f"{folder} is an adapter, not a checkpoint: `t2l run`, `t2l chat` and LoraAdapter use it")
    if kind == "adapter" and is_checkpoint(folder) and not is_adapter(folder):
        raise CheckpointError(_no_adapter(str(folder)))


def look_inside(folder: Path, name: str) -> str:
    """A hint at a folder inside the given one, up to two levels down, that contains a file of that name.

    Checkpoints of the reference have their own file in place of `config.json`.
    """
    names = (name, UPSTREAM_WEIGHTS) if name == MARKERS["checkpoint"] else (name,)
    deep = [sorted({path.parent for file in names for path in folder.glob(level + file)}) for level in ("*/", "*/*/")]
    inside = deep[0] or deep[1]
    return f"did you mean {str(inside[0])!r}? Otherwise " if inside else ""


def _did_you_mean(name: str) -> str:
    """A hint at a similar name: a built-in or packaged one, a folder beside, or a repository in the cache."""
    from huggingface_hub import constants

    wanted = os.path.normpath(name)
    cached = [path.name.removeprefix("models--") for path in Path(constants.HF_HUB_CACHE).glob("models--*")]
    beside = {str(path.parent) for marker in MARKERS.values() for path in Path(wanted).parent.glob(f"*/{marker}")}
    known = [*CHECKPOINTS, *PACKAGED, *sorted(beside), *(repo.replace("--", "/", 1) for repo in cached)]
    return _closest(wanted, known)


def _closest(wanted: str, known: Sequence[str]) -> str:
    """A hint at the name among the known ones that is most like the wanted one."""
    spelled = {other.lower(): other for other in reversed(known) if other != wanted}
    close = difflib.get_close_matches(wanted.lower(), spelled, 1, 0.75)
    return f"did you mean {spelled[close[0]]!r}? Otherwise " if close else ""


def patiently(call: Callable[[], T]) -> T:
    """Ask the Hub again while it is too busy; its client does so for some requests only."""
    from huggingface_hub.errors import HfHubHTTPError

    for wait in (1, 2, 4):
        try:
            return call()
        except HfHubHTTPError as error:
            after = error.response.headers.get("Retry-After", "")
            seconds = int(after) if after.isdigit() else wait
            if error.response.status_code not in (429, 503) or seconds > 60:
                raise
            time.sleep(seconds)
    return call()
