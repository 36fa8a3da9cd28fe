"""`POST /v1/chat/completions`, streamed or whole."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from .....models.errors import DeadlineExceeded, EngineError, InvalidRequest, NotFound, NotReady
from ...http import events, request_io, whole_answers
from ...http.keep_alive import generate_function
from ...http.openapi import Endpoint, RouteDescription, Streamed
from ...resource import RequestFunction, Resource
from . import convert, schema

PATH = "/chat/completions"

_RED_PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
_MESSAGES = [{"role": "user", "content": "How warm is it in Bern?"}]
_CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 40}}, "required": ["city"]}

COMPLETE = RouteDescription(
    "Answer a chat",
    {200: schema.ChatCompletion},
    body=schema.ChatRequest,
    stream=Streamed(schema.ChatChunk, end="[DONE]"),
    errors=(InvalidRequest, NotFound, NotReady, EngineError, DeadlineExceeded),
    method="POST",
    bounds=convert.BOUNDS,
    examples={
        "text": {"messages": _MESSAGES, "max_tokens": 64},
        "picture": {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": _RED_PIXEL}},
                        {"type": "text", "text": "Which colour is it?"},
                    ],
                }
            ],
            "max_tokens": 64,
        },
        "tools": {
            "messages": _MESSAGES,
            "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": _CITY}}],
            "max_tokens": 64,
        },
        "schema": {
            "messages": _MESSAGES,
            "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": _CITY}},
            "max_tokens": 64,
        },
        "stream": {"messages": _MESSAGES, "stream": True, "max_tokens": 64},
    },
)


class Chat(Resource):
    def routes(self, prefix: str) -> list[Endpoint]:
        return [Endpoint(f"{prefix}{PATH}", self.complete, COMPLETE)]

    def batch_endpoints(self) -> Mapping[str, RequestFunction]:
        return {f"/v1{PATH}": partial(self._complete, background=True)}

    async def complete(self, request: Request) -> Response:
        return await self._complete(request, background=False)

    async def _complete(self, request: Request, background: bool) -> Response:
        body = await request_io.read_body(request)
        # on a thread, because converting the request and preparing its prompt may take seconds
        prepared = await request_io.run_on_thread(request, partial(self._prepare, body, background), _Prepared.close)
        chat, model, warnings, choices = prepared
        completion_id, now = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        encoder = convert.ChatEncoder(completion_id, now, model, chat, warnings)
        if chat.stream:
            return events.stream_response([choices], encoder, events.SSE, request_io.warning_headers(warnings))
        with convert.api_field_names():
            answers = await request_io.unless_disconnected(request, whole_answers.collect([choices]))
        return request_io.answer_response(encoder.completion(answers))

    def _prepare(self, body: bytearray, background: bool, disconnected: request_io.Cancellation) -> _Prepared:
        chat, warnings = request_io.parse_body(body, schema.ChatRequest, self.strict)
        chat.model = self.service.model_for(chat.model, warnings)
        with convert.api_field_names(warnings):
            count = convert.choice_count(chat)
            request = convert.to_request(chat, self.context.read_file, warnings)
            chat.messages = []  # their media would stay in memory while the answer is streamed
            if background:
                request = convert.in_background(request)
                warnings += ["the field timeout has no effect in a batch"] if chat.timeout is not None else []
            generate: events.GenerateFunction = partial(self.service.generate, chat.model)
            if chat.keep_alive is not None:
                generate = generate_function(self.service, chat.model, chat.keep_alive, warnings)
            progress = partial(self.service.progress, chat.model) if chat.stream else events.no_progress
            choices = events.Choices(generate, request, count, disconnected, progress)
            return _Prepared(chat, chat.model, warnings, choices)


class _Prepared(NamedTuple):
    """A request whose first answer has been started."""

    chat: schema.ChatRequest
    model: str
    warnings: list[str]
    choices: events.Choices

    def close(self) -> None:
        self.choices.close()
