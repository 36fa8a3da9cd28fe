"""Limits WebSocket connections: the memory that messages hold, the time that reading takes, and unread pongs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from .read_throttle import QUICK_SECONDS
from .request_context import BUSY, ENDING, UNCOUNTED_BYTES, RequestContext
from .security import ConnectionLimits

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent

MAX_UNREAD_BYTES = 1 << 20
"""Limit of unread pongs, which uvicorn writes whether or not they are read."""

TRY_AGAIN_LATER = 1013
"""The close code of a WebSocket that has no room for a message."""

PIECE_BYTES = 4096
"""Bytes that are parsed at once. As empty frames they take about 10 ms."""


class LimitedSocket(WebSocketsSansIOProtocol):
    """A WebSocket whose messages count as held memory from their first bytes until the next message.

    What has arrived is parsed in pieces, and only while the application has no unread message. A connection whose
    bytes take long to parse, such as empty frames, is read with pauses.
    """

    def __init__(self, *, limits: ConnectionLimits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._context = RequestContext(limits.budget)
        self._pending_bytes = self._counted_bytes = 0
        self._open = limits.open
        self._throttle = limits.throttle
        self._unparsed = bytearray()
        self._pause: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._open[self] = None

    @property
    def waits_for_client(self) -> bool:
        return not getattr(self, "scope", {}).get(BUSY)

    def end(self) -> None:
        """Closes the connection at once, or after the message that is being answered."""
        if self.waits_for_client:
            self.shutdown()
        else:
            self.scope[ENDING] = True  # type: ignore[literal-required]

    def data_received(self, data: bytes) -> None:
        self._pending_bytes += len(data)
        if self._pending_bytes > UNCOUNTED_BYTES:
            if not self._counted_bytes:
                self._context.budget.release(self._context)
            if not self._context.budget.try_add(self._context, self._pending_bytes - self._counted_bytes):
                self._unparsed.clear()
                self.conn.fail(TRY_AGAIN_LATER, "other requests hold all memory; try again in a moment")
                self.handle_parser_exception()
                return
            self._counted_bytes = self._pending_bytes
        self._unparsed += data
        self._parse()

    def _parse(self) -> None:
        """Parses what has arrived, until a message is complete or the time for it is used up."""
        spent_seconds = 0.0
        while self._unparsed and self._pause is None and not self.read_paused and not self.transport.is_closing():
            piece = bytes(self._unparsed[:PIECE_BYTES])
            del self._unparsed[:PIECE_BYTES]
            began = time.thread_time()
            super().data_received(piece)
            spent_seconds += time.thread_time() - began
            if spent_seconds > QUICK_SECONDS:
                pause_seconds = self._throttle.pause_seconds(spent_seconds, self.loop.time())
                self._pause = self.loop.call_later(pause_seconds, self._go_on)
        if not self._unparsed and not self.frames and not self.conn.reader.buffer:
            self._pending_bytes = self._counted_bytes = 0
        if not self.transport.is_closing() and not self.read_paused:
            if self._unparsed or self._pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _go_on(self) -> None:
        self._pause = None
        self._parse()

    def send_receive_event_to_app(self) -> None:
        self._pending_bytes, self._counted_bytes = len(self._unparsed), 0
        super().send_receive_event_to_app()

    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        if self._unparsed or self._pause:
            self._parse()
        if not self.queue.empty():
            await asyncio.sleep(0)  # others get their turn, even if messages arrive faster than they are refused
        return message

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.pop(self, None)
        if self._pause is not None:
            self._pause.cancel()
        self._context.budget.release(self._context)
        super().connection_lost(exc)
