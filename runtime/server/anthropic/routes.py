"""`POST /v1/messages`, streamed or whole, and `/v1/messages/count_tokens`."""

from __future__ import annotations

import uuid
from functools import partial
from typing import NamedTuple

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import EngineError, InvalidRequest, NotFound, NotReady
from ...types.options import bounds
from ...types.tasks import Estimate
from ..http import events, request_io, whole_answers
from ..http.openapi import Endpoint, RouteDescription, Streamed
from ..resource import Resource
from . import convert, schema
from .events import MessageEncoder

PREFIX = "/v1/messages"

_MESSAGES = {"messages": [{"role": "user", "content": "How warm is it in Bern?"}]}
_CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 40}}, "required": ["city"]}
_ERRORS = (InvalidRequest, NotFound, NotReady, EngineError)

CREATE = RouteDescription(
    "Answer a chat, in Anthropic's format",
    {200: schema.Message},
    body=schema.MessagesRequest,
    stream=Streamed(schema.StreamEvent),
    errors=_ERRORS,
    method="POST",
    bounds=bounds("anthropic"),
    examples={
        "text": _MESSAGES | {"max_tokens": 64},
        "tool": _MESSAGES
        | {
            "max_tokens": 64,
            "stream": True,
            "tools": [{"name": "get_weather", "input_schema": _CITY}],
            "tool_choice": {"type": "any"},
        },
    },
)
COUNT = RouteDescription(
    "Count the tokens of a chat, in Anthropic's format",
    {200: schema.TokenCount},
    body=schema.CountRequest,
    errors=_ERRORS,
    method="POST",
    examples={"text": _MESSAGES},
)


class Messages(Resource):
    def routes(self, prefix: str) -> list[Endpoint]:
        return [
            Endpoint(PREFIX, self.create, CREATE),
            Endpoint(f"{PREFIX}/count_tokens", self.count_tokens, COUNT),
        ]

    async def create(self, request: Request) -> Response:
        body = await request_io.read_body(request)
        prepared = await request_io.run_on_thread(request, partial(self._prepare, body), _Prepared.close)
        message_id = f"msg_{uuid.uuid4().hex}"
        encoder = MessageEncoder(message_id, prepared.model, prepared.warnings, prepared.prompt_only)
        if prepared.streamed:
            headers = request_io.warning_headers(prepared.warnings)
            return events.stream_response([prepared.choices], encoder, events.NAMED_SSE, headers)
        (answer,) = await request_io.unless_disconnected(request, whole_answers.collect([prepared.choices]))
        return request_io.answer_response(encoder.message(answer))

    def _prepare(self, body: bytearray, disconnected: request_io.Cancellation) -> _Prepared:
        request, warnings = request_io.parse_body(body, schema.MessagesRequest, self.strict)
        model = self.service.model_for(request.model, warnings)
        converted = convert.to_request(request, warnings)
        streamed, prompt_only = bool(request.stream), request.max_tokens == 0
        del request  # its media would stay in memory while the converted request is sent
        generate = partial(self.service.generate, model)
        progress = partial(self.service.progress, model) if streamed else events.no_progress
        choices = events.Choices(generate, converted, cancelled=disconnected, progress=progress)
        return _Prepared(streamed, prompt_only, model, warnings, choices)

    async def count_tokens(self, request: Request) -> Response:
        return await request_io.answer_on_thread(request, self._count)

    def _count(self, body: bytearray, disconnected: request_io.Cancellation) -> tuple[schema.TokenCount, list[str]]:
        request, warnings = request_io.parse_body(body, schema.CountRequest, self.strict)
        request.model = self.service.model_for(request.model, warnings)
        task = Estimate(convert.to_request(request, warnings), predict_seconds=False)
        estimate = self.service.run_task(request.model, task, disconnected)
        warnings += estimate.warnings
        return schema.TokenCount(estimate.prompt_tokens, warnings or UNSET), warnings


class _Prepared(NamedTuple):
    """A request whose answer has been started."""

    streamed: bool
    prompt_only: bool
    model: str
    warnings: list[str]
    choices: events.Choices

    def close(self) -> None:
        self.choices.close()
