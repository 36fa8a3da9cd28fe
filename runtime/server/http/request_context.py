"""The context of a request in progress, and the memory that all requests together may hold.

A context variable carries a `RequestContext` from the guard, a batch or a WebSocket to the threads that prepare the
request. A short request without files enters no function of this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, BinaryIO

import msgspec
from msgspec import Struct

from ....models.errors import NotReady
from ...types.limits import limit, limit_error

if TYPE_CHECKING:
    from ..accounts.record import RequestRecord

UNCOUNTED_BYTES = 64 << 10
"""Size of a body up to which it is not counted: short requests never wait for long ones."""

COPIES = 2
"""Copies in memory: of a body while its JSON is decoded, and of a file while it is sent to the model's process."""

MAX_WAIT_SECONDS = 10.0
"""Longest wait of a request for others to be prepared."""

_POLL_SECONDS = 0.05

BUSY = "galago.busy"
"""In the scope of a WebSocket: whether a message is being answered."""
ENDING = "galago.ending"
"""In the scope of a WebSocket: whether it is closed after the message that is being answered."""


class MemoryBudget:
    """The bytes that all requests of a server hold. Thread-safe.

    When there is no room, the request that has held some for the longest time goes on, and the others wait for it. So
    requests that each hold a part of their body never wait for each other.
    """

    def __init__(self) -> None:
        self.max_values = limit("json_values")
        self._max_total = limit("total_held_bytes")
        self._max_files = limit("held_bytes")
        self._total = 0
        self._holders: dict[RequestContext, None] = {}
        """The requests that hold something, the oldest first."""
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def request(
        self, foreground: set[object] | None = None, record: RequestRecord | None = None
    ) -> Iterator[RequestContext]:
        """Context manager for the work on one request. Releases the memory that it holds at the end."""
        context = RequestContext(self, foreground, record=record)
        token = CURRENT.set(context)
        try:
            yield context
        finally:
            CURRENT.reset(token)
            self.end(context)

    async def add_body(self, context: RequestContext, size_bytes: int) -> None:
        """Counts bytes of a body when there is room. Raises `NotReady` if there is none in time."""
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while not self._add(context, COPIES * size_bytes, deadline):
            await asyncio.sleep(_POLL_SECONDS)

    def add(self, context: RequestContext, size_bytes: int) -> None:
        """Counts bytes on a thread, as `add_body` does."""
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while not self._add(context, COPIES * size_bytes, deadline):
            time.sleep(_POLL_SECONDS)

    def try_add(self, context: RequestContext, size_bytes: int) -> bool:
        """Counts bytes if there is room now."""
        return self._add(context, COPIES * size_bytes, inf)

    def read_file(
        self,
        context: RequestContext,
        name: str,
        open_file: Callable[[], BinaryIO],
        check: Callable[[io.BytesIO], None] = lambda _: None,
    ) -> bytes:
        """Reads and checks a stored file when there is room, and only once for each request.

        Raises `RequestTooLarge` if the request names too many bytes, and `NotReady` if there is no room in time.
        """
        data = context.files.get(name)
        if data is not None:
            self._check_named(context, len(data))
            return data
        with open_file() as file:
            size_bytes = os.fstat(file.fileno()).st_size
            self._check_named(context, size_bytes)
            self.add(context, size_bytes)
            data = file.read(size_bytes)
        check(io.BytesIO(data))
        context.files[name] = data
        return data

    def _check_named(self, context: RequestContext, size_bytes: int) -> None:
        context.named_bytes += size_bytes
        if context.named_bytes > self._max_files:
            raise limit_error("held_bytes", f"the files that the request names have {context.named_bytes:,} bytes")

    def end(self, context: RequestContext) -> None:
        """Releases the memory that a request holds, at once or when no thread prepares it any longer."""
        context.has_ended = True
        if not context.threads:
            self.release(context)

    def release(self, context: RequestContext) -> None:
        """Called when a request no longer holds anything large. May be called more than once."""
        with self._lock:
            self._total -= context.held_bytes
            context.held_bytes = 0
            self._holders.pop(context, None)
        context.files.clear()

    def _add(self, context: RequestContext, size_bytes: int, deadline: float) -> bool:
        """Counts bytes if there is room, or if the request is the first of those that are not prepared yet."""
        with self._lock:
            if self._total + size_bytes <= self._max_total or self._goes_first(context, size_bytes):
                self._holders[context] = None
                self._total += size_bytes
                context.held_bytes += size_bytes
                return True
        if time.monotonic() > deadline:
            raise NotReady("other requests hold all the memory that requests may use; try again in a moment")
        return False

    def _goes_first(self, context: RequestContext, size_bytes: int) -> bool:
        kept_bytes = sum(one.held_bytes for one in self._holders if one.is_kept and one is not context)
        if kept_bytes and kept_bytes + context.held_bytes + size_bytes > self._max_total:
            return False
        return next((one for one in self._holders if not one.is_kept), context) is context


class RequestContext(Struct, eq=False):
    """One request. `foreground` collects the requests being computed, other than those of batches."""

    budget: MemoryBudget
    foreground: set[object] | None = None
    client: str = ""
    """The client's identity, for the model's queue."""
    is_complete: bool = False
    """Whether all of its body has arrived."""
    held_bytes: int = 0
    """Bytes that the budget has counted."""
    named_bytes: int = 0
    """Bytes of the stored files that the request names; a file named twice counts twice."""
    files: dict[str, bytes] = msgspec.field(default_factory=dict)
    threads: int = 0
    """Threads that prepare the request, perhaps after its client has left."""
    is_kept: bool = False
    """Whether its memory is needed until its end, and not only until it is prepared."""
    has_ended: bool = False
    record: RequestRecord | None = None
    """What the request uses, if the server has API keys or an audit log."""


CURRENT: ContextVar[RequestContext | None] = ContextVar("CURRENT", default=None)
"""The request that this thread or task works on."""


def keep() -> None:
    """Marks the current request's memory as needed until its end."""
    if (context := CURRENT.get()) is not None:
        context.is_kept = True
