"""Encodes the events of one or several answers as a whole answer, or as a stream of SSE or NDJSON.

A dialect gives an `Encoder`, which turns events into its chunks. The loop reads the events, sends the chunks, turns an
error after the status line into the dialect's error chunk, and closes the streams at the end or when the client leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

from msgspec import Struct
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ....models.errors import EngineCrashed, GalagoError
from ...inference.stream import Stream
from ...types.events import Event, Failed, Finished, OutputDelta, Started
from ...types.request import Request
from .request_context import CURRENT
from .request_io import encode_json
from .warning_log import log_new

GenerateFunction: TypeAlias = Callable[[Request, Callable[[], bool]], Stream]
IndexedEvent: TypeAlias = tuple[int, Event]
Chunk = TypeVar("Chunk", bound=Struct, covariant=True)
C = TypeVar("C", bound=Struct)

MAX_CHOICES = 32
"""Maximum number of answers to one request."""


class Encoder(Protocol[Chunk]):
    """Turns the events of one request's answers into the chunks of a dialect; `index` counts the answers from 0."""

    def start(self, index: int, event: Started) -> Iterable[Chunk]: ...

    def delta(self, index: int, event: OutputDelta) -> Iterable[Chunk]: ...

    def finish(self, index: int, event: Finished) -> Iterable[Chunk]: ...

    def cancel(self) -> Iterable[Chunk]:
        """The streams were closed before all answers had finished."""
        ...


class StreamEncoder(Encoder[Chunk], Protocol[Chunk]):
    """An encoder whose chunks are sent to a client."""

    def fail(self, error: GalagoError) -> Iterable[Struct]:
        """The chunks that end the stream in place of the rest of the answer."""
        ...


async def encode(choices: Sequence[Choices], encoder: Encoder[C]) -> AsyncGenerator[C, None]:
    """The chunks of the answers to one or several prompts. Raises the error of an answer that has failed.

    Ends with the answers, and closes their streams at the end.
    """
    unfinished = sum(one.count for one in choices)
    try:
        async with contextlib.aclosing(_merged(choices)) as events:
            async for index, event in events:
                match event:
                    case Started():
                        if event.warnings:
                            log_new(event.warnings)
                        chunks = encoder.start(index, event)
                    case Finished():
                        unfinished -= 1
                        chunks = encoder.finish(index, event)
                    case Failed(error=error):
                        raise error
                    case _:
                        chunks = encoder.delta(index, event)
                for chunk in chunks:
                    yield chunk
        for chunk in encoder.cancel() if unfinished else ():
            yield chunk
    finally:
        for one in choices:
            one.close()


@dataclass(frozen=True, slots=True)
class Framing:
    """How chunks are written to a streamed body; `end` follows the last one of an answer that did not fail.

    `comment` writes a text for people that clients skip.
    """

    media_type: str
    frame: Callable[[Struct], bytes]
    end: bytes = b""
    comment: Callable[[str], bytes] | None = None


def _data_event(chunk: Struct) -> bytes:
    return b"data: " + encode_json(chunk) + b"\n\n"


def _named_event(chunk: Struct) -> bytes:
    """An event that has the tag of its struct as its name."""
    name = str(chunk.__struct_config__.tag)
    return b"event: " + name.encode() + b"\ndata: " + encode_json(chunk) + b"\n\n"


def _line(chunk: Struct) -> bytes:
    return encode_json(chunk) + b"\n"


def _comment(text: str) -> bytes:
    return b": " + " ".join(text.split()).encode() + b"\n\n"


SSE = Framing("text/event-stream", _data_event, b"data: [DONE]\n\n", _comment)
NAMED_SSE = Framing("text/event-stream", _named_event, comment=_comment)
NDJSON = Framing("application/x-ndjson", _line)


COMMENT_SECONDS = 2.0
"""Time between two comments about a model that is being loaded."""


