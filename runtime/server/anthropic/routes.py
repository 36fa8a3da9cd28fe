"""`POST /v1/messages` and `/v1/messages/count_tokens`. I/O only; shapes and conversion stand beside it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import EngineError, GalagoError, InvalidRequest, NotFound, NotReady
from ...inference.stream import Stream
from ...service import Service
from ...types.events import Failed, Finished, Started
from ...types.options import bounds
from ...types.tasks import Estimate
from ..http import errors, field_policy, request_io
from ..http import events as answers
from ..http.openapi import Endpoint, RouteDescription, Streamed
from ..openai.convert import decode_object, typed, warning_headers
from ..openai.schema import encode
from . import convert, schema
from .events import MessageEvents, blocks

_ASKED = {"messages": [{"role": "user", "content": "How warm is it in Bern?"}]}
_CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 40}}, "required": ["city"]}
_ERRORS = (InvalidRequest, NotFound, NotReady, EngineError)

CREATE = RouteDescription(
    "Answer a chat, in Anthropic's shapes",
    {200: schema.Message},
    body=schema.MessagesRequest,
    stream=Streamed(schema.StreamEvent),
    errors=_ERRORS,
    method="POST",
    bounds=bounds("anthropic"),
    examples={
        "text": _ASKED | {"max_tokens": 64},
        "tool": _ASKED
        | {
            "max_tokens": 64,
            "stream": True,
            "tools": [{"name": "get_weather", "input_schema": _CITY}],
            "tool_choice": {"type": "any"},
        },
    },
    known=convert.KNOWN,
    form=schema.ErrorResponse,
)
COUNT = RouteDescription(
    "The tokens of a chat, in Anthropic's shapes",
    {200: schema.TokenCount},
    body=schema.CountRequest,
    errors=_ERRORS,
    method="POST",
    examples={"text": _ASKED},
    known=convert.KNOWN,
    form=schema.ErrorResponse,
)


class Messages:
    """Answers with one service."""

    def __init__(self, service: Service, strict: bool) -> None:
        self._service = service
        self._strict = strict

    def routes(self) -> list[Endpoint]:
        return [
            Endpoint("/v1/messages", self.create, CREATE),
            Endpoint("/v1/messages/count_tokens", self.count_tokens, COUNT),
        ]

    async def create(self, request: Request) -> Response:
        body = await request_io.read_body(request)
        asked = await request_io.on_thread(request, partial(self._prepare, body), _Asked.close)
        headers = warning_headers(asked.warnings)
        if asked.stream:
            return answers.told(self._events(asked), headers, "text/event-stream")
        answer = await request_io.unless_gone(request, answers.collected(asked.answer))
        content, cut_off = blocks(answer.said)
        message = self._message(content, convert.usage(answer.end.usage), [*asked.warnings, *answer.warnings, *cut_off])
        ending = convert.ending(answer.end)
        message.stop_reason, message.stop_sequence = ending.stop_reason, ending.stop_sequence
        return request_io.whole(message, headers)

    def _prepare(self, body: bytes, gone: request_io.Gone) -> _Asked:
        raw = decode_object(body)
        asked = typed(raw, schema.MessagesRequest, convert.ACCEPTED)
        warnings = field_policy.check(raw, self._strict, schema.MessagesRequest, convert.KNOWN)
        stream = self._service.generate(asked.model, convert.to_request(asked), gone)
        return _Asked(bool(asked.stream), warnings, stream)

    async def count_tokens(self, request: Request) -> Response:
        return await request_io.answered(request, self._count)

    def _count(self, body: bytes, gone: request_io.Gone) -> tuple[schema.TokenCount, list[str]]:
        raw = decode_object(body)
        asked = typed(raw, schema.CountRequest, convert.ACCEPTED)
        warnings = field_policy.check(raw, self._strict, schema.CountRequest, convert.KNOWN)
        found = self._service.answer(asked.model, Estimate(convert.to_request(asked)), gone)
        return schema.TokenCount(found.tokens), warnings

    def _message(self, content: list[schema.ContentBlock], usage: schema.Usage, warnings: list[str]) -> schema.Message:
        name = f"msg_{uuid.uuid4().hex}"
        return schema.Message(name, self._service.model_id, content, usage, warnings=warnings or UNSET)

    async def _events(self, asked: _Asked) -> AsyncIterator[bytes]:
        told = MessageEvents()
        try:
            async with contextlib.aclosing(aiter(asked.answer)) as events:  # type: ignore[type-var]
                async for event in events:
                    match event:
                        case Started(prompt_tokens, warnings):
                            message = self._message([], schema.Usage(prompt_tokens, 0), [*asked.warnings, *warnings])
                            yield _line(schema.MessageStart(message)) + _line(schema.Ping())
                        case Failed(error=error):
                            raise error
                        case Finished():
                            yield b"".join(map(_line, told.finish(event)))
                        case said:
                            yield b"".join(map(_line, told.feed(said)))
        except GalagoError as error:  # the status line is out already, so the error travels as an event
            yield b"event: error\ndata: " + encode(errors.anthropic_body(error)) + b"\n\n"
        finally:
            asked.close()


@dataclass(frozen=True)
class _Asked:
    """A request that is being answered."""

    stream: bool
    warnings: list[str]
    answer: Stream

    def close(self) -> None:
        self.answer.close()


def _line(event: schema.StreamEvent) -> bytes:
    kind = str(event.__struct_config__.tag)
    return b"event: " + kind.encode() + b"\ndata: " + encode(event) + b"\n\n"
