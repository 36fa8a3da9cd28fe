"""Streams: one reader in a thread or on an event loop, and closing from either side."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from galago.models.errors import EngineError
from galago.runtime.inference import stream as stream_module
from galago.runtime.inference.stream import Stream
from galago.runtime.output.parser import EventParser
from galago.runtime.types.events import (
    Delta,
    Event,
    Failed,
    Finished,
    ParserSpec,
    ReasoningDelta,
    Started,
    Timings,
    TokenLogprob,
    ToolCallArguments,
    ToolCallStart,
    Usage,
)
from galago.runtime.types.messages import Tool

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


LOGPROBS = (TokenLogprob(b"a", -1.0, ((b"a", -1.0),) * 3),)


@pytest.mark.parametrize(("event", "fits"), [(Delta("a"), 9), (Delta("a", logprobs=LOGPROBS), 1)])
def test_an_answer_may_have_as_many_unread_tokens_as_the_limit(
    event: Event, fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probabilities count too."""
    monkeypatch.setattr(stream_module, "MAX_UNREAD_TOKENS", 9)
    stream, cancelled = Stream(), []
    stream.on_close(lambda: cancelled.append(1))
    for _ in range(fits):
        stream.put(event)
    reader = iter(stream)
    assert next(reader) == event and not cancelled
    for _ in range(fits + 1):
        stream.put(event)
    assert cancelled == [1]
    (last,) = reader
    assert isinstance(last, Failed) and "was not read" in last.error.message


SPEC = ParserSpec("hermes", (Tool("get_weather"),), ("<think>", "</think>"))
ANSWER = (
    "<think>\nhm\n</think>\n\nLet me see.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n</tool_call>'
)
FINISHED = Finished("stop", Usage(1, len(ANSWER)), Timings(0.0, 0.1, 0.2))


def parsed_answer(events: list[Event]) -> tuple[str, str, str, Finished]:
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    text = "".join(event.text for event in events if isinstance(event, Delta))
    reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert [event.name for event in events if isinstance(event, ToolCallStart)] == ["get_weather"]
    arguments = "".join(event.text for event in events if isinstance(event, ToolCallArguments))
    return text, reasoning, arguments, events[-1]


@pytest.mark.parametrize("size", [1, 7, len(ANSWER)])
def test_the_reader_parses_the_same_answer_however_its_text_is_split(size: int) -> None:
    pieces = [ANSWER[i : i + size] for i in range(0, len(ANSWER), size)]
    raw: list[Event] = [Started(1, parsing=SPEC), *(Delta(piece, len(piece)) for piece in pieces), FINISHED]

    async def read(stream: Stream) -> list[Event]:
        return [event async for event in stream]

    for read_on_loop in (False, True):
        stream = Stream()
        for event in raw:
            stream.put(event)
        text, reasoning, arguments, finished = parsed_answer(asyncio.run(read(stream)) if read_on_loop else [*stream])
        assert (text, reasoning, arguments) == ("Let me see.", "hm", '{"city": "Bern"}')
        assert finished.reason == "tool_calls"
        if size == 1:
            assert finished.usage.reasoning_tokens == len(">\nhm\n</think>")


def test_a_forwarded_stream_is_not_parsed() -> None:
    raw: list[Event] = [Started(1, parsing=SPEC), Delta(ANSWER), FINISHED]
    stream, got = Stream(), list[Event]()
    stream.forward(got.append)
    for event in raw:
        stream.put(event)
    assert got == raw


def test_a_stream_of_plain_text_enters_no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventParser, "__init__", None)
    stream = Stream()
    feed(stream).join()
    assert list(stream) == EVENTS


@pytest.mark.parametrize("spec", [SPEC, ParserSpec("no such format")])
@pytest.mark.parametrize("on_loop", [False, True])
def test_an_error_of_the_parser_fails_its_stream_once_and_cancels_its_work(
    spec: ParserSpec, on_loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: EventParser, _delta: Delta) -> list[Event]:
        raise RuntimeError("broken")

    async def read() -> list[Event]:
        return [event async for event in stream]

    monkeypatch.setattr(EventParser, "_feed_delta", fail)
    stream, cancelled = Stream(), []
    stream.on_close(lambda: cancelled.append(1))
    stream.put(Started(1, parsing=spec))
    stream.put(Delta("a"))
    stream.put(Delta("b"))
    events = asyncio.run(read()) if on_loop else list(stream)
    assert [event for event in events if not isinstance(event, Started)] == events[-1:]
    assert isinstance(events[-1], Failed) and "could not be parsed" in events[-1].error.message
    assert cancelled == [1]


def test_the_parser_imports_neither_llama_cpp_nor_numpy() -> None:
    code = "import sys, galago.runtime.output.parser\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"llama_cpp", "numpy"} & set(done.stdout.split())