class ChunkResponse(StreamingResponse):
    """Sends chunks as they come. Calls `close` at the end, also if the client leaves before the first chunk.

    Until the first chunk is there, comments say what `progress` returns.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[Struct, None],
        fail: Callable[[GalagoError], Iterable[Struct]],
        framing: Framing,
        headers: Mapping[str, str],
        close: Callable[[], None] = lambda: None,
        progress: Callable[[], str | None] | None = None,
    ) -> None:
        self._chunks = chunks
        self._fail = fail
        self._framing = framing
        self._close = close
        self._progress = progress
        headers = {"cache-control": "no-cache"} | dict(headers)
        super().__init__(self._body(), media_type=framing.media_type, headers=headers)

    async def _body(self) -> AsyncIterator[bytes]:
        frame = self._framing.frame
        try:
            async with contextlib.aclosing(self._chunks) as chunks:
                if self._progress is not None and self._framing.comment is not None:
                    async for piece in _first_chunk(chunks, self._framing, self._progress):
                        yield piece
                async for chunk in chunks:
                    yield frame(chunk)
            if self._framing.end:
                yield self._framing.end
        except GalagoError as error:  # the status line has been sent, so the error travels as a chunk
            for failure in self._fail(error):
                yield frame(failure)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def _first_chunk(
    chunks: AsyncGenerator[Struct, None], framing: Framing, progress: Callable[[], str | None]
) -> AsyncIterator[bytes]:
    """Yields the first chunk, and until it is there, comments about what it waits for."""
    assert framing.comment is not None
    first = asyncio.ensure_future(anext(chunks))
    try:
        while not first.done():
            if text := progress():
                yield framing.comment(text)
            await asyncio.wait({first}, timeout=COMMENT_SECONDS)
        with contextlib.suppress(StopAsyncIteration):
            yield framing.frame(first.result())
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


def stream_response(
    choices: Sequence[Choices],
    encoder: StreamEncoder[Struct],
    framing: Framing,
    headers: Mapping[str, str],
    on_end: Callable[[], None] = lambda: None,
) -> ChunkResponse:
    """Responds with the chunks of the answers. `on_end` is called when the response has ended, however it ended."""

    def close() -> None:
        for one in choices:
            one.close()
        on_end()

    progress = choices[0].progress
    return ChunkResponse(encode(choices, encoder), encoder.fail, framing, headers, close, progress)


def no_progress() -> None:
    """The `progress` of a request whose client is told nothing while the model is loaded."""


class Choices:
    """`count` answers to one prompt, as one stream of indexed events.

    The first answer is prepared when this is created, which raises errors about the request. The others are prepared
    when the first has begun: they find its prompt in the prefix cache. With a seed, answer `i` gets the seed plus `i`.
    `progress` says what the model waits for; if it does, the first answer is prepared when its events are read.

    A small request is kept: if the model's process crashes before the answer has begun, the next one answers it.
    """

    def __init__(
        self,
        generate: GenerateFunction,
        request: Request,
        count: int = 1,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[], str | None] = no_progress,
    ) -> None:
        context = CURRENT.get()
        if context is not None and context.client:
            request = replace(request, client=context.client)
        self._generate = generate
        is_small = context is not None and not context.held_bytes
        self._request = request if count > 1 or is_small else None  # it holds the media
        self.count = count
        self._created_at = time.perf_counter()
        self._closed = threading.Event()
        self._foreground = None if context is None or request.background else context.foreground
        self.progress = progress if progress() is not None else None
        if context is not None and (count > 1 or self.progress is not None):
            context.is_kept = True
        self._unprepared = None if self.progress is None else request
        self._streams = [] if self._unprepared is not None else [self._begin(request, cancelled)]

    async def events(self) -> AsyncGenerator[IndexedEvent, None]:
        """Yields events until every answer has finished or one has failed, and then closes all of them."""
        has_begun = False
        if self._unprepared is not None:
            request, self._unprepared = self._unprepared, None
            await asyncio.to_thread(self._begin_late, request)
        if self.count == 1:
            async for event in self._streams[0]:
                if type(event) is Failed and self._may_begin_again(event, has_begun):
                    break
                has_begun = has_begun or type(event) is not Started
                yield 0, event
            else:
                return
            assert self._request is not None
            async for event in await asyncio.to_thread(self._begin_late, self._request):
                if type(event) is not Started:
                    yield 0, event
            return
        queue: asyncio.Queue[IndexedEvent] = asyncio.Queue()
        readers = [asyncio.create_task(self._read(0, queue))]
        unfinished = self.count
        try:
            while unfinished:
                index, event = await queue.get()
                if len(readers) == 1 and not isinstance(event, Started | Failed):
                    readers += [asyncio.create_task(self._read(i, queue)) for i in range(1, self.count)]
                unfinished -= isinstance(event, Finished)
                yield index, event
                if isinstance(event, Failed):
                    return
        finally:
            self.close()
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    def again(self) -> Choices | None:
        """The same answers once more, which begin when their events are read; `None` if the request was not kept."""
        if self._request is None:
            return None
        return Choices(self._generate, self._request, self.count, progress=lambda: "it begins again")

    def _may_begin_again(self, failure: Failed, has_begun: bool) -> bool:
        crashed = isinstance(failure.error, EngineCrashed)
        return crashed and not has_begun and self._request is not None and not self._closed.is_set()

    def close(self) -> None:
        """Cancels all answers. May be called from any thread, and more than once."""
        self._closed.set()
        for one in list(self._streams):
            one.close()

    async def _read(self, index: int, queue: asyncio.Queue[IndexedEvent]) -> None:
        delay = time.perf_counter() - self._created_at if index else 0.0
        try:
            one = await asyncio.to_thread(self._start, index, delay) if index else self._streams[0]
            async with contextlib.aclosing(aiter(one)) as events:  # type: ignore[type-var]
                async for event in events:
                    queue.put_nowait((index, _delayed(event, delay)))
        except GalagoError as error:
            queue.put_nowait((index, Failed(error)))

    def _begin(self, request: Request, cancelled: Callable[[], bool]) -> Stream:
        """Starts an answer, which counts as running until its last event has arrived, read or not."""
        one = self._generate(request, cancelled)
        if self._foreground is not None:
            self._foreground.add(one)
            one.on_end(partial(self._foreground.discard, one))
        return one

    def _begin_late(self, request: Request) -> Stream:
        """Starts an answer after this was created. `close` may be called meanwhile."""
        one = self._begin(request, self._closed.is_set)
        self._streams.append(one)
        if self._closed.is_set():
            one.close()
        return one

    def _start(self, index: int, delay_seconds: float) -> Stream:
        """Starts a further answer, this long after the first."""
        request = self._request
        assert request is not None
        seed = request.sampling.seed
        if seed is not None:
            seed = (seed + index + 2**63) % 2**64 - 2**63
        timeout = None if request.timeout is None else max(request.timeout - delay_seconds, 0.0)
        return self._begin_late(replace(request, sampling=replace(request.sampling, seed=seed), timeout=timeout))


async def _merged(several: Sequence[Choices]) -> AsyncGenerator[IndexedEvent, None]:
    """The events of the answers to several prompts, indexed across prompts. Closes all of them at the end."""
    if len(several) == 1:
        async with contextlib.aclosing(several[0].events()) as events:
            async for indexed in events:
                yield indexed
        return
    queue: asyncio.Queue[IndexedEvent | None] = asyncio.Queue()

    async def read(choices: Choices, first: int) -> None:
        try:
            async with contextlib.aclosing(choices.events()) as events:
                async for index, event in events:
                    queue.put_nowait((first + index, event))
        finally:
            queue.put_nowait(None)

    firsts = itertools.accumulate((choices.count for choices in several), initial=0)
    readers = [asyncio.create_task(read(*pair)) for pair in zip(several, firsts, strict=False)]
    unfinished = len(readers)
    try:
        while unfinished:
            indexed_or_end = await queue.get()
            unfinished -= indexed_or_end is None
            if indexed_or_end is not None:
                yield indexed_or_end
    finally:
        for choices in several:
            choices.close()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


def _delayed(event: Event, delay_seconds: float) -> Event:
    """The event with its times counted from the creation of the first answer."""
    if not delay_seconds or not isinstance(event, Finished):
        return event
    times = event.timings
    shifted = {name: getattr(times, name) + delay_seconds for name in times.__slots__}
    return replace(event, timings=replace(times, **shifted))
