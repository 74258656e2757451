"""Files: where checkpoints and adapters are found, how they are written and pushed, and their cards."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import errno
import fnmatch
import functools
import hashlib
import json
import ntpath
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from safetensors import SafetensorError

from text2lora.bundled import BASES, CHECKPOINTS
from text2lora.errors import CheckpointError, HubError, OutputError, Text2LoraError, shown

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, ResolvedRevision

    from text2lora.adapter import LoraSpec
    from text2lora.configuration import Text2LoraConfig

T = TypeVar("T")
CARD_NAME = "README.md"
MARKERS = {"adapter": "adapter_config.json", "checkpoint": "config.json"}
"""The file by which a repository is known for what it is."""
UPSTREAM_WEIGHTS = "hypermod.pt"
"""By which a checkpoint of the reference is known; `adapter_config.json` is in its folder, too."""
CHECKPOINT_FILES = (CARD_NAME, MARKERS["checkpoint"], "model*.safetensors*", "standing.safetensors")
MERGED_FILES = (
    CARD_NAME, "*config.json", "model*.safetensors*", "*token*", "vocab*", "merges.txt", "chat_template*", "*processor*"
)  # fmt: skip
"""What a checkpoint and a merged model are made of."""


def library_version() -> str:
    """The installed version of text2lora."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("text2lora")
    except PackageNotFoundError:  # run from a source tree
        return "0+unknown"


def resolve_name(name: str | os.PathLike[str], built_in: dict[str, Path]) -> str:
    """The folder of a built-in name, which nothing here hides (that is `./name`, or a `Path`); all else as it is."""
    return str(built_in.get(name, name) if isinstance(name, str) else name)


def check_path(value: object, kind: type[Text2LoraError] = CheckpointError) -> str:
    """The path, or Hub id, as a string.

    Raises:
        Text2LoraError: of the kind given: it is neither, or empty.
    """
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path.strip():
        expected = "a folder" if kind is OutputError else "a folder or a Hub id"
        raise kind(f"{shown(value)} is no path: expected {expected}")
    return path


def check_subfolder(subfolder: object) -> str:
    """The path inside a folder or repository as a string; of None, an empty one.

    Raises:
        CheckpointError: it is none.
    """
    path = os.fspath(subfolder) if isinstance(subfolder, str | os.PathLike) else "" if subfolder is None else None
    if not isinstance(path, str):
        raise CheckpointError(f"subfolder is {shown(subfolder)}: expected a path inside the folder or repository")
    return path


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def slug(text: str) -> str:
    """A name for a folder or repository, made of a description's words and no built-in one.

    Accents are left out, and a hash added where the words are not the whole description.
    """
    plain = unicodedata.normalize("NFKD", text.casefold())
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"[\u0300-\u036f]", "", plain)).strip("-")
    if words and len(words) <= 48 and text.isascii() and words not in CHECKPOINTS:
        return words
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{words[:41].rstrip('-') or 'adapter'}-{digest}"


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary sibling folder that becomes `target` when the block ends well, and is removed when it does not.

    A process killed at any point leaves a new target absent or complete. One that existed is as it was or complete
    where the system can swap two folders in one step (Linux and macOS, on their own file systems); elsewhere there is
    an instant at which it is absent, and the old folder lies beside it, hidden. What else a killed process left is
    removed by the next save into the same parent, see `temporary_prefix`.

    Raises:
        OutputError: the parent or the folder cannot be written, or the target is the working directory or a mount
            point. Other errors inside the block stay as they are.
    """
    try:
        place = Path(os.path.realpath(target))  # of a link, what it points to
        if place == Path.cwd():
            raise OutputError(f"{target} is the working directory, which cannot be replaced: choose another folder")
        if _is_mount_point(place):
            raise OutputError(f"{target} is a mount point, which cannot be replaced: choose a folder in it")
        place.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=temporary_prefix(place), dir=place.parent))
    except OutputError:
        raise
    except (OSError, ValueError) as error:  # the latter from characters that no path has
        raise _cannot_write(target, error) from error
    try:
        folder.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        with _own_faults(target, folder):
            yield folder
        try:
            make_readable(folder.rglob("*"))
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
        except OSError as error:
            raise _cannot_write(target, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # after a swap, what was there before


@contextlib.contextmanager
def _own_faults(target: Path, temporary: Path) -> Iterator[None]:
    """Turns those errors inside the block into an OutputError that come from writing `temporary`."""
    try:
        yield
    except Text2LoraError:
        raise
    except (OSError, SafetensorError) as error:
        paths = [str(path) for path in (getattr(error, "filename", None), getattr(error, "filename2", None)) if path]
        if not any(path.startswith(str(temporary)) for path in paths) and not _is_of_a_disk(error):
            raise
        raise _cannot_write(target, error) from error


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""What a write to a file that is open fails with; such an error names no file."""


