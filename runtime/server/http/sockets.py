"""Limits WebSocket connections: the memory that their messages hold, and pongs that are not read."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from .request_context import BUSY, UNCOUNTED_BYTES, RequestContext
from .security import ConnectionLimits

MAX_UNREAD_BYTES = 1 << 20
"""Limit of unread pongs, which uvicorn writes whether or not they are read."""

TRY_AGAIN_LATER = 1013
"""The close code of a WebSocket that has no room for a message."""


class LimitedSocket(WebSocketsSansIOProtocol):
    """A WebSocket whose messages count as held memory from their first bytes until the next message."""

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
