"""Limits connections: their number, the time and size of a request's head, and for how long an answer stays unread.

The time between two requests is uvicorn's setting, and the pace of a body is the guard's matter (`http/security.py`).
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ...models.errors import GalagoError
from ..types.limits import limit, limit_error
from .http.errors import ErrorResponses
from .http.request_context import BUSY, UNCOUNTED_BYTES, MemoryBudget, RequestContext

MAX_UNREAD_BYTES = 1 << 20
"""Of pongs, which uvicorn writes whether or not they are read."""

TRY_AGAIN_LATER = 1013
"""The code with which a WebSocket is closed that finds no room for a message."""


class ConnectionLimits:
    """The limits, read when this is created, and what a connection needs to refuse one in the API's form."""

    def __init__(self, budget: MemoryBudget, error_responses: ErrorResponses) -> None:
        self.budget = budget
        self.connections = limit("connections")
        self.head_seconds = limit("header_seconds")
        self.head_bytes = limit("header_bytes")
        self.unread_seconds = limit("body_seconds")
        self.open: dict[LimitedConnection | LimitedSocket, None] = {}
        """The open connections, the oldest first."""
        self._error_responses = error_responses

    def make_room(self) -> bool:
        """Closes the oldest connection that waits for its client. Returns whether there is one."""
        oldest = next((one for one in self.open if one.waits_for_client), None)
        if oldest is not None:
            del self.open[oldest]
            oldest.transport.abort()
        return oldest is not None

    def response(self, error: GalagoError) -> bytes:
        """A whole response, after which the connection is closed."""
        response = self._error_responses.response(error, "")
        headers = [(b"connection", b"close"), *response.raw_headers]
        lines = [b"HTTP/1.1 %d " % response.status_code, *(b"%s: %s" % header for header in headers), b"", b""]
        return b"\r\n".join(lines) + bytes(response.body)


class LimitedConnection(HttpToolsProtocol):
    """An HTTP connection within the limits. At their limit, a new one takes the place of one that waits."""

    def __init__(self, *, limits: ConnectionLimits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._receiving: Literal["head", "body"] | None = None
        self._head_bytes = 0
        self._head_since: float | None = None
        self._unread: tuple[int, float] = (0, 0.0)
        """Bytes that wait for the client to read, and since when there are so many."""
        self.opened = self.loop.time()

    @property
    def waits_for_client(self) -> bool:
        """Whether there is no request, or half of one."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self.cycle.more_body and not self.cycle.response_started

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self._limits.open) >= self._limits.connections and not self._limits.make_room():
            self._refuse(limit_error("connections", "the server has too many open connections"))
            return
        self._limits.open[self] = None
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.open.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        continues_head = self._receiving == "head"
        super().data_received(data)
        if continues_head and self._receiving == "head":
            self._count_head(len(data))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving, self._head_bytes = "head", 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._receiving == "head":  # later ones are a chunked body's trailers, which nobody reads
            super().on_header(name, value)
            self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._receiving = "body"
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._receiving = None
        super().on_message_complete()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.head_bytes and not self.transport.is_closing():
            self._refuse(limit_error("header_bytes", "the request's headers are too large"))

    def _watch(self) -> None:
        self._timer = self.loop.call_later(self._limits.head_seconds / 2, self._check)

    def _check(self) -> None:
        """Closes a connection whose client sends no head, or reads no answer, in time."""
        now = self.loop.time()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            if self._head_since is None:
                self._head_since = now if self.cycle else self.opened
            if not self._waits_for_head():
                self._head_since = None
            elif now - self._head_since >= self._limits.head_seconds:
                self._refuse(limit_error("header_seconds", "the request's headers did not arrive in time"))
                return
        else:
            self._head_since = None
            size = self.transport.get_write_buffer_size() if self.flow.write_paused else 0
            if not size or size != self._unread[0]:
                self._unread = (size, now)
            elif now - self._unread[1] >= self._limits.unread_seconds:
                self.transport.abort()
                return
        self._watch()

    def _waits_for_head(self) -> bool:
        """Whether the first head is missing, half of another has come, or a body goes on after its response."""
        return self.cycle is None or self._receiving is not None

    def _refuse(self, error: GalagoError) -> None:
        self._limits.open.pop(self, None)
        self.transport.write(self._limits.response(error))
        self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._limits.open.pop(self, None)
        super().handle_websocket_upgrade()


class LimitedSocket(WebSocketsSansIOProtocol):
    """A WebSocket whose messages count as memory that is held, from their first bytes until the next message."""

    def __init__(self, *, limits: ConnectionLimits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._context = RequestContext(limits.budget)
        self._pending_bytes = self._counted_bytes = 0
        self._open = limits.open

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._open[self] = None

    @property
    def waits_for_client(self) -> bool:
        return not getattr(self, "scope", {}).get(BUSY)

    def data_received(self, data: bytes) -> None:
        self._pending_bytes += len(data)
        if self._pending_bytes > UNCOUNTED_BYTES:
            if not self._counted_bytes:
                self._context.budget.release(self._context)
            if not self._context.budget.try_add(self._context, self._pending_bytes - self._counted_bytes):
                self.conn.fail(TRY_AGAIN_LATER, "other requests hold all memory; try again in a moment")
                self.handle_parser_exception()
                return
            self._counted_bytes = self._pending_bytes
        super().data_received(data)
        if not self.frames and not self.conn.reader.buffer:
            self._pending_bytes = self._counted_bytes = 0

    def send_receive_event_to_app(self) -> None:
        self._pending_bytes = self._counted_bytes = 0
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.pop(self, None)
        self._context.budget.release(self._context)
        super().connection_lost(exc)
