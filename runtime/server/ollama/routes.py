"""`/api/*`. I/O only; shapes and conversion stand beside it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from typing import Any

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
from ...config import ServerConfig
from ...inference.stream import Stream
from ...service import Service
from ...types.events import Failed, Finished, Started
from ...types.options import MAX_INTEGER, bounds
from ..http import errors, field_policy, request_io
from ..http import events as answers
from ..http.openapi import LINES, Endpoint, RouteDescription, Streamed
from ..openai.convert import decode_object, typed, warning_headers
from ..openai.schema import encode
from . import convert, manage, schema
from . import models as library

SPOKEN = "0.12.11"
"""The release of Ollama whose API this is, for clients that ask for the version to know what they may send."""
_ANSWER = (InvalidRequest, NotFound, NotReady, EngineError)
_BOUNDS = bounds("ollama") | {"num_predict": (-2, MAX_INTEGER)}
_CHAT = {"model": "builtin", "messages": [{"role": "user", "content": "Hello"}], "options": {"num_predict": 16}}
_PROMPT = {"model": "builtin", "prompt": "Hello", "options": {"num_predict": 16}}
_NAMED = {"loaded": {"model": "builtin"}}


def _about(summary: str, answer: Any, *errors: type[GalagoError], **more: Any) -> RouteDescription:
    told: dict[str, Any] = {"known": convert.KNOWN, "form": schema.ErrorResponse} | more
    return RouteDescription(f"{summary}, in Ollama's shapes", {200: answer}, errors=errors, **told)


def _asked(summary: str, kind: Any, answer: Any, example: Any, streamed: bool = True) -> RouteDescription:
    stream = Streamed(answer, LINES) if streamed else None
    more = {"body": kind, "stream": stream, "method": "POST", "bounds": _BOUNDS, "examples": {"text": example}}
    return _about(summary, answer, *_ANSWER, **more)


_NAMES = {"body": schema.ModelRequest, "examples": _NAMED}
VERSION = _about("The release whose API this is", schema.Version)
TAGS = _about("The models on this machine", schema.Models, NotReady, ModelError)
PS = _about("The model that is loaded", schema.Models, NotReady)
SHOW = _about("One model", schema.Shown, InvalidRequest, NotFound, NotReady, ModelError, method="POST", **_NAMES)
CHAT = _asked("Answer a chat", schema.ChatRequest, schema.Line, _CHAT)
GENERATE = _asked("Answer a prompt", schema.GenerateRequest, schema.Line, _PROMPT)
_TEXTS = {"model": "builtin", "input": ["a house", "a home"]}
EMBED = _asked("Make vectors of texts", schema.EmbedRequest, schema.Embeddings, _TEXTS, streamed=False)
_TEXT = {"model": "builtin", "prompt": "a house"}
OLD_EMBED = _asked("Make a vector of a text", schema.OldEmbedRequest, schema.Embedding, _TEXT, streamed=False)
PULL = _about(
    "Bring a model here, if the server allows it",
    schema.Status,
    *(InvalidRequest, NotFound, HubError, ModelError, ConfigError),
    method="POST",
    stream=Streamed(schema.Status, LINES),
    **_NAMES,
)
DELETE = _about(
    "Delete a model, if the server allows it",
    None,
    *(InvalidRequest, NotFound, ModelError, ConfigError),
    method="DELETE",
    **_NAMES,
)


class Ollama:
    """Answers with one service."""

    def __init__(self, service: Service, config: ServerConfig) -> None:
        self._service = service
        self._config = config

    def routes(self) -> list[Endpoint]:
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
            Endpoint("/api/delete", self.delete, DELETE),
        ]

    async def version(self, _request: Request) -> Response:
        return request_io.whole(schema.Version(SPOKEN, metadata.version("galago")))

    async def tags(self, _request: Request) -> Response:
        models = await asyncio.to_thread(lambda: list(library.tags(self._service)))
        return request_io.whole(schema.Models(models))

    async def ps(self, _request: Request) -> Response:
        models = await asyncio.to_thread(lambda: list(library.running(self._service)))
        return request_io.whole(schema.Models(models))

    async def show(self, request: Request) -> Response:
        name, _, headers = await self._named(request)
        return request_io.whole(await asyncio.to_thread(library.shown, self._service, name), headers)

    async def embed(self, kind: type[schema.EmbedRequest | schema.OldEmbedRequest], request: Request) -> Response:
        return await request_io.answered(request, partial(self._embed, kind))

    def _embed(
        self, kind: type[schema.EmbedRequest | schema.OldEmbedRequest], body: bytes, gone: request_io.Gone
    ) -> tuple[schema.Embeddings | schema.Embedding, list[str]]:
        begin = time.perf_counter()
        raw = decode_object(body)
        asked = typed(raw, kind, convert.ACCEPTED)
        warnings = field_policy.check(raw, self._config.strict, kind, convert.KNOWN)
        name = convert.model_name(asked.model)
        if isinstance(asked, schema.OldEmbedRequest):
            return schema.Embedding(self._service.embed([asked.prompt], model=name, cancelled=gone).rows()[0]), warnings
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if not texts:
            self._service.check_served(name)
            return schema.Embeddings(self._service.model_id, [], 0, 0, 0, warnings or UNSET), warnings
        vectors = self._service.embed(texts, asked.dimensions, model=name, cancelled=gone)
        took = round((time.perf_counter() - begin) * 1e9)
        told = schema.Embeddings(self._service.model_id, vectors.rows(), took, vectors.tokens, 0, warnings or UNSET)
        return told, warnings

    async def pull(self, request: Request) -> Response:
        manage.check(self._config.allow_pull, "pull")
        name, stream, headers = await self._named(request)
        lines = manage.pulled(name)
        if stream:
            return answers.told(_told(lines), headers, LINES)
        return request_io.whole(await request_io.unless_gone(request, _last(lines)), headers)

    async def delete(self, request: Request) -> Response:
        manage.check(self._config.allow_rm, "rm")
        name, _, headers = await self._named(request)
        await asyncio.to_thread(manage.deleted, self._service, name)
        return Response(headers=headers)

    async def _named(self, request: Request) -> tuple[str, bool, dict[str, str]]:
        """The model that a request is about, whether its answer is streamed, and the headers of that."""
        raw = decode_object(await request_io.read_body(request))
        asked = typed(raw, schema.ModelRequest, convert.ACCEPTED)
        warnings = field_policy.check(raw, self._config.strict, schema.ModelRequest, convert.KNOWN)
        name = asked.model or asked.name
        if not name:
            raise InvalidRequest("model: the request names no model", "model")
        return convert.model_name(name), asked.stream is not False, warning_headers(warnings)

    async def answer(self, kind: type[schema.ChatRequest | schema.GenerateRequest], request: Request) -> Response:
        body = await request_io.read_body(request)
        asked = await request_io.on_thread(request, partial(self._prepare, kind, body), _Asked.close)
        headers = warning_headers(asked.warnings)
        if asked.answer is None:
            return request_io.whole(self._loaded(asked), headers)
        if asked.stream:
            return answers.told(self._lines(asked, asked.answer), headers, LINES)
        answer = await request_io.unless_gone(request, answers.collected(asked.answer))
        piece, cut_off = convert.collected(answer.said)
        line = convert.show(self._line(), piece, asked.chat)
        line.warnings = [*asked.warnings, *answer.warnings, *cut_off] or UNSET
        return request_io.whole(convert.finish(line, answer.end), headers)

    def _prepare(
        self, kind: type[schema.ChatRequest | schema.GenerateRequest], body: bytes, gone: request_io.Gone
    ) -> _Asked:
        raw = decode_object(body)
        asked = typed(raw, kind, convert.ACCEPTED)
        warnings = field_policy.check(raw, self._config.strict, kind, convert.KNOWN)
        warnings += convert.context_warning(asked, self._service.models()[0].context_length)
        name = convert.model_name(asked.model)
        stream = None
        if convert.is_empty(asked):
            self._service.check_served(name)
        else:
            stream = self._service.generate(name, convert.to_request(asked), gone)
        return _Asked(asked.stream is not False, kind is schema.ChatRequest, warnings, stream)

    def _line(self) -> schema.Line:
        return schema.Line(self._service.model_id, datetime.now(UTC).isoformat().replace("+00:00", "Z"))

    def _loaded(self, asked: _Asked) -> schema.Line:
        """The answer to a request that says nothing: that the model is loaded."""
        line = convert.show(self._line(), convert.Piece(), asked.chat)
        line.done, line.done_reason, line.warnings = True, "load", asked.warnings or UNSET
        return line

    async def _lines(self, asked: _Asked, answer: Stream) -> AsyncIterator[bytes]:
        pieces, warnings = convert.Pieces(), asked.warnings
        try:
            async with contextlib.aclosing(aiter(answer)) as events:  # type: ignore[type-var]
                async for event in events:
                    match event:
                        case Started():
                            warnings += event.warnings
                        case Failed(error=error):
                            raise error
                        case Finished():
                            line = convert.show(self._line(), pieces.finish(), asked.chat)
                            line.warnings = [*warnings, *convert.cut_off_warning(pieces)] or UNSET
                            yield _encoded(convert.finish(line, event))
                        case said:
                            piece = pieces.feed(said)
                            if piece != convert.Piece():
                                yield _encoded(convert.show(self._line(), piece, asked.chat))
        except GalagoError as error:  # the status line is out already, so the error travels as a line
            yield _encoded(errors.ollama_body(error))
        finally:
            asked.close()


@dataclass(frozen=True)
class _Asked:
    """A request that is being answered; `answer` is `None` where it only asks for the model to be loaded."""

    stream: bool
    chat: bool
    warnings: list[str]
    answer: Stream | None

    def close(self) -> None:
        if self.answer is not None:
            self.answer.close()


async def _last(lines: AsyncIterator[schema.Status]) -> schema.Status:
    async with contextlib.aclosing(lines) as told:  # type: ignore[type-var]
        return [line async for line in told][-1]


async def _told(lines: AsyncIterator[schema.Status]) -> AsyncIterator[bytes]:
    try:
        async with contextlib.aclosing(lines) as told:  # type: ignore[type-var]
            async for line in told:
                yield _encoded(line)
    except GalagoError as error:
        yield _encoded(errors.ollama_body(error))


def _encoded(line: Any) -> bytes:
    return encode(line) + b"\n"
