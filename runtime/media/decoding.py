"""Lets media be decoded one at a time, since one image may take 200 MB, and limits the time of each."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...models.errors import Cancelled
from ..types.limits import limit, limit_error

_POLL_SECONDS = 0.1
"""Polling interval of a waiting file, to notice that its client has left."""


class Decoding:
    """One file that this thread is decoding. Decoders call `check` as they proceed."""

    def __init__(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        self._cancelled = cancelled
        self._end = time.thread_time() + limit("decoding_seconds")

    def check(self) -> None:
        """Raises `Cancelled` if the client has left, and `MediaError` if the CPU time is used up."""
        _check_client(self._cancelled)
        if time.thread_time() > self._end:
            raise limit_error("decoding_seconds", "the file takes too long to decode; make it shorter or smaller")


class DecodingTurns:
    """Lets one file be decoded at a time. The smallest waiting file comes first.

    So images of the usual size wait for one large file at most, however many were sent before them.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int]] = []
        self._numbers = itertools.count()
        self._busy = False
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, size: int, cancelled: Callable[[], bool]) -> Iterator[Decoding]:
        """Waits until a file of `size` bytes may be decoded. Raises `Cancelled` if the client leaves before."""
        entry = (size, next(self._numbers))
        with self._changed:
            heapq.heappush(self._waiting, entry)
            try:
                while self._busy or self._waiting[0] != entry:
                    _check_client(cancelled)
                    self._changed.wait(_POLL_SECONDS)
                self._busy = True
            finally:
                self._waiting.remove(entry)
                heapq.heapify(self._waiting)
                self._changed.notify_all()  # the next file may have waited for this one
        try:
            yield Decoding(cancelled)
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()


def _check_client(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("the client is no longer waiting for this answer")
