"""Streams: one reader in a thread or on an event loop, and closing from either side."""

from __future__ import annotations

import asyncio
import threading

import pytest

from galago.models.errors import EngineError
from galago.runtime.inference.stream import Stream
from galago.runtime.types.events import Delta, Event, Failed, Started

EVENTS: list[Event] = [Started(1), Delta("a"), Delta("b"), Failed(EngineError("end"))]


def feed(stream: Stream, pause: float = 0.0) -> threading.Thread:
    def put() -> None:
        for event in EVENTS:
            threading.Event().wait(pause)
            stream.put(event)

    thread = threading.Thread(target=put)
    thread.start()
    return thread


@pytest.mark.parametrize("pause", [0.0, 0.01])
def test_a_thread_reads_every_event_in_order(pause: float) -> None:
    stream = Stream()
    thread = feed(stream, pause)
    assert list(stream) == EVENTS
    thread.join()


@pytest.mark.parametrize("pause", [0.0, 0.01])
def test_an_event_loop_reads_every_event_in_order(pause: float) -> None:
    async def read() -> list[Event]:
        return [event async for event in stream]

    stream = Stream()
    thread = feed(stream, pause)
    assert asyncio.run(read()) == EVENTS
    thread.join()


def test_closing_early_cancels_once() -> None:
    stream, cancelled = Stream(), []
    stream.on_close(lambda: cancelled.append(1))
    stream.close()
    stream.close()
    assert cancelled == [1]


def test_a_stream_closed_before_its_work_began_cancels_it_when_it_does() -> None:
    stream, cancelled = Stream(), []
    stream.close()
    stream.on_close(lambda: cancelled.append(1))
    assert cancelled == [1]


def test_a_stream_read_to_its_end_cancels_nothing() -> None:
    stream, cancelled = Stream(), []
    stream.on_close(lambda: cancelled.append(1))
    feed(stream).join()
    list(stream)
    stream.close()
    assert cancelled == []


def test_forwarded_events_reach_the_sink_in_order_whenever_they_came() -> None:
    stream, got = Stream(), list[Event]()
    cancelled: list[int] = []
    stream.on_close(lambda: cancelled.append(1))
    stream.put(EVENTS[0])
    stream.forward(got.append)
    for event in EVENTS[1:]:
        stream.put(event)
    stream.close()
    assert got == EVENTS
    assert cancelled == []


def test_closing_wakes_a_reader_that_waits() -> None:
    stream = Stream()
    threading.Timer(0.05, stream.close).start()
    assert list(stream) == []


def test_closing_wakes_a_reader_on_the_loop() -> None:
    stream = Stream()

    async def read() -> list[Event]:
        return [event async for event in stream]

    threading.Timer(0.05, stream.close).start()
    assert asyncio.run(asyncio.wait_for(read(), 5)) == []


def test_a_cancelled_reader_on_the_loop_cancels_the_work() -> None:
    stream, cancelled = Stream(), []
    stream.on_close(lambda: cancelled.append(1))

    async def read() -> None:
        async for _ in stream:
            pass

    async def main() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert cancelled == [1]
