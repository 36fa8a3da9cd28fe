"""`POST /v1/chat/completions`, streamed and not. I/O only; shapes and conversion stand beside it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TypeVar

from msgspec import UNSET, UnsetType
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from ...models.errors import Cancelled, EngineError, GalagoError, InvalidRequest
from ..output.whole import Whole
from ..service import Service
from ..stream import Stream
from ..values import Failed, Finished, Started
from . import convert, errors, fields, tools, wire

T = TypeVar("T")


class ChatEndpoint:
    """Answers chats with one service."""

    def __init__(self, service: Service, strict: bool) -> None:
        self._service = service
        self._strict = strict

    async def complete(self, request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            raise Cancelled("the client went away while it sent the request") from None
        chat, warnings, stream = await self._start(body, request)
        answer = _Answer(self._service.model_id, warnings)
        if chat.stream:
            wants_usage = bool(chat.stream_options and chat.stream_options.include_usage)
            return await _streamed(answer, stream, wants_usage)
        completion = await _unless_gone(request, answer.whole(stream))
        return Response(wire.encode(completion), media_type="application/json")

    async def _start(self, body: bytes, request: Request) -> tuple[wire.ChatRequest, list[str], Stream]:
        """Reads the request and prepares its prompt on a thread, because either may take seconds."""
        gone = threading.Event()
        work = asyncio.ensure_future(asyncio.to_thread(self._prepare, body, gone))
        try:
            return await _unless_gone(request, asyncio.shield(work))
        except (asyncio.CancelledError, Cancelled):
            gone.set()
            work.add_done_callback(_close_result)
            raise

    def _prepare(self, body: bytes, gone: threading.Event) -> tuple[wire.ChatRequest, list[str], Stream]:
        raw = convert.decode_object(body)
        chat = convert.chat_request(raw)
        warnings = fields.check(raw, self._strict)
        try:
            stream = self._service.generate(chat.model, convert.to_request(chat), gone.is_set)
        except InvalidRequest as error:
            if error.param == "json_schema":
                error.param = "response_format"
            raise
        return chat, warnings, stream


class _Answer:
    """One completion on its way out: the fields that all of its shapes share."""

    def __init__(self, model: str, warnings: list[str]) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._warnings = warnings

    async def whole(self, stream: Stream) -> wire.ChatCompletion:
        answer = Whole()
        async for event in stream:
            match event:
                case Started(warnings=warnings):
                    self._warnings += warnings
                case Failed(error=error):
                    raise error
                case Finished():
                    return wire.ChatCompletion(
                        id=self._id,
                        created=self._created,
                        model=self._model,
                        choices=[wire.Choice(tools.message(answer), event.reason)],
                        usage=convert.usage(event.usage),
                        timings=convert.timings(event),
                        warnings=self._warnings or UNSET,
                    )
                case said:
                    answer.add(said)
        raise EngineError("the answer ended without a reason")

    async def chunks(self, stream: Stream, wants_usage: bool) -> AsyncGenerator[wire.ChatChunk, None]:
        usage = None if wants_usage else UNSET
        async for event in stream:
            match event:
                case Started(warnings=warnings):
                    self._warnings += warnings
                    first = self._chunk(wire.ChunkDelta(role="assistant", content=""), usage=usage)
                    first.warnings = self._warnings or UNSET
                    yield first
                case Failed(error=error):
                    raise error
                case Finished():
                    last = self._chunk(wire.ChunkDelta(), event.reason, usage=usage)
                    last.timings = convert.timings(event)
                    yield last
                    if wants_usage:
                        yield self._envelope([], convert.usage(event.usage))
                case said:
                    yield self._chunk(tools.delta(said), usage=usage)

    def _chunk(self, delta: wire.ChunkDelta, reason: str | None = None, *, usage: None | UnsetType) -> wire.ChatChunk:
        return self._envelope([wire.ChunkChoice(delta, reason)], usage)

    def _envelope(self, choices: list[wire.ChunkChoice], usage: wire.Usage | None | UnsetType) -> wire.ChatChunk:
        return wire.ChatChunk(self._id, self._created, self._model, choices, usage)


async def _streamed(answer: _Answer, stream: Stream, wants_usage: bool) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        try:
            async with contextlib.aclosing(answer.chunks(stream, wants_usage)) as chunks:
                async for chunk in chunks:
                    yield b"data: " + wire.encode(chunk) + b"\n\n"
            yield b"data: [DONE]\n\n"
        except GalagoError as error:  # the status line is out already, so the error travels as an event
            yield b"data: " + wire.encode(errors.body(error)) + b"\n\n"
        finally:
            stream.close()

    return StreamingResponse(body(), media_type="text/event-stream", headers={"cache-control": "no-cache"})


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Awaits `work`; cancels it and raises `Cancelled` when the client hangs up first."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the client went away")
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _close_result(work: asyncio.Future[tuple[wire.ChatRequest, list[str], Stream]]) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result()[2].close()
