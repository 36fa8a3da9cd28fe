"""A stream of an answer's events, from the thread that puts them to one reader, in a thread or on an event loop."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from ...models.errors import EngineError
from ..types.events import Event, Failed, Finished, Sink, Started

if TYPE_CHECKING:
    import asyncio

    from ..output.parser import EventParser


class Stream:
    """Iterate it (`for` or `async for`) until the `Finished` or `Failed` event. Closing it early cancels the work.

    The reader parses the answer's text if the `Started` event says how. An error of the parser ends this stream only.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._arrived = threading.Condition()
        self._wake: Callable[[], None] | None = None
        self._cancel: Callable[[], None] | None = None
        self._sink: Sink | None = None
        self._parser: EventParser | None = None
        self._ended = False
        self._closed = False

    def put(self, event: Event) -> None:
        """Adds an event. Called by the engine, or by the thread that receives a worker's messages."""
        with self._arrived:
            self._events.append(event)
            if self._sink is not None:
                self._sink(self._take())
            self._arrived.notify()
            wake = self._wake
        if wake is not None:
            wake()

    def forward(self, sink: Sink) -> None:
        """Passes every event to `sink` unparsed, on the thread that puts it. Replaces the reader."""
        with self._arrived:
            while self._events:
                sink(self._take())
            self._sink = sink

    def on_close(self, cancel: Callable[[], None]) -> None:
        """Sets the function to call if the reader leaves before the end. Calls it at once if the reader has left."""
        with self._arrived:
            self._cancel = cancel
            closed = self._closed
        if closed:
            cancel()

    def close(self) -> None:
        """Ends the iteration, and cancels the work unless it is finished. Any thread may call it, more than once."""
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
                if self._parser is None and not _needs_parser(event):
                    yield event
                else:
                    yield from self._parse(event)
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[Event]:
        import asyncio  # a process that only forwards events does not need it

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
                elif self._parser is None and not _needs_parser(event):
                    yield event
                else:
                    for parsed in self._parse(event):
                        yield parsed
        finally:
            self.close()

    def _take(self) -> Event:
        event = self._events.popleft()
        self._ended = isinstance(event, Finished | Failed)
        return event

    def _parse(self, event: Event) -> list[Event]:
        """The parsed events of a raw one. An error of the parser cancels the work and becomes the last event."""
        try:
            if self._parser is not None:
                return self._parser.feed(event)
            from ..output.parser import EventParser

            assert isinstance(event, Started) and event.parsing is not None
            self._parser = EventParser(event.parsing)
            return [event]
        except Exception as error:
            self.close()
            self._ended = True
            return [Failed(EngineError(f"the answer could not be parsed: {error!r}"))]


def _needs_parser(event: Event) -> bool:
    return isinstance(event, Started) and event.parsing is not None


def _set_from_thread(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and its reader with it
        loop.call_soon_threadsafe(event.set)
