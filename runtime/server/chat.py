"""`POST /v1/chat/completions`, streamed and not. I/O only; shapes and conversion stand beside it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from functools import partial
from typing import TypeAlias, TypeVar

from msgspec import UNSET, UnsetType
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from ...models.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineError,
    GalagoError,
    InvalidRequest,
    NotFound,
    NotReady,
)
from ..output.whole import Whole
from ..service import Service
from ..values import Delta, Failed, Finished, FinishReason, Said, Started
from . import convert, errors, fields, tools, wire
from .choices import Choices
from .openapi import EVENTS, About

T = TypeVar("T")
Prepared: TypeAlias = tuple[wire.ChatRequest, list[str], Choices]

_PICTURE = (  # one red point
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
_QUESTION = [{"role": "user", "content": "How warm is it in Bern?"}]
_CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 40}}, "required": ["city"]}

ABOUT = About(
    "Answer a chat",
    {200: wire.ChatCompletion},
    body=wire.ChatRequest,
    stream=(EVENTS, wire.ChatChunk),
    errors=(InvalidRequest, NotFound, NotReady, EngineError, DeadlineExceeded),
    method="POST",
    bounds=convert.BOUNDS,
    examples={
        "text": {"messages": _QUESTION, "max_tokens": 64},
        "picture": {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": _PICTURE}},
                        {"type": "text", "text": "Which colour is it?"},
                    ],
                }
            ],
            "max_tokens": 64,
        },
        "tools": {
            "messages": _QUESTION,
            "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": _CITY}}],
            "max_tokens": 64,
        },
        "schema": {
            "messages": _QUESTION,
            "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": _CITY}},
            "max_tokens": 64,
        },
        "stream": {"messages": _QUESTION, "stream": True, "max_tokens": 64},
    },
)


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
        chat, warnings, choices = await self._start(body, request)
        headers = convert.warning_headers(warnings)
        answer = _Answer(self._service.model_id, warnings, chat)
        if chat.stream:
            wants_usage = bool(chat.stream_options and chat.stream_options.include_usage)
            return await _streamed(answer, choices, wants_usage, headers)
        completion = await _unless_gone(request, answer.whole(choices))
        return Response(wire.encode(completion), headers=headers, media_type="application/json")

    async def _start(self, body: bytes, request: Request) -> Prepared:
        """Reads the request and prepares its prompt on a thread, because either may take seconds."""
        gone = threading.Event()
        work = asyncio.ensure_future(asyncio.to_thread(self._prepare, body, gone))
        try:
            return await _unless_gone(request, asyncio.shield(work))
        except (asyncio.CancelledError, Cancelled):
            gone.set()
            work.add_done_callback(_close_result)
            raise

    def _prepare(self, body: bytes, gone: threading.Event) -> Prepared:
        raw = convert.decode_object(body)
        chat = convert.chat_request(raw)
        warnings = fields.check(raw, self._strict)
        try:
            count = convert.choices(chat)
            generate = partial(self._service.generate, chat.model)
            choices = Choices(generate, convert.to_request(chat), count, gone.is_set)
        except InvalidRequest as error:
            raise convert.renamed(error) from None
        return chat, warnings, choices


class _Answer:
    """One completion on its way out: the fields that all of its shapes share."""

    def __init__(self, model: str, warnings: list[str], chat: wire.ChatRequest) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._warnings = warnings
        self._count = convert.choices(chat)
        self._logprobs = bool(chat.logprobs)

    async def whole(self, choices: Choices) -> wire.ChatCompletion:
        said: list[list[Said]] = [[] for _ in range(self._count)]
        ends: dict[int, Finished] = {}
        async with contextlib.aclosing(choices.events()) as events:
            async for index, event in events:
                match event:
                    case Started(warnings=warnings):
                        self._warnings += warnings if index == 0 else ()
                    case Failed(error=error):
                        raise convert.renamed(error)
                    case Finished():
                        ends[index] = event
                    case piece:
                        said[index].append(piece)
        if len(ends) < self._count:
            raise EngineError("the answer ended without a reason")
        finished = [ends[index] for index in range(self._count)]
        return wire.ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(i, *pair) for i, pair in enumerate(zip(said, finished, strict=True))],
            usage=convert.usage(finished),
            timings=convert.timings(finished),
            warnings=self._warnings or UNSET,
        )

    def _choice(self, index: int, said: list[Said], end: Finished) -> wire.Choice:
        answer = Whole()
        for piece in said:
            answer.add(piece)
        tokens = [token for piece in said if isinstance(piece, Delta) for token in piece.logprobs]
        logprobs = convert.logprobs(tokens) if self._logprobs else None
        return wire.Choice(tools.message(answer), end.reason, index, logprobs)

    async def chunks(self, choices: Choices, wants_usage: bool) -> AsyncGenerator[wire.ChatChunk, None]:
        usage = None if wants_usage else UNSET
        ends: dict[int, Finished] = {}
        async with contextlib.aclosing(choices.events()) as events:
            async for index, event in events:
                match event:
                    case Started(warnings=warnings):
                        first = self._chunk(index, wire.ChunkDelta(role="assistant", content=""), usage=usage)
                        if index == 0:
                            first.warnings = [*self._warnings, *warnings] or UNSET
                        yield first
                    case Failed(error=error):
                        raise convert.renamed(error)
                    case Finished():
                        ends[index] = event
                        last = self._chunk(index, wire.ChunkDelta(), event.reason, usage=usage)
                        if len(ends) == self._count:
                            last.timings = convert.timings([ends[i] for i in range(self._count)])
                        yield last
                    case said:
                        chunk = self._chunk(index, tools.delta(said), usage=usage)
                        if self._logprobs and isinstance(said, Delta):
                            chunk.choices[0].logprobs = convert.logprobs(said.logprobs)
                        yield chunk
        if wants_usage and len(ends) == self._count:
            yield self._envelope([], convert.usage([ends[i] for i in range(self._count)]))

    def _chunk(
        self, index: int, delta: wire.ChunkDelta, reason: FinishReason | None = None, *, usage: None | UnsetType
    ) -> wire.ChatChunk:
        return self._envelope([wire.ChunkChoice(delta, reason, index)], usage)

    def _envelope(self, choices: list[wire.ChunkChoice], usage: wire.Usage | None | UnsetType) -> wire.ChatChunk:
        return wire.ChatChunk(self._id, self._created, self._model, choices, usage)


async def _streamed(answer: _Answer, choices: Choices, wants_usage: bool, headers: dict[str, str]) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        try:
            async with contextlib.aclosing(answer.chunks(choices, wants_usage)) as chunks:
                async for chunk in chunks:
                    yield b"data: " + wire.encode(chunk) + b"\n\n"
            yield b"data: [DONE]\n\n"
        except GalagoError as error:  # the status line is out already, so the error travels as an event
            yield b"data: " + wire.encode(errors.body(error)) + b"\n\n"
        finally:
            choices.close()

    headers = {"cache-control": "no-cache"} | headers
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)


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


def _close_result(work: asyncio.Future[Prepared]) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result()[2].close()
