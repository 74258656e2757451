"""Files: reading what users provide, and writing files and folders completely or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import errno
import fnmatch
import functools
import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from text2lora.errors import CheckpointError, InvalidArgumentError, OutputError, TaskError, Text2LoraError, shown

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def check_path(value: object, kind: type[Text2LoraError] = CheckpointError) -> str:
    """The path or Hub id as a string.

    Raises:
        Text2LoraError: of the given kind, if the value is neither, or empty.
    """
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path.strip():
        expected = "a folder" if kind is OutputError else "a folder or a Hub id"
        raise kind(f"{shown(value)} is not a path: expected {expected}")
    return path


def check_model_name(value: object) -> str:
    """The path or Hub id of a model as a string, see `check_path`. A `Path` never means a built-in name.

    Raises:
        CheckpointError: it is neither.
    """
    path = check_path(value)
    return path if isinstance(value, str) else os.path.abspath(path)


def check_subfolder(subfolder: object) -> str:
    """The path inside a folder or repository as a string; an empty one for None.

    Raises:
        InvalidArgumentError: the value is not such a path.
    """
    path = os.fspath(subfolder) if isinstance(subfolder, str | os.PathLike) else "" if subfolder is None else None
    if not isinstance(path, str):
        raise InvalidArgumentError(f"subfolder is {shown(subfolder)}: expected a path inside the folder or repository")
    return path


def folder_state(source: str) -> str:
    """A key for what a folder contains now, because a model on disk may be trained further while it is in memory.

    Any other name is returned unchanged.
    """
    if not os.path.isdir(source):
        return source
    found = sorted((path.name, path.lstat().st_mtime_ns, path.lstat().st_size) for path in Path(source).iterdir())
    return f"{os.path.realpath(source)} {found}"


def size(num_bytes: int) -> str:
    """A size for people: 152 kB."""
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


@contextlib.contextmanager
def atomic_folder(target: Path, replace: bool = True) -> Iterator[Path]:
    """A temporary sibling folder that becomes `target` if the block succeeds, and is removed if it fails.

    If the process is killed, a new target is absent or complete. An existing target is unchanged or complete if the
    system can swap two folders in one step (Linux and macOS, on their own file systems); elsewhere it is absent for an
    instant, while the old folder is kept next to it, hidden. Leftovers of a killed process are removed by the next save
    into the same parent, see `temporary_prefix`. Without `replace`, something that is there is an error, also if
    another process wrote it inside the block.

    Raises:
        OutputError: the parent or the folder cannot be written, the target is the working directory or a mount point,
            or something is there that may not be replaced. Other errors inside the block are not changed.
    """
    with _refusals(target):
        place = Path(os.path.realpath(target))  # of a link, what it points to
        if place == Path.cwd():
            raise OutputError(f"{target} is the working directory, which cannot be replaced: choose another folder")
        if _is_mount_point(place):
            raise OutputError(f"{target} is a mount point, which cannot be replaced: choose a folder in it")
        place.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=temporary_prefix(place), dir=place.parent))
    try:
        folder.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        with _own_faults(target, folder):
            yield folder
        with _refusals(target):
            make_readable(folder.rglob("*"))
            if not replace:
                _rename_to_new(folder, place, target)
            elif not place.exists():
                folder.rename(place)
            elif not _swap(folder, place):
                old = folder.with_name(folder.name + "-old")
                place.rename(old)
                try:
                    folder.rename(place)
                except OSError:
                    old.rename(place)
                    raise
                _remove(old)
    finally:
        _remove(folder)  # after a swap, what was there before


def _rename_to_new(folder: Path, place: Path, target: Path) -> None:
    with contextlib.suppress(OSError):
        place.rmdir()  # an empty folder, which Windows does not replace
    try:
        folder.rename(place)  # which fails where there is something, in the same instant
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise OutputError(f"{target} exists: choose another folder, or replace it with --force (force=True)") from error


def _remove(folder: Path) -> None:
    """Remove a folder, also one in which nothing may be changed."""
    if folder.is_dir():
        with contextlib.suppress(OSError):  # another user's
            folder.chmod(0o700)
            for parent, names, _ in os.walk(folder):
                for name in names:
                    if not os.path.islink(path := os.path.join(parent, name)):
                        os.chmod(path, 0o700)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _refusals(target: Path) -> Iterator[None]:
    """Turns what the system refuses inside the block into an OutputError."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, ValueError) as error:  # the latter from characters that no path has
        raise _cannot_write(target, error) from error