def _is_of_a_disk(error: Exception) -> bool:
    if isinstance(error, SafetensorError):  # whose text ends so where the system refuses
        return bool(found := re.search(r"\(os error (\d+)\)", str(error))) and int(found[1]) in DISK
    return getattr(error, "errno", None) in DISK


def _cannot_write(target: Path, error: Exception) -> OutputError:
    return OutputError(f"{target} cannot be written ({getattr(error, 'strerror', None) or error}): choose another name")


def make_readable(paths: Iterable[Path]) -> None:
    """Give files and folders that a library made private the permissions that a new one has here."""
    for path in paths:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


def _is_mount_point(place: Path) -> bool:
    """Whether something is mounted at a path, such as a folder or file that a container shares with its host."""
    if os.path.ismount(place):
        return True
    with contextlib.suppress(OSError):  # Linux knows of one from the same file system, too
        points = [line.split(b" ")[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
        plain = (re.sub(rb"\\(\d{3})", lambda found: bytes([int(found[1], 8)]), point) for point in points)
        return os.fsencode(place) in plain
    return False


ABANDONED = 7 * 24 * 3600
"""Seconds without a change after which what another host was writing is nobody's any more."""
_swept: tuple[Path, float] | None = None


def temporary_prefix(target: Path) -> str:
    """How the name of a temporary sibling of a file or folder begins: it says whose the sibling is.

    Siblings that killed processes left in the same parent are removed first: those of this host whose process is gone,
    and those of other hosts, which may share the parent, in which nothing has changed for a week.
    """
    global _swept
    if _swept is None or _swept[0] != target.parent or time.monotonic() - _swept[1] > 10:  # not at each of thousands
        _swept = target.parent, time.monotonic()
        for path in target.parent.glob(".*-t2l-*"):
            if _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
                with contextlib.suppress(OSError):  # another process was quicker, or another user's in /tmp
                    path.unlink()
    return f".{target.name[:48]}-t2l-{_host()}-{os.getpid()}-"


def _is_abandoned(path: Path) -> bool:
    found = re.fullmatch(r"\..*-t2l-([0-9a-f]{8})-(\d+)-[a-z0-9_]{8}", path.name, re.S)
    if not found:
        return False
    if found[1] == _host():
        return not _is_running(int(found[2]))
    with contextlib.suppress(OSError):  # it is being written, or another process removes it
        changed = max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
        return time.time() - changed > ABANDONED
    return False


@functools.cache
def _host() -> str:
    """Where a process number means the same process: on this machine since it started, in this container."""
    known = [socket.gethostname()]
    with contextlib.suppress(OSError):  # of Linux
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256(" ".join(known).encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _is_running(process: int) -> bool:
    if sys.platform == "win32":  # where asking would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def check_output(target: Path, names: Iterable[str], what: str = "an earlier report") -> None:
    """Refuse, before minutes are spent on it, a folder that `atomic_folder` could not or should not replace.

    Args:
        target: a folder, or nothing yet.
        names: of the files that it may hold, from an earlier run; `*` stands for anything.
        what: they are.

    Raises:
        OutputError: it is a file, holds something else, or its parent cannot be written.
    """
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file: choose another folder")
    patterns, found = list(names), sorted(os.listdir(target)) if target.is_dir() else []
    if foreign := [name for name in found if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]:
        raise OutputError(f"{target} holds {foreign[0]}, no part of {what}: choose another folder")
    with contextlib.suppress(_TriedOut), atomic_folder(target):
        raise _TriedOut


class _TriedOut(Exception):
    """Ends the block of `atomic_folder` without a change."""


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A temporary sibling file that becomes `target` when the block ends well, and is removed when it does not.

    Raises:
        OutputError: it cannot be written; a file that was there stays. Other errors inside the block stay as they
            are.
    """
    try:
        if target.exists() and not target.is_file():  # a folder, or a device, which must not be replaced
            raise OutputError(f"{target} is not a file: choose another name")
        if _is_mount_point(target):
            raise OutputError(f"{target} is a mount point, which cannot be replaced: choose another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=temporary_prefix(target), dir=target.parent)
        os.close(descriptor)
    except OutputError:
        raise
    except (OSError, ValueError) as error:  # the latter from characters that no path has
        raise _cannot_write(target, error) from error
    temporary = Path(name)
    try:
        with _own_faults(target, temporary):
            yield temporary
        try:
            make_readable([temporary])  # mkstemp makes it private
            os.replace(temporary, target)
        except OSError as error:
            raise _cannot_write(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(target: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: it cannot be written; a file that was there stays.
    """
    with atomic_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


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

    if name in CHECKPOINTS or name in BASES:
        return True
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not is_local(name)


def public_name(name: str) -> str:
    """A name for cards: of a path on this machine the last part only."""
    return ntpath.basename(ntpath.normpath(name)) if is_local(name) else name


def absolute_name(name: str) -> str:
    """A name that stands for the same wherever it is read: the absolute path of a folder here; all else as it is."""
    return os.path.abspath(name) if name not in BASES and os.path.isdir(name) else name


def distinct_names(names: Sequence[str], taken: Sequence[str] = (), whole: bool = True) -> list[str]:
    """Short names for reports, one each and all of them different.

    Of a path the last part, and more of them where it takes those to tell it from another.

    Args:
        names: paths, Hub ids, or names on a server.
        taken: names that mean something else.
        whole: keep all of a name that is no path of this machine.
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


def resolve_commit(
    source: str | os.PathLike[str], revision: str | None = None, **hub: Any
) -> ResolvedRevision | str | None:
    """The commit that a revision of a Hub repository stands for now, so that all its files are taken from that one.

    Args:
        source: a Hub id; for a folder the revision is given back as it is.
        revision: a branch, tag or commit; None is the default branch.
        **hub: `token`, `cache_dir`, `local_files_only`.

    Returns:
        A string that clients of the Hub take as a revision; its `resolved` is the commit.

    Raises:
        CheckpointError: there is no such repository or revision, or it cannot be reached and is not in the cache.
    """
    source = check_path(source)
    if not isinstance(revision, str | None):
        raise CheckpointError(f"revision is {shown(revision)}: expected a branch, a tag or a commit")
    if os.path.isdir(source):
        return revision
    name = str(source)
    if name in CHECKPOINTS:
        raise CheckpointError(_no_adapter(name))
    if is_local(name):
        raise CheckpointError(f"{name} does not exist: {_did_you_mean(name)}pass a folder or a Hub id")
    if "/" not in name:
        raise CheckpointError(_no_name(name))
    import huggingface_hub

    with hub_errors(name, revision):
        return _patiently(lambda: huggingface_hub.resolve_revision(name, revision=revision, **hub))


def fetch_files(
    source: str | os.PathLike[str],
    names: Sequence[str],
    subfolder: str | None = None,
    revision: str | None = None,
    **hub: Any,
) -> dict[str, Path]:
    """Paths of the named files of a folder or a Hub repository, downloaded where needed, all from one commit.

    Args:
        source: a folder or a Hub id.
        names: file names.
        subfolder: inside it.
        revision: a branch, tag or commit.
        **hub: `token`, `cache_dir`, `local_files_only`.

    Raises:
        CheckpointError: one of them is not there.
    """
    commit = resolve_commit(source, revision, **hub)
    check_subfolder(subfolder)
    folder = Path(source)
    if folder.is_dir():
        paths = {name: folder / (subfolder or "") / name for name in names}
        for path in paths.values():
            if not path.is_file():
                wanted = MARKERS["adapter"] in names and UPSTREAM_WEIGHTS not in names  # an adapter
                if wanted and is_checkpoint(path.parent):
                    raise CheckpointError(_no_adapter(str(path.parent)))
                raise CheckpointError(
                    f"{path.parent} has no {path.name}: {_look_inside(path.parent, path.name)}expected a folder with "
                    f"{' and '.join(names)}"
                )
        return paths
    from huggingface_hub import hf_hub_download

    with hub_errors(str(source), revision):
        return {
            name: Path(hf_hub_download(str(source), name, subfolder=subfolder, revision=commit, **hub))
            for name in names
        }


def find_file(
    source: str | os.PathLike[str],
    name: str,
    subfolder: str | None = None,
    revision: str | None = None,
    **hub: Any,
) -> Path | None:
    """The path of a file that a folder or a Hub repository need not have; None where it has none.

    Where the Hub must not be asked (HF_HUB_OFFLINE, `local_files_only`), it has what is in the cache.

    Args:
        source: a folder or a Hub id.
        name: the file's.
        subfolder: inside it.
        revision: a branch, tag or commit.
        **hub: `token`, `cache_dir`, `local_files_only`.

    Raises:
        CheckpointError: there is no such repository or revision, or it cannot be reached.
    """
    commit = resolve_commit(source, revision, **hub)
    if os.path.isdir(source):
        path = Path(source, subfolder or "", name)
        return path if path.is_file() else None
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    with hub_errors(str(source), revision):
        try:
            return Path(hf_hub_download(str(source), name, subfolder=subfolder, revision=commit, **hub))
        except RemoteEntryNotFoundError:
            return None
        except LocalEntryNotFoundError:
            if constants.is_offline_mode() or hub.get("local_files_only"):
                return None
            raise


@contextlib.contextmanager
def hub_errors(
    name: str, revision: str | None = None, kind: type[CheckpointError | HubError] = CheckpointError
) -> Iterator[None]:
    """Turns what the Hub's clients raise inside the block into one error of ours, with `hub_fault`'s line."""
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
    """What is wrong between here and the Hub, in one line that says what to do.

    Args:
        error: what a client of the Hub raised; its causes count too, since transformers wraps the Hub's errors.
        name: the repository.
        revision: that was asked for.

    Returns:
        None where neither the error nor its causes are the Hub's.
    """
    import httpx2
    from huggingface_hub import constants, errors

    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)

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
        return f"{name} has no {file}: expected a text2lora checkpoint or a LoRA adapter; check the name"
    if first(errors.LocalTokenNotFoundError):
        return f"you are not logged in to the Hub: {log_in}; {site}/settings/tokens makes a token that may write"
    if refused := first(errors.HfHubHTTPError):
        return _refusal(refused, name, log_in)
    not_here = first(errors.LocalEntryNotFoundError, errors.RevisionResolutionError, errors.OfflineModeIsEnabled)
    if not_here and constants.is_offline_mode():
        return f"{name} is not in the cache and HF_HUB_OFFLINE is set: {_did_you_mean(name)}unset it to reach the Hub"
    if first(httpx2.TimeoutException):
        return f"the Hub at {site} did not answer in time for {name}: {_did_you_mean(name)}try again"
    if first(httpx2.LocalProtocolError, UnicodeEncodeError):  # a header that HTTP cannot carry
        return f"the token for {name} cannot be sent: it is empty, or has a line break or a foreign letter; {log_in}"
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
    """Why a model or an adapter cannot be loaded, in one line.

    Args:
        error: what was raised.
        name: its folder or repository.
        revision: that was asked for.
        folder: where its files lie, if not in the folder of its name.
    """
    place = Path(folder or name)
    if pointer := next((path for path in sorted(place.glob("*")) if _is_pointer(path)), None):
        return f"{pointer} is a Git LFS pointer in place of the file: run `git lfs pull` in {place}"
    return hub_fault(error, name, revision) or first_line(error)


def _is_pointer(path: Path) -> bool:
    """Whether a file says only where Git LFS keeps the real one, as after a clone without Git LFS."""
    start = b"version https://git-lfs.github.com/spec/"
    return path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(start)


def proxies() -> dict[str, str]:
    """The variables that set proxies here, with what they say but for passwords."""
    names = [name for kind in ("all", "https", "http") for name in (f"{kind}_proxy", f"{kind}_proxy".upper())]
    return {name: re.sub(r"(?<=//)[^/@]*@", "***@", value) for name in names if (value := os.environ.get(name))}


def proxy_fault(error: BaseException) -> str | None:
    """What is wrong with a proxy that no client can be made for, in one line; None of an error of another kind."""
    told = ", ".join(f"{name}={value}" for name, value in proxies().items())
    if isinstance(error, ImportError) and "SOCKS" in str(error):
        return f"a SOCKS proxy ({told}) needs a package: pip install socksio, or set an HTTP proxy"
    if isinstance(error, ValueError) and "proxy URL" in str(error):
        return f"a proxy is no address ({told}): expected one as http://HOST:PORT"
    return None


def _refusal(error: Any, name: str, log_in: str) -> str:
    """`hub_fault` of an HTTP status."""
    status, told = error.response.status_code, _without_tokens(error.server_message or "").split("\n")[0]
    if status == 401:
        return f"the Hub does not accept the token for {name}: {log_in}, with a valid one"
    if status == 403:
        return f"the Hub does not let you do this with {name}: use a token that may, or propose it with --create-pr"
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        return f"the Hub limits your requests: try again {f'in {wait} s' if wait else 'later'}"
    if status in (409, 412):
        return f"{name} was changed by someone else meanwhile: try again"
    if status >= 500:
        return f"the Hub has trouble of its own with {name} (status {status}): try again later"
    return f"the Hub refuses {name} (status {status}{': ' * bool(told)}{told})"


def _without_tokens(text: str) -> str:
    return re.sub(r"hf_\w+|(?<=Bearer )\S+", "***", text)


def _no_name(name: str) -> str:
    hint = _did_you_mean(name)
    return f"{name} is neither a folder here nor a name that the Hub can have: {hint}expected a folder or USER/NAME"


def _no_adapter(name: str) -> str:
    return f"{name} is a checkpoint, no adapter: `t2l make TEXT --model {name}` makes adapters with it"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint of this library or of the reference."""
    if (folder / UPSTREAM_WEIGHTS).is_file():
        return True
    try:
        config = json.loads((folder / MARKERS["checkpoint"]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "text2lora"


def check_no_adapter(folder: Path) -> None:
    """Refuse, where a checkpoint is wanted, an adapter on this machine: transformers would load the base under it.

    Raises:
        CheckpointError: it is one.
    """
    files = (MARKERS["adapter"], "adapter_model.safetensors")
    if all((folder / name).is_file() for name in files) and not is_checkpoint(folder):
        raise CheckpointError(f"{folder} is an adapter, no checkpoint: `t2l run` and `t2l chat` (LoraAdapter) use it")


def _look_inside(folder: Path, name: str) -> str:
    """A folder inside a folder that holds a file of that name."""
    inside = sorted(path.parent for path in folder.glob(f"*/{name}"))
    return f"did you mean {str(inside[0])!r}? Otherwise " if inside else ""


def _did_you_mean(name: str) -> str:
    """A built-in name, a folder beside what was meant, or a repository in the cache, that is spelled like a name."""
    from huggingface_hub import constants

    wanted = os.path.normpath(name)
    cached = [path.name.removeprefix("models--") for path in Path(constants.HF_HUB_CACHE).glob("models--*")]
    beside = {str(path.parent) for marker in MARKERS.values() for path in Path(wanted).parent.glob(f"*/{marker}")}
    known = [*CHECKPOINTS, *sorted(beside), *(repo.replace("--", "/", 1) for repo in cached)]
    spelled = {other.lower(): other for other in reversed(known) if other != wanted}
    close = difflib.get_close_matches(wanted.lower(), spelled, 1, 0.75)
    return f"did you mean {spelled[close[0]]!r}? Otherwise " if close else ""


def _patiently(call: Callable[[], T]) -> T:
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


@dataclass(frozen=True)
class PushTarget:
    """A repository that may be pushed to.

    Attributes:
        repo_id: with its namespace.
        head: the commit that the push builds on; None where the repository is yet to be made.
    """

    repo_id: str
    head: str | None


def push_target(
    repo_id: str,
    kind: Literal["adapter", "checkpoint"],
    *,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    force: bool = False,
) -> PushTarget:
    """Find out whether a push can work, before anything is made or sent.

    Args:
        repo_id: `USER/NAME`, `ORGANIZATION/NAME`, or `NAME` for one of your own.
        kind: what will be pushed.
        token: a token of the Hub; None takes HF_TOKEN or the one of `hf auth login`.
        revision: the branch; None is the default one.
        create_pr: whether it will be a pull request, which needs no right to write.
        force: take a repository that holds something else.

    Raises:
        HubError: no valid token, no right to write, something else is there, or the Hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    for name, value, kinds in (("repo_id", repo_id, str), ("token", token, bool | str | None)):
        if not isinstance(value, kinds):
            raise HubError(f"{name} is {shown(value)}: expected {'USER/NAME' if name == 'repo_id' else 'a text'}")
    with hub_errors(" ".join(repo_id.split()), revision, HubError):
        validate_repo_id(repo_id)
        user = _patiently(lambda: huggingface_hub.whoami(token, cache=True))
        repo_id = repo_id if "/" in repo_id else f"{user['name']}/{repo_id}"
        role = user.get("auth", {}).get("accessToken", {}).get("role")
        owner, owners = repo_id.partition("/")[0], [user["name"], *(org["name"] for org in user.get("orgs", []))]
        if role == "read":
            raise HubError("your token may only read: make one that may write and `hf auth login` with it")
        if owner not in owners and not create_pr and role != "fineGrained":  # whose organizations may not be listed
            raise HubError(f"you are {owners[0]!r} on the Hub and may not write to {repo_id}: use --create-pr")
        api = huggingface_hub.HfApi(token=token)
        try:
            info = _patiently(lambda: api.model_info(repo_id, revision=revision))
        except RevisionNotFoundError:  # the branch will be made from the default one
            if create_pr:  # who may not write may not make a branch either
                raise
            info = _patiently(lambda: api.model_info(repo_id))
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return PushTarget(repo_id, None)
    files = {file.rfilename for file in info.siblings or []} - {".gitattributes"}
    ours = "text2lora" in (info.tags or []) and MARKERS[kind] in files
    if files and not ours and not force:
        raise HubError(
            f"{repo_id} holds {min(files)} and is no {kind} of text2lora: choose another name, or write into it with "
            "--force (force=True)"
        )
    return PushTarget(repo_id, info.sha)


def check_description_of(target: PushTarget, description: str, token: bool | str | None = None) -> None:
    """Refuse a repository that was found by a name made of a description and holds another description's adapter.

    Args:
        target: the repository.
        description: of the adapter that will be pushed.
        token: a token of the Hub.

    Raises:
        HubError: it is so.
    """
    if target.head is None:
        return
    card = find_file(target.repo_id, CARD_NAME, revision=target.head, token=token)
    theirs = card_metadata(card.read_text(encoding="utf-8", errors="replace")).get("description") if card else None
    if card and theirs != description:
        raise HubError(
            f"{target.repo_id} holds the adapter of {theirs or 'another description'!r}: choose another name with "
            "--repo-id, or replace it with --force"
        )


def push_folder(
    folder: Path,
    target: PushTarget,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
) -> CommitInfo:
    """Put a folder's files into a repository, in one commit: all of them or none.

    Raises:
        HubError: it does not work.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api, repo_id = HfApi(token=token), target.repo_id
    with hub_errors(repo_id, revision, HubError):
        if target.head is None:
            _patiently(lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        if revision and not create_pr and not revision.startswith("refs/"):
            _patiently(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
        # not upload_folder, which makes several commits of many files
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return _patiently(
            lambda: api.create_commit(
                repo_id,
                [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files],
                commit_message=commit_message or "Upload with text2lora",
                revision=revision,
                create_pr=create_pr,
                parent_commit=target.head,
            )
        )


def without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config for the Hub: `..._name_or_path` that others cannot find becomes None."""
    return {
        key: None if key.endswith("name_or_path") and isinstance(value, str) and not is_public(value) else value
        for key, value in values.items()
    }


ADAPTER_CARD = """---
{{ card_data }}
---

# {{ title }}

A LoRA adapter{% if base %} for {{ base }}{% endif %}, made from a sentence by a hypernetwork, without training data.

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
licence of the base model applies to its use, and so may that of the checkpoint that made it.
"""

MERGED_CARD = """---
{{ card_data }}
---

# {{ title }}

{{ base or "A model" }} with a LoRA adapter merged into it
{%- if description %}, which a hypernetwork made from a sentence:

> {{ description }}
{% else %}.
{% endif %}
| | |
|---|---|
{% for name, value in rows -%}
| {{ name }} | {{ value }} |
{% endfor %}
A description steers a model, it does not guarantee its behaviour: evaluate the model before you rely on it. The
licence of the base model applies, and so may that of the checkpoint that made the adapter.
"""

CHECKPOINT_CARD = """---
{{ card_data }}
---

# {{ title }}

A hypernetwork that turns a task description into a LoRA adapter{% if base %} for {{ base }}{% endif %}, in one
forward pass.

| | |
|---|---|
{% for name, value in rows -%}
| {{ name }} | {{ value }} |
{% endfor %}
```python
{{ snippet }}
```

Descriptions unlike those it was trained on may give adapters that do nothing or the wrong thing: evaluate an adapter
before you rely on it. The licences of the base model, of the text encoder and of the training data apply.
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


def adapter_card(spec: LoraSpec, metadata: Mapping[str, str], repo_id: str | None = None) -> str:
    """The README of an adapter, with the front matter that the Hub reads; `card_metadata` reads the metadata back.

    Args:
        spec: of the adapter.
        metadata: of the adapter; no path of this machine is shown.
        repo_id: where the adapter will be.
    """
    base, on_hub = _base_for_card(spec.base_model_name_or_path)
    loadable = base if on_hub or base in BASES else None
    return _card_of_lora(
        ADAPTER_CARD,
        spec,
        metadata,
        relation="adapter",
        library_name="peft",
        tags=["lora", "text2lora"] + ([f"base_model:adapter:{base}"] if on_hub else []),
        title="LoRA adapter",
        snippet=load_snippet(loadable, repo_id or "PATH_OR_REPO_OF_THIS_ADAPTER"),
    )


def merged_card(spec: LoraSpec, metadata: Mapping[str, str]) -> str:
    """The README of a base with an adapter merged into it.

    Args:
        spec: of the adapter.
        metadata: of the adapter; no path of this machine is shown.
    """
    return _card_of_lora(
        MERGED_CARD,
        spec,
        metadata,
        relation="finetune",
        library_name="transformers",
        tags=["text2lora"],
        title="Merged model",
    )


def _card_of_lora(
    template: str,
    spec: LoraSpec,
    metadata: Mapping[str, str],
    *,
    relation: str,
    library_name: str,
    tags: list[str],
    title: str,
    **fields: str,
) -> str:
    """What the cards of an adapter and of a merged model have in common."""
    from huggingface_hub import ModelCard, ModelCardData

    metadata = {key: value if key == "description" else public_name(value) for key, value in metadata.items()}
    base, on_hub = _base_for_card(spec.base_model_name_or_path)
    data: Any = ModelCardData(library_name=library_name, pipeline_tag="text-generation", tags=tags, text2lora=metadata)
    if on_hub:
        data.base_model, data.base_model_relation = base, relation
    description = " ".join(metadata.get("description", "").split())
    rows = {key.replace("_", " "): value for key, value in metadata.items() if key != "description"}
    rows |= {"r": str(spec.r), "alpha": f"{spec.lora_alpha:g}", "rsLoRA": "yes" if spec.use_rslora else "no"}
    rows |= {"target modules": ", ".join(spec.module_names)}
    card = ModelCard.from_template(
        data,
        template_str=template,
        title=escape_markdown(description[:80]) or title,
        description=escape_markdown(description),
        base=escape_markdown(base or ""),
        rows=[(escape_markdown(name), escape_markdown(value)) for name, value in rows.items()],
        **fields,
    )
    return str(card)


def card_metadata(card: str) -> dict[str, str]:
    """The metadata that `adapter_card` wrote; nothing where the card is another's."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        found = ModelCard(card, ignore_metadata_errors=True).data.to_dict().get("text2lora")
    except (ValueError, YAMLError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def checkpoint_card(
    config: Text2LoraConfig,
    num_parameters: int,
    repo_id: str | None = None,
    eval_results: Mapping[str, float] | None = None,
) -> str:
    """The README of a checkpoint, with the front matter that the Hub reads.

    Args:
        config: of the checkpoint; no path of this machine is shown.
        num_parameters: of the hypernetwork.
        repo_id: where the checkpoint will be.
        eval_results: figures by `TASK/METRIC`, as `gsm8k/accuracy`.

    Raises:
        CheckpointError: figures that are no numbers.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    title = repo_id.rpartition("/")[2] if repo_id else "text2lora checkpoint"
    base, on_hub = _base_for_card(config.base_model_name_or_path)
    given = {} if eval_results is None else eval_results
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and isinstance(value, int | float) and abs(value) <= sys.float_info.max
        for name, value in given.items()
    ):
        raise CheckpointError(f"eval_results is {shown(given)}: expected numbers by TASK/METRIC")
    figures = [(*name.rpartition("/")[::2], float(value)) for name, value in given.items()]
    data = ModelCardData(
        model_name=title if figures else None,
        library_name="text2lora",
        pipeline_tag="text-generation",
        base_model=base if on_hub else None,
        tags=["text2lora", "lora", "hypernetwork"],
        eval_results=[
            EvalResult("text-generation", task or "text2lora", task or "text2lora", metric, value)
            for task, metric, value in figures
        ]
        or None,
    )
    encoder = public_name(config.encoder_name_or_path or "none")
    rows = {
        "base model": f"{base or 'none'} {config.base_model_revision or ''}",
        "text encoder": f"{encoder} {config.encoder_revision or ''}",
        "task encoder": f"{config.task_encoder}, {config.task_emb_size} features",
        "hypernetwork": f"head {config.head}, width {config.latent_size} and {config.head_input_size}, "
        f"{num_parameters:,} parameters",
        "adapters": f"r {config.lora_r}, alpha {config.lora_alpha:g}{', rsLoRA' * config.use_rslora}, "
        f"{config.num_layers} layers of {', '.join(config.target_modules)}",
        "text2lora": library_version(),
    }
    rows |= {f"{task} {metric}".strip(): f"{value:g}" for task, metric, value in figures}
    snippet = (
        "from text2lora import Text2LoraModel\n\n"
        f"t2l = Text2LoraModel.from_pretrained({json.dumps(repo_id or 'PATH_OR_REPO_OF_THIS_CHECKPOINT')})\n"
        'adapter = t2l.generate_lora("Answer in capital letters.")\n'
        'adapter.save_pretrained("capitals")'
    )
    card = ModelCard.from_template(
        data,
        template_str=CHECKPOINT_CARD,
        title=escape_markdown(title),
        base=escape_markdown(base or ""),
        snippet=snippet,
        rows=[(escape_markdown(name), escape_markdown(value)) for name, value in rows.items()],
    )
    return str(card)


def escape_markdown(text: str) -> str:
    """Text as one line of Markdown that shows it as it is: no markup, no HTML, no end of a table's cell in it."""
    line = re.sub(r"([\\`*\[\]<>|~&$]|\b_\B|\B_)", r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d*)([-+#=.)])", r"\1\\\2", line)  # what would begin a heading, a list or a rule


def _base_for_card(name: str | None) -> tuple[str | None, bool]:
    """The base model's name without paths of this machine, and whether the Hub can have it."""
    return (public_name(name) if name else None), bool(name) and "/" in (name or "") and is_public(name or "")
