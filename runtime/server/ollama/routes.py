"""`/api/*`: answers, embeddings and models."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from typing import Any, TypeAlias

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import (
    ConfigError,
    EngineError,
    GalagoError,
    HubError,
    InvalidRequest,
    ModelError,
    NotFound,
    NotReady,
)
from ...types.options import MAX_INTEGER, bounds
from ...types.tasks import Embed
from ...types.warnings import Warnings
from ..http import events, request_io, whole_answers
from ..http.keep_alive import generate_function, is_zero, keep_function
from ..http.openapi import LINES, Endpoint, RouteDescription, Streamed
from ..http.request_io import answer_response, json_response
from ..resource import Resource, ServerContext
from . import convert, manage, models, schema
from .create import create_preset
from .errors import error_response
from .events import LineEncoder

PREFIX = "/api/"
API_VERSION = "0.12.11"
"""The release of Ollama whose API this is: clients use it to decide what they may send."""

_ANSWER_ERRORS = (InvalidRequest, NotFound, NotReady, EngineError)
_BOUNDS = bounds("ollama") | {"num_predict": (-2, MAX_INTEGER)}
_CHAT = {"model": "builtin", "messages": [{"role": "user", "content": "Hello"}], "options": {"num_predict": 16}}
_PROMPT = {"model": "builtin", "prompt": "Hello", "options": {"num_predict": 16}}
_TEXTS = {"model": "builtin", "input": ["a house", "a home"]}
_TEXT = {"model": "builtin", "prompt": "a house"}

EmbedRequest: TypeAlias = schema.EmbedRequest | schema.OldEmbedRequest


def _description(summary: str, answer: Any, *errors: type[GalagoError], **options: Any) -> RouteDescription:
    return RouteDescription(f"{summary}, in Ollama's format", {200: answer}, errors=errors, **options)


def _answer_description(
    summary: str, request: Any, answer: Any, example: Any, streamed: bool = True
) -> RouteDescription:
    stream = Streamed(answer, LINES) if streamed else None
    options = {"body": request, "stream": stream, "method": "POST", "bounds": _BOUNDS, "examples": {"text": example}}
    return _description(summary, answer, *_ANSWER_ERRORS, **options)


_NAMED = {"body": schema.ModelRequest, "examples": {"loaded": {"model": "builtin"}}}
VERSION = _description("The version of the API", schema.Version)
TAGS = _description("The models on this machine", schema.Models, NotReady, ModelError)
PS = _description("The loaded models", schema.Models, NotReady)
SHOW = _description(
    "One model", schema.ModelDetails, InvalidRequest, NotFound, NotReady, ModelError, method="POST", **_NAMED
)
CHAT = _answer_description("Answer a chat", schema.ChatRequest, schema.Line, _CHAT)
GENERATE = _answer_description("Answer a prompt", schema.GenerateRequest, schema.Line, _PROMPT)
EMBED = _answer_description("Embed texts", schema.EmbedRequest, schema.Embeddings, _TEXTS, streamed=False)
OLD_EMBED = _answer_description("Embed a text", schema.OldEmbedRequest, schema.Embedding, _TEXT, streamed=False)
PULL = _description(
    "Download a model, if the server allows it",
    schema.Status,
    *(InvalidRequest, NotFound, HubError, ModelError, ConfigError),
    method="POST",
    stream=Streamed(schema.Status, LINES),
    **_NAMED,
)
CREATE = _description(
    "Make a preset, if the server allows it",
    schema.Status,
    *(InvalidRequest, NotFound, ModelError, ConfigError),
    body=schema.CreateRequest,
    examples={"system": {"model": "pirate", "from": "builtin", "system": "You are a pirate."}},
    method="POST",
    stream=Streamed(schema.Status, LINES),
)
DELETE = _description(
    "Delete a model, if the server allows it",
    None,
    *(InvalidRequest, NotFound, ModelError, ConfigError),
    method="DELETE",
    **_NAMED,
)


class Ollama(Resource):
    def __init__(self, context: ServerContext) -> None:
        super().__init__(context)
        self._config = context.config

    def routes(self, prefix: str) -> list[Endpoint]:
        return [
            Endpoint("/api/version", self.version, VERSION),
            Endpoint("/api/tags", self.tags, TAGS),
            Endpoint("/api/ps", self.ps, PS),
            Endpoint("/api/show", self.show, SHOW),
            Endpoint("/api/chat", partial(self.answer, schema.ChatRequest), CHAT),
            Endpoint("/api/generate", partial(self.answer, schema.GenerateRequest), GENERATE),
            Endpoint("/api/embed", partial(self.embed, schema.EmbedRequest), EMBED),
            Endpoint("/api/embeddings", partial(self.embed, schema.OldEmbedRequest), OLD_EMBED),
            Endpoint("/api/pull", self.pull, PULL),
            Endpoint("/api/create", self.create, CREATE),
            Endpoint("/api/delete", self.delete, DELETE),
        ]

    async def version(self, _request: Request) -> Response:
        return json_response(schema.Version(API_VERSION, metadata.version("galago")))

    async def tags(self, _request: Request) -> Response:
        return json_response(schema.Models(await asyncio.to_thread(lambda: list(models.tags(self.service)))))

    async def ps(self, _request: Request) -> Response:
        return json_response(schema.Models(await asyncio.to_thread(lambda: list(models.running(self.service)))))

    async def show(self, request: Request) -> Response:
        name, _, headers = await self._parse_model_request(request)
        return json_response(await asyncio.to_thread(models.details, self.service, name), headers)

    async def embed(self, kind: type[EmbedRequest], request: Request) -> Response:
        return await request_io.answer_on_thread(request, partial(self._embed, kind))

    def _embed(
        self, kind: type[EmbedRequest], body: bytearray, disconnected: request_io.Cancellation
    ) -> tuple[schema.Embeddings | schema.Embedding, list[str]]:
        began = time.perf_counter()
        request, warnings = request_io.parse_body(body, kind, self.strict)
        model = self.service.model_for(request.model, warnings)
        keep = keep_function(self.service, model, request.keep_alive, warnings)
        if isinstance(request, schema.OldEmbedRequest):
            vectors = self.service.run_task(model, Embed((request.prompt,)), disconnected)
            keep()
            return schema.Embedding(vectors.rows()[0]), warnings
        texts = [request.input] if isinstance(request.input, str) else request.input
        if not texts:
            return schema.Embeddings(model, [], 0, 0, 0, warnings or UNSET), warnings
        vectors = self.service.run_task(model, Embed(tuple(texts), request.dimensions or None), disconnected)
        keep()
        nanoseconds = round((time.perf_counter() - began) * 1e9)
        embeddings = schema.Embeddings(model, vectors.rows(), nanoseconds, vectors.tokens, 0, warnings or UNSET)
        return embeddings, warnings

    async def pull(self, request: Request) -> Response:
        manage.check_allowed(self._config.allow_pull, "pull")
        self.service.check_manager()
        name, streamed, headers = await self._parse_model_request(request)
        lines = manage.pull_model(name)
        if streamed:
            return events.ChunkResponse(lines, lambda error: (error_response(error),), events.NDJSON, headers)
        return json_response(await request_io.unless_disconnected(request, _last(lines)), headers)

    async def create(self, request: Request) -> Response:
        manage.check_allowed(self._config.allow_create, "create", "preset create")
        self.service.check_manager()
        body = await request_io.read_body(request)
        parsed, warnings = request_io.parse_body(body, schema.CreateRequest, self.strict)
        name = _required_name(parsed)
        lines = await asyncio.to_thread(create_preset, name, parsed, warnings)
        if self.service.loads_on_demand and await asyncio.to_thread(self.service.is_loaded, name):
            await asyncio.to_thread(self.service.unload_model, name)  # the next request loads it as it is now
        headers = request_io.warning_headers(warnings)
        if parsed.stream is False:
            return json_response(lines[-1], headers)
        return events.ChunkResponse(_each(lines), lambda error: (error_response(error),), events.NDJSON, headers)

    async def delete(self, request: Request) -> Response:
        manage.check_allowed(self._config.allow_rm, "rm")
        self.service.check_manager()
        name, _, headers = await self._parse_model_request(request)
        await asyncio.to_thread(manage.delete_model, self.service, name)
        return Response(headers=headers)

    async def _parse_model_request(self, request: Request) -> tuple[str, bool, dict[str, str]]:
        """The name of a model, whether the answer is streamed, and the answer's headers."""
        body = await request_io.read_body(request)
        parsed, warnings = request_io.parse_body(body, schema.ModelRequest, self.strict)
        return _required_name(parsed), parsed.stream is not False, request_io.warning_headers(warnings)

    async def answer(self, kind: type[convert.ChatOrGenerateRequest], request: Request) -> Response:
        body = await request_io.read_body(request)
        prepared = await request_io.run_on_thread(request, partial(self._prepare, kind, body), _Prepared.close)
        encoder = LineEncoder(prepared.model, prepared.is_chat, prepared.warnings, _now)
        if prepared.choices is None:
            return answer_response(encoder.without_answer("unload" if prepared.unloaded else "load"))
        if prepared.streamed:
            headers = request_io.warning_headers(prepared.warnings)
            return events.stream_response([prepared.choices], encoder, events.NDJSON, headers)
        (answer,) = await request_io.unless_disconnected(request, whole_answers.collect([prepared.choices]))
        return answer_response(encoder.whole(answer))

    def _prepare(
        self, kind: type[convert.ChatOrGenerateRequest], body: bytearray, disconnected: request_io.Cancellation
    ) -> _Prepared:
        request, warnings = request_io.parse_body(body, kind, self.strict)
        model = self.service.model(self.service.model_for(request.model, warnings))
        convert.check_context(request, model.context_length, warnings)
        converted = None if convert.is_empty(request) else convert.to_request(request, warnings)
        streamed, keep_alive = request.stream is not False, request.keep_alive
        del request  # its media would stay in memory while the converted request is sent
        is_chat = kind is schema.ChatRequest
        if converted is None:
            unloaded = self._load_or_unload(model.id, keep_alive, warnings, disconnected)
            return _Prepared(model.id, streamed, is_chat, warnings, None, unloaded)
        generate: events.GenerateFunction = partial(self.service.generate, model.id)
        if keep_alive is not None:
            generate = generate_function(self.service, model.id, keep_alive, warnings)
        choices = events.Choices(generate, converted, cancelled=disconnected)
        return _Prepared(model.id, streamed, is_chat, warnings, choices)

    def _load_or_unload(
        self, model: str, keep_alive: float | str | None, warnings: Warnings, disconnected: request_io.Cancellation
    ) -> bool:
        """Loads a model, or unloads it if it is to be kept for no time. Returns whether it was unloaded."""
        if not self.service.loads_on_demand:
            return False
        if is_zero(keep_alive):
            self.service.unload_model(model, disconnected)
            return True
        keep = keep_function(self.service, model, keep_alive, warnings)
        self.service.load_model(model, disconnected)
        keep()
        return False


@dataclass(frozen=True)
class _Prepared:
    """A request whose answer has been started. `choices` is `None` if the model was only to be loaded or unloaded."""

    model: str
    streamed: bool
    is_chat: bool
    warnings: list[str]
    choices: events.Choices | None
    unloaded: bool = False

    def close(self) -> None:
        if self.choices is not None:
            self.choices.close()


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _required_name(request: schema.ModelRequest | schema.CreateRequest) -> str:
    name = request.model or request.name
    if not name:
        raise InvalidRequest("model is missing; give the name of a model", "model")
    return name.removesuffix(":latest")


async def _each(lines: list[schema.Status]) -> AsyncGenerator[schema.Status, None]:
    for line in lines:
        yield line


async def _last(lines: AsyncGenerator[schema.Status, None]) -> schema.Status:
    async with contextlib.aclosing(lines) as all_lines:
        return [line async for line in all_lines][-1]
