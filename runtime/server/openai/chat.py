"""`POST /v1/chat/completions`, streamed and not. I/O only; shapes and conversion stand beside it."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import TypeAlias

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import DeadlineExceeded, EngineError, InvalidRequest, NotFound, NotReady
from ...output.assembled import AssembledAnswer
from ...service import Service
from ...types.events import Delta, Failed, Finished, FinishReason, OutputDelta, Started
from ..http import field_policy, request_io
from ..http.openapi import RouteDescription, Streamed
from . import convert, message_parts, schema, tools
from .choices import Choices

Prepared: TypeAlias = tuple[schema.ChatRequest, list[str], Choices]

_PICTURE = (  # one red point
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
_QUESTION = [{"role": "user", "content": "How warm is it in Bern?"}]
_CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 40}}, "required": ["city"]}

ABOUT = RouteDescription(
    "Answer a chat",
    {200: schema.ChatCompletion},
    body=schema.ChatRequest,
    stream=Streamed(schema.ChatChunk, end="[DONE]"),
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
    """Answers chats with one service; in the `background` they rest while there are any others, however long."""

    def __init__(self, service: Service, strict: bool, files: message_parts.Files, background: bool = False) -> None:
        self._service = service
        self._strict = strict
        self._files = files
        self._background = background

    async def complete(self, request: Request) -> Response:
        body = await request_io.read_body(request)
        # on a thread, because reading the request and preparing its prompt may take seconds
        chat, warnings, choices = await request_io.on_thread(
            request, lambda gone: self._prepare(body, gone), lambda prepared: prepared[2].close()
        )
        headers = convert.warning_headers(warnings)
        answer = _Answer(self._service.model_id, warnings, chat)
        if chat.stream:
            wants_usage = bool(chat.stream_options and chat.stream_options.include_usage)
            return request_io.streamed(answer.chunks(choices, wants_usage), choices.close, headers)
        return request_io.whole(await request_io.unless_gone(request, answer.whole(choices)), headers)

    def _prepare(self, body: bytes, gone: Callable[[], bool]) -> Prepared:
        raw = convert.decode_object(body)
        chat = convert.chat_request(raw)
        warnings = field_policy.check(raw, self._strict)
        try:
            count = convert.choices(chat)
            generate = partial(self._service.generate, chat.model)
            asked = convert.to_request(chat, self._files)
            if self._background:
                asked = convert.in_background(asked)
                warnings += ["the field timeout has no effect in a batch"] if chat.timeout is not None else []
            choices = Choices(generate, asked, count, gone)
        except InvalidRequest as error:
            raise convert.renamed(error) from None
        return chat, warnings, choices


class _Answer:
    """One completion on its way out: the fields that all of its shapes share."""

    def __init__(self, model: str, warnings: list[str], chat: schema.ChatRequest) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._warnings = warnings
        self._count = convert.choices(chat)
        self._logprobs = bool(chat.logprobs)

    async def whole(self, choices: Choices) -> schema.ChatCompletion:
        said: list[list[OutputDelta]] = [[] for _ in range(self._count)]
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
        return schema.ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(i, *pair) for i, pair in enumerate(zip(said, finished, strict=True))],
            usage=convert.usage(finished),
            timings=convert.timings(finished),
            warnings=self._warnings or UNSET,
        )

    def _choice(self, index: int, said: list[OutputDelta], end: Finished) -> schema.Choice:
        answer = AssembledAnswer()
        for piece in said:
            answer.add(piece)
        tokens = [token for piece in said if isinstance(piece, Delta) for token in piece.logprobs]
        logprobs = convert.logprobs(tokens) if self._logprobs else None
        return schema.Choice(tools.message(answer), end.reason, index, logprobs)

    async def chunks(self, choices: Choices, wants_usage: bool) -> AsyncGenerator[schema.ChatChunk, None]:
        usage = None if wants_usage else UNSET
        ends: dict[int, Finished] = {}
        async with contextlib.aclosing(choices.events()) as events:
            async for index, event in events:
                match event:
                    case Started(warnings=warnings):
                        first = self._chunk(index, schema.ChunkDelta(role="assistant", content=""), usage=usage)
                        if index == 0:
                            first.warnings = [*self._warnings, *warnings] or UNSET
                        yield first
                    case Failed(error=error):
                        raise convert.renamed(error)
                    case Finished():
                        ends[index] = event
                        last = self._chunk(index, schema.ChunkDelta(), event.reason, usage=usage)
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
        self, index: int, delta: schema.ChunkDelta, reason: FinishReason | None = None, *, usage: None | UnsetType
    ) -> schema.ChatChunk:
        return self._envelope([schema.ChunkChoice(delta, reason, index)], usage)

    def _envelope(self, choices: list[schema.ChunkChoice], usage: schema.Usage | None | UnsetType) -> schema.ChatChunk:
        return schema.ChatChunk(self._id, self._created, self._model, choices, usage)
