"""Work that is asked for piece by piece and done in batches."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Made = TypeVar("Made")

LARGEST = 32
"""The most things that are made at once."""


class Together(Generic[Asked, Made]):
    """Makes one thing for each that is asked for; what is asked for at the same time is made in one batch.

    Args:
        make: makes a list of things, one for each that is asked for; it is never called by two threads at once.
    """

    def __init__(self, make: Callable[[Sequence[Asked]], Sequence[Made]]):
        self._make = make
        self._making = threading.Lock()
        self._waiting: deque[tuple[Asked, Future[Made]]] = deque()
        self._worker: tuple[int, ThreadPoolExecutor] | None = None

    def __call__(self, asked: Asked) -> Made:
        """Wait for the thing, or for the error of its batch. The thread that comes first makes what waits by then."""
        future = self._wait_for(asked)
        while not future.done():
            self._make_waiting()
        return future.result()

    def submit(self, asked: Asked) -> Future[Made]:
        """Let a thread of its own make a thing, in a batch with what else is waiting by then."""
        if self._worker is None or self._worker[0] != os.getpid():  # a fork has no threads of the process before it
            self._worker = os.getpid(), ThreadPoolExecutor(1, "text2lora")
        future = self._wait_for(asked)
        self._worker[1].submit(self._make_waiting)
        return future

    def _wait_for(self, asked: Asked) -> Future[Made]:
        future: Future[Made] = Future()
        self._waiting.append((asked, future))
        return future

    def _make_waiting(self) -> None:
        with self._making:
            taken: list[tuple[Asked, Future[Made]]] = []
            while self._waiting and len(taken) < LARGEST:
                asked, future = self._waiting.popleft()
                if future.set_running_or_notify_cancel():
                    taken.append((asked, future))
            if not taken:  # an earlier batch had it
                return
            try:
                made = self._make([asked for asked, _ in taken])
            except BaseException as error:
                for _, future in taken:
                    future.set_exception(error)
            else:
                for (_, future), one in zip(taken, made, strict=True):
                    future.set_result(one)
