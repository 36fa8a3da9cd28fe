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
from starlette.routing import Route

from ....models.errors import GalagoError, InvalidRequest
from ...config import ServerConfig
from ...service import Service
from ...stream import Stream
from ...values import Failed, Finished, Started
from .. import answers, errors, exchange, fields
from ..convert import decode_object, typed, warning_headers
from ..wire import encode
from . import convert, library, manage, wire

SPOKEN = "0.12.11"
"""The release of Ollama whose API this is, for clients that ask for the version to know what they may send."""
_LINES = "application/x-ndjson"


class Ollama:
    """Answers with one service."""

    def __init__(self, service: Service, config: ServerConfig) -> None:
        self._service = service
        self._config = config

    def routes(self) -> list[Route]:
        return [
            Route("/api/version", self.version),
            Route("/api/tags", self.tags),
            Route("/api/ps", self.ps),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/chat", partial(self.answer, wire.ChatRequest), methods=["POST"]),
            Route("/api/generate", partial(self.answer, wire.GenerateRequest), methods=["POST"]),
            Route("/api/embed", partial(self.embed, wire.EmbedRequest), methods=["POST"]),
            Route("/api/embeddings", partial(self.embed, wire.OldEmbedRequest), methods=["POST"]),
            Route("/api/pull", self.pull, methods=["POST"]),
            Route("/api/delete", self.delete, methods=["DELETE"]),
        ]

    async def version(self, _request: Request) -> Response:
        return exchange.whole(wire.Version(SPOKEN, metadata.version("galago")))

    async def tags(self, _request: Request) -> Response:
        models = await asyncio.to_thread(lambda: list(library.tags(self._service)))
        return exchange.whole(wire.Models(models))

    async def ps(self, _request: Request) -> Response:
        models = await asyncio.to_thread(lambda: list(library.running(self._service)))
        return exchange.whole(wire.Models(models))

    async def show(self, request: Request) -> Response:
        name, _, headers = await self._named(request)
        return exchange.whole(await asyncio.to_thread(library.shown, self._service, name), headers)

    async def embed(self, kind: type[wire.EmbedRequest | wire.OldEmbedRequest], request: Request) -> Response:
        return await exchange.answered(request, partial(self._embed, kind))

    def _embed(
        self, kind: type[wire.EmbedRequest | wire.OldEmbedRequest], body: bytes, gone: exchange.Gone
    ) -> tuple[wire.Embeddings | wire.Embedding, list[str]]:
        begin = time.perf_counter()
        raw = decode_object(body)
        asked = typed(raw, kind, convert.ACCEPTED)
        warnings = fields.check(raw, self._config.strict, kind, convert.KNOWN)
        name = convert.model_name(asked.model)
        if isinstance(asked, wire.OldEmbedRequest):
            return wire.Embedding(self._service.embed([asked.prompt], model=name, cancelled=gone).rows()[0]), warnings
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        vectors = self._service.embed(texts, asked.dimensions, model=name, cancelled=gone)
        took = round((time.perf_counter() - begin) * 1e9)
        told = wire.Embeddings(self._service.model_id, vectors.rows(), took, vectors.tokens, 0, warnings or UNSET)
        return told, warnings

    async def pull(self, request: Request) -> Response:
        manage.check(self._config.allow_pull, "pull")
        name, stream, headers = await self._named(request)
        lines = manage.pulled(name)
        if stream:
            return answers.told(_told(lines), headers, _LINES)
        return exchange.whole(await exchange.unless_gone(request, _last(lines)), headers)

    async def delete(self, request: Request) -> Response:
        manage.check(self._config.allow_rm, "rm")
        name, _, headers = await self._named(request)
        await asyncio.to_thread(manage.deleted, self._service, name)
        return Response(headers=headers)

    async def _named(self, request: Request) -> tuple[str, bool, dict[str, str]]:
        """The model that a request is about, whether its answer is streamed, and the headers of that."""
        raw = decode_object(await exchange.read_body(request))
        asked = typed(raw, wire.ModelRequest, convert.ACCEPTED)
        warnings = fields.check(raw, self._config.strict, wire.ModelRequest, convert.KNOWN)
        name = asked.model or asked.name
        if not name:
            raise InvalidRequest("model: the request names no model", "model")
        return convert.model_name(name), asked.stream is not False, warning_headers(warnings)

    async def answer(self, kind: type[wire.ChatRequest | wire.GenerateRequest], request: Request) -> Response:
        body = await exchange.read_body(request)
        asked = await exchange.on_thread(request, partial(self._prepare, kind, body), _Asked.close)
        headers = warning_headers(asked.warnings)
        if asked.answer is None:
            return exchange.whole(self._loaded(asked), headers)
        if asked.stream:
            return answers.told(self._lines(asked, asked.answer), headers, _LINES)
        answer = await exchange.unless_gone(request, answers.collected(asked.answer))
        piece, cut_off = convert.collected(answer.said)
        line = convert.show(self._line(), piece, asked.chat)
        line.warnings = [*asked.warnings, *answer.warnings, *cut_off] or UNSET
        return exchange.whole(convert.finish(line, answer.end), headers)

    def _prepare(self, kind: type[wire.ChatRequest | wire.GenerateRequest], body: bytes, gone: exchange.Gone) -> _Asked:
        raw = decode_object(body)
        asked = typed(raw, kind, convert.ACCEPTED)
        warnings = fields.check(raw, self._config.strict, kind, convert.KNOWN)
        warnings += convert.context_warning(asked, self._service.models()[0].context_length)
        name = convert.model_name(asked.model)
        stream = None
        if convert.is_empty(asked):
            self._service.check_served(name)
        else:
            stream = self._service.generate(name, convert.to_request(asked), gone)
        return _Asked(asked.stream is not False, kind is wire.ChatRequest, warnings, stream)

    def _line(self) -> wire.Line:
        return wire.Line(self._service.model_id, datetime.now(UTC).isoformat().replace("+00:00", "Z"))

    def _loaded(self, asked: _Asked) -> wire.Line:
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


async def _last(lines: AsyncIterator[wire.Status]) -> wire.Status:
    async with contextlib.aclosing(lines) as told:  # type: ignore[type-var]
        return [line async for line in told][-1]


async def _told(lines: AsyncIterator[wire.Status]) -> AsyncIterator[bytes]:
    try:
        async with contextlib.aclosing(lines) as told:  # type: ignore[type-var]
            async for line in told:
                yield _encoded(line)
    except GalagoError as error:
        yield _encoded(errors.ollama_body(error))


def _encoded(line: Any) -> bytes:
    return encode(line) + b"\n"
