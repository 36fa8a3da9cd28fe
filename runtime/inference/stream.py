"""A stream of an answer's events, from the thread that produces them to one reader, on a thread or an event loop."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from ...models.errors import EngineError
from ..types.events import Delta, Event, Failed, Finished, Sink, Started

if TYPE_CHECKING:
    import asyncio

    from ..output.parser import EventParser


MAX_UNREAD_TOKENS = 1 << 16
"""Tokens and log-probabilities that wait for the reader. An answer that nobody reads must not fill the memory."""


class Stream:
    """Iterate it (`for` or `async for`) until the `Finished` or `Failed` event. Closing it early cancels the work.

    The reader parses the answer's text if the `Started` event says how. An error of the parser ends this stream only.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._arrived = threading.Condition()
        self._wake: Callable[[], None] | None = None
        """Wakes a reader on an event loop; `None` while it is awake."""
        self._cancel: Callable[[], None] | None = None
        self._sink: Sink | None = None
        self._parser: EventParser | None = None
        self._on_end: Callable[[], object] | None = None
        self._observer: Callable[[Event | None], None] | None = None
        self._unread_tokens = 0
        self._is_complete = False
        self._ended = False
        self._closed = False

    def put(self, event: Event) -> None:
        """Adds an event. Called by the engine, or by the thread that receives a worker's messages.

        An answer with too much unread output is cancelled, and ends with an error.
        """
        with self._arrived:
            if self._is_complete:
                return
            self._unread_tokens += _token_count(event)
            too_many = self._unread_tokens > MAX_UNREAD_TOKENS and self._sink is None
            if too_many:
                self._events.clear()
                event = Failed(EngineError("the answer was stopped because it was not read; read it faster"))
            if self._observer is not None:
                self._observer(event)
            self._events.append(event)
            self._is_complete = isinstance(event, Finished | Failed)
            if self._sink is not None:
                self._sink(self._take())
            self._arrived.notify()
            wake, self._wake = self._wake, None
            on_end = self._on_end if self._is_complete else None
        if too_many and self._cancel is not None:
            self._cancel()
        if wake is not None:
            wake()
        if on_end is not None:
            on_end()

    def on_end(self, callback: Callable[[], object]) -> None:
        """Sets a function that is called, perhaps more than once, after the last event or when the reader has left."""
        with self._arrived:
            self._on_end = callback
            has_ended = self._is_complete or self._closed
        if has_ended:
            callback()

    def observe(self, observer: Callable[[Event | None], None]) -> None:
        """Sets a function that gets each event, unparsed, also if nobody reads it, and `None` when the reader leaves.

        Must be called before the stream is read. The function must not use the stream.
        """
        with self._arrived:
            self._observer = observer
            for event in self._events:
                observer(event)
            if self._closed:
                observer(None)

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
            if self._observer is not None:
                self._observer(None)
            self._arrived.notify()
            wake, self._wake = self._wake, None
            on_end = self._on_end
        if wake is not None:
            wake()
        if cancel is not None:
            cancel()
        if on_end is not None:
            on_end()

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
        wake = partial(_set_from_thread, loop, arrived)
        try:
            while not self._ended:
                with self._arrived:
                    event = self._take() if self._events else None
                    if event is None:
                        if self._closed:
                            return
                        arrived.clear()
                        self._wake = wake
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
        self._unread_tokens -= _token_count(event)
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


def _token_count(event: Event) -> int:
    """The size of an event, in tokens and log-probabilities."""
    return 1 + sum(1 + len(one.top_logprobs) for one in event.logprobs) if isinstance(event, Delta) else 1


def _needs_parser(event: Event) -> bool:
    return isinstance(event, Started) and event.parsing is not None


def _set_from_thread(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and its reader with it
        loop.call_soon_threadsafe(event.set)
