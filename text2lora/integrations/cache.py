"""A folder of adapters with a limit on its size, which several processes may share."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from text2lora.adapter import WEIGHTS_NAME, LoraAdapter
from text2lora.errors import LimitError, OutputError
from text2lora.hub import is_adapter


class Lease:
    """An adapter that stays on disk until `release`, or until the process ends, however it ends.

    Attributes:
        folder: the folder of the adapter.
    """

    def __init__(self, folder: Path, lock: BinaryIO):
        self.folder, self._lock = folder, lock
        os.utime(lock.fileno())

    def release(self) -> None:
        """Allow the adapter to be evicted."""
        if not self._lock.closed:
            os.utime(self._lock.fileno())
            self._lock.close()


class AdapterCache:
    """Adapters on disk by name. New adapters replace the least recently used ones, but never those in use.

    For each adapter there is a lock file. Whoever uses the adapter, or makes it for its own use, holds it shared;
    whoever evicts it, alone. Who makes it holds a second one, alone, for as long as that takes: so an adapter is made
    once, by whichever thread or process comes first, and made again, under its leases, where others removed it. The
    system lets go of the locks of a process that dies. A lock file's time is when its adapter was last taken or given
    back.

    Args:
        directory: the folder that gets `adapters` and `locks`.
        max_bytes: the largest size of the weights of all adapters together.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, directory: Path, max_bytes: int):
        self.adapters, self.locks, self.max_bytes = directory / "adapters", directory / "locks", max_bytes
        with self._written():
            pass

    def lend(self, name: str, make: Callable[[], LoraAdapter]) -> Lease:
        """Lend the adapter of a name, and make it if it does not exist. Waits while another thread or process makes it.

        Args:
            name: the name of the adapter's folder; never a user's text.
            make: makes the adapter; called if it does not exist.

        Raises:
            LimitError: the adapters in use leave no room for it.
            OutputError: the folder cannot be written.
        """
        folder = self.adapters / name
        with self._written():
            lock = self._lock(name, fcntl.LOCK_SH)  # from here on no one evicts it
            try:
                if not is_adapter(folder):
                    with self._alone(f".{name}"):
                        if not is_adapter(folder):  # still, after another one may have made it
                            self._write(folder, make())
            except BaseException:
                with lock, contextlib.suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not folder.exists():  # or requests that are refused would fill the disk with lock files
                        (self.locks / name).unlink()
                raise
            return Lease(folder, lock)

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Hold a lock whose file is there for as long as someone holds it or waits for it."""
        with self._lock(name, fcntl.LOCK_EX):
            try:
                yield
            finally:
                (self.locks / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Both folders are there within the block, unless others remove them; what the system refuses is one error."""
        try:
            self.adapters.mkdir(parents=True, exist_ok=True)
            self.locks.mkdir(exist_ok=True)
            yield
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            directory = self.adapters.parent
            raise OutputError(f"{directory} cannot be written ({error.strerror}): choose another folder") from error

    def _write(self, folder: Path, adapter: LoraAdapter) -> None:
        with self._lock(".room", fcntl.LOCK_EX):  # one at a time, so that the limit holds for all processes together
            self._make_room(adapter.num_bytes)
            adapter.save_pretrained(folder)

    def _make_room(self, num_bytes: int) -> None:
        """Evict the least recently used adapters until a new one fits."""
        for path in self.adapters.glob(".*"):  # of a process that was killed here: the lock says that no other is
            shutil.rmtree(path, ignore_errors=True)
        sizes = {path: _size(path) for path in self.adapters.iterdir() if path.is_dir()}
        free = self.max_bytes - sum(sizes.values()) - num_bytes
        for path in sorted(sizes, key=self._last_use) if free < 0 else ():
            with contextlib.suppress(BlockingIOError), self._lock(path.name, fcntl.LOCK_EX | fcntl.LOCK_NB):
                gone = tempfile.mkdtemp(prefix=".", dir=self.adapters)
                with contextlib.suppress(FileNotFoundError):  # others removed it
                    path.rename(gone)  # whole or not at all, like its coming
                shutil.rmtree(gone)
                (self.locks / path.name).unlink()
                free += sizes.pop(path)
            if free >= 0:
                break
        if free < 0:
            raise LimitError(
                f"no room for an adapter of {num_bytes:,} bytes: the {len(sizes)} adapters in use take "
                f"{sum(sizes.values()):,} of {self.max_bytes:,} bytes; unload some, or allow more"
            )

    def _last_use(self, path: Path) -> float:
        lock = self.locks / path.name
        return lock.stat().st_mtime if lock.exists() else 0

    def _lock(self, name: str, operation: int) -> BinaryIO:
        """The open lock file of a name; closing it gives the lock back.

        Raises:
            BlockingIOError: another holds it, and the operation is not to wait.
        """
        path = self.locks / name
        while True:
            file = path.open("ab")
            try:
                fcntl.flock(file, operation)
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
            except FileNotFoundError:  # evicted between opening and locking: what is locked is no file of the cache
                pass
            except OSError:
                file.close()
                raise
            file.close()


def _size(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # others removed it
        return (folder / WEIGHTS_NAME).stat().st_size
    return 0