@contextlib.contextmanager
def _own_faults(target: Path, temporary: Path) -> Iterator[None]:
    """Turns errors that come from writing `temporary` inside the block into an OutputError."""
    try:
        yield
    except OutputError as error:  # of what is written inside of the temporary one, whose name says nothing to anybody
        raise OutputError(str(error).replace(str(temporary), str(target))) from error
    except Text2LoraError:
        raise
    except (OSError, SafetensorError) as error:
        paths = [str(path) for path in (getattr(error, "filename", None), getattr(error, "filename2", None)) if path]
        if not any(path.startswith(str(temporary)) for path in paths) and not _is_of_a_disk(error):
            raise
        raise _cannot_write(target, error) from error


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""The errors of a write to an open file, which do not name the file."""


def _is_of_a_disk(error: Exception) -> bool:
    if isinstance(error, SafetensorError):  # whose text ends so where the system refuses
        found = re.search(r"\(os error (\d+)\)", str(error))
        return found is not None and int(found[1]) in DISK
    return getattr(error, "errno", None) in DISK


def _cannot_write(target: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{target} cannot be written ({reason}): choose another place")


def make_readable(paths: Iterable[Path]) -> None:
    """Give files and folders that a library made private the usual permissions of new ones."""
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
"""Seconds without a change after which a temporary file of another host counts as abandoned."""
_swept: tuple[Path, float] | None = None


def temporary_prefix(target: Path) -> str:
    """The beginning of the name of a temporary sibling of a file or folder, which says which process made it.

    Siblings that killed processes left in the same parent are removed first: those of this host whose process has
    ended, and those of other hosts, which may share the parent, if nothing in them has changed for a week.
    """
    global _swept
    if _swept is None or _swept[0] != target.parent or time.monotonic() - _swept[1] > 10:  # not at each of thousands
        _swept = target.parent, time.monotonic()
        for path in target.parent.glob(".*-t2l-*"):
            if _is_abandoned(path):
                _remove(path)
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
    """Identifies where process numbers are unique: this container on this machine, since it started."""
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


def check_output(target: Path, names: Iterable[str], what: str = "an earlier report", replace: bool = True) -> None:
    """Refuse a folder that `atomic_folder` could not or should not replace, before minutes of work are spent.

    Args:
        target: the folder, which need not exist.
        names: the names of the files that it may contain from an earlier run; `*` matches anything.
        what: what these files are, for the message.
        replace: whether they may be replaced.

    Raises:
        OutputError: the target is a file, contains something else, or its parent cannot be written.
    """
    if not replace and target.is_dir() and any(target.iterdir()):
        raise OutputError(f"{target} exists: choose another folder, or replace {what} with --force (force=True)")
    check_contents(target, names, what)
    with contextlib.suppress(_TriedOut), atomic_folder(target):
        raise _TriedOut


def check_contents(target: Path, names: Iterable[str], what: str) -> None:
    """Refuse a target that is a file, or a folder that contains something else than files of these names.

    A README.md counts as one of them only if it is a card that text2lora wrote. See `check_output`.

    Raises:
        OutputError: the target is such a file or folder.
    """
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file: choose another folder")
    patterns, found = list(names), sorted(os.listdir(target)) if target.is_dir() else []
    if foreign := [
        name
        for name in found
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) or is_foreign_card(target / name)
    ]:
        raise OutputError(
            f"{target} contains {foreign[0]}, which is not part of {what}: choose another folder or empty it"
        )


def is_foreign_card(path: Path) -> bool:
    """Whether a file is a README.md without the tag text2lora in its front matter: cards of ours have it."""
    if path.name != "README.md" or not path.is_file():
        return False
    front = path.read_bytes().partition(b"\n---")[0]
    return not (front.startswith(b"---") and b"text2lora" in front)


class _TriedOut(Exception):
    """Ends the block of `atomic_folder` without a change."""


@contextlib.contextmanager
def atomic_file(target: Path, replace: bool = True) -> Iterator[Path]:
    """A temporary sibling file that becomes `target` if the block succeeds, and is removed if it fails.

    Without `replace`, a file that is there is an error, also if another process wrote it inside the block.

    Raises:
        OutputError: the file cannot be written, or may not be replaced; an existing file is kept. Other errors inside
            the block are not changed.
    """
    with _refusals(target):
        if target.exists() and not target.is_file():  # a folder, or a device, which must not be replaced
            raise OutputError(f"{target} is not a file: choose another place")
        if _is_mount_point(target):
            raise OutputError(f"{target} is a mount point, which cannot be replaced: choose another place")
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=temporary_prefix(target), dir=target.parent)
        os.close(descriptor)
    temporary = Path(name)
    try:
        with _own_faults(target, temporary):
            yield temporary
        with _refusals(target):
            make_readable([temporary])  # mkstemp makes it private
            if not replace:
                _link_to_new(temporary, target)
            else:
                os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _link_to_new(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)  # which fails where there is a file, in the same instant
    except FileExistsError as error:
        raise OutputError(f"{target} exists: choose another name, or replace it with --force (force=True)") from error
    except OSError:  # of a file system without links
        os.rename(temporary, target)


def file_system(path: str, kind: type[Text2LoraError]) -> tuple[AbstractFileSystem, str]:
    """The file system of a path or URL, as `s3://bucket/name`, and the path in it.

    Raises:
        Text2LoraError: of the given kind, if fsspec does not know such URLs or lacks a package for them.
    """
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    if "://" not in path:
        return LocalFileSystem(), os.path.abspath(path)
    try:
        return url_to_fs(path)
    except Exception as error:  # which depends on the file system
        raise kind(f"{path} cannot be used ({first_line(error)})") from error


@contextlib.contextmanager
def atomic_url(target: str) -> Iterator[Path]:
    """As `atomic_file`, for a path of this machine or any URL that fsspec knows.

    What is at a URL is uploaded when the block ends well: in one piece where the file system has transactions or is a
    store of objects.

    Raises:
        OutputError: it cannot be written. Other errors inside the block stay as they are.
    """
    if "://" not in target:
        with atomic_file(Path(target)) as temporary:
            yield temporary
        return
    files, place = file_system(target, OutputError)
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "file")
        try:
            try:
                whole = files.transaction
            except NotImplementedError:  # of the Hub, where an upload is one commit
                whole = contextlib.nullcontext()
            with whole:
                files.put_file(str(Path(folder, "file")), place)
        except Exception as error:  # which depends on the file system
            raise OutputError(f"{target} cannot be written ({first_line(error)})") from error


def write_atomically(target: Path, text: str) -> None:
    """Write a file completely or not at all.

    Raises:
        OutputError: the file cannot be written; an existing file is kept.
    """
    with atomic_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _swap(one: Path, two: Path) -> bool:
    """Swap two folders in one step; False if the system or the file system has no call for it."""
    paths, here = (os.fsencode(one), os.fsencode(two)), -100  # AT_FDCWD
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return bool(libc.renamex_np(*paths, 2) == 0)  # RENAME_SWAP
        return bool(libc.renameat2(here, paths[0], here, paths[1], 2) == 0)  # RENAME_EXCHANGE
    return False


def _umask() -> int:
    """What new files of this process are not allowed; asking the system sets it for a moment, reading does not."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        return int(re.search(rb"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_bytes(), re.M)[1], 8)  # type: ignore[index]
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_text(path: Path, kind: type[Text2LoraError] = TaskError) -> str:
    """Read the text of a file: UTF-8, with or without a byte order mark, gzipped or not.

    Raises:
        Text2LoraError: of the given kind, if the file cannot be read.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (OSError, EOFError, zlib.error, ValueError) as error:  # the last from characters that no path has
        hint = _similar(path) if isinstance(error, FileNotFoundError) else ""
        raise kind(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}){hint}") from error
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise kind(f"{path} cannot be read (line {line} is not UTF-8 text): save it as UTF-8") from error


def _similar(path: Path) -> str:
    """A hint at a file in the same folder that is named alike; empty if there is none."""
    beside = [other.name for other in path.parent.glob("*") if other.is_file()]
    close = difflib.get_close_matches(path.name, beside, 1, 0.75)
    return f": did you mean {str(path.with_name(close[0]))!r}?" if close else ""


def parse_yaml(text: str, wrong: str, kind: type[Text2LoraError]) -> Any:
    """The values in a YAML text, of plain types only.

    Raises:
        Text2LoraError: of the given kind, if the text is not such YAML; it begins with `wrong`.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the second from dates that no calendar has
        mark = getattr(error, "problem_mark", None)
        reason = f"line {mark.line + 1}: {getattr(error, 'problem', None) or 'no YAML'}" if mark else str(error)
        raise kind(f"{wrong} ({reason})") from error


def read_json_lines(path: Path, kind: type[Text2LoraError] = TaskError) -> list[Any]:
    """Read the values of a JSON lines file; empty lines are skipped.

    Raises:
        Text2LoraError: of the given kind, if the file cannot be read or a line is not JSON.
    """
    values = []
    text = read_text(path, kind)
    if re.match(r"\s*\[\s*\{", text):
        raise kind(f"{path} is one JSON array of objects: write each object on a line of its own, without brackets")
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would also cut at U+2028
        if line.strip():
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise kind(f"{path} line {number} is not JSON ({error})") from error
    return values
