"""A stream of events from the engine's thread to one reader, in a thread or on an event loop."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from ..types.events import Event, Failed, Finished, Sink

if TYPE_CHECKING:
    import asyncio


class Stream:
    """Iterate it (`for` or `async for`) until the `Finished` or `Failed` event. Closing it early cancels the work."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._arrived = threading.Condition()
        self._wake: Callable[[], None] | None = None
        self._cancel: Callable[[], None] | None = None
        self._sink: Sink | None = None
        self._ended = False
        self._closed = False

    def put(self, event: Event) -> None:
        """Called by the engine."""
        with self._arrived:
            self._events.append(event)
            if self._sink is not None:
                self._sink(self._take())
            self._arrived.notify()
            wake = self._wake
        if wake is not None:
            wake()

    def forward(self, sink: Sink) -> None:
        """Hands every event to `sink`, on the thread that puts it, in place of a reader."""
        with self._arrived:
            while self._events:
                sink(self._take())
            self._sink = sink

    def on_close(self, cancel: Callable[[], None]) -> None:
        """Names what to call when the reader leaves before the end; called at once where it has left already."""
        with self._arrived:
            self._cancel = cancel
            gone = self._closed
        if gone:
            cancel()

    def close(self) -> None:
        """Ends the reading; cancels the work where it is not finished. May be called from any thread, and twice."""
        with self._arrived:
            cancel = None if self._ended or self._closed else self._cancel
            self._closed = True
            self._arrived.notify()
            wake = self._wake
        if wake is not None:
            wake()
        if cancel is not None:
            cancel()

    def __iter__(self) -> Iterator[Event]:
        try:
            while not self._ended:
                with self._arrived:
                    while not self._events:
                        if self._closed:
                            return
                        self._arrived.wait()
                    event = self._take()
                yield event
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[Event]:
        import asyncio  # a process that only passes events on does without

        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        with self._arrived:
            self._wake = lambda: _set_from_thread(loop, arrived)
        try:
            while not self._ended:
                with self._arrived:
                    event = self._take() if self._events else None
                    if event is None:
                        if self._closed:
                            return
                        arrived.clear()
                if event is None:
                    await arrived.wait()
                else:
                    yield event
        finally:
            self.close()

    def _take(self) -> Event:
        event = self._events.popleft()
        self._ended = isinstance(event, Finished | Failed)
        return event


def _set_from_thread(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and its reader with it
        loop.call_soon_threadsafe(event.set)
