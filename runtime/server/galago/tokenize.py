"""`POST /v1/tokenize` and `/v1/detokenize`: texts and chats as tokens, and back. Shapes stand in `wire_tokens.py`."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import EngineError, InvalidRequest, NotFound, NotReady
from ...service import Service
from ...types import request as values
from ...types.tasks import Detokenize, Tokenize
from ..http import field_policy, request_io
from ..http.openapi import RouteDescription
from ..openai import convert, message_parts, schema
from . import tokenize_schema as shapes

_ERRORS = (InvalidRequest, NotFound, NotReady, EngineError)
TOKENIZE = RouteDescription(
    "The tokens of a text or a chat",
    {200: shapes.TokenList},
    body=shapes.TokenizeRequest,
    errors=_ERRORS,
    method="POST",
    examples={"text": {"content": "Hello"}},
)
DETOKENIZE = RouteDescription(
    "The text of tokens",
    {200: shapes.DetokenizedText},
    body=shapes.DetokenizeRequest,
    errors=_ERRORS,
    method="POST",
    examples={"tokens": {"tokens": [1, 2]}},
)


class TokenEndpoints:
    """Asks one service for tokens."""

    def __init__(self, service: Service, strict: bool, files: message_parts.Files) -> None:
        self._service = service
        self._files = files
        self._strict = strict

    async def tokenize(self, request: Request) -> Response:
        return await request_io.answered(request, self._tokenize)

    async def detokenize(self, request: Request) -> Response:
        return await request_io.answered(request, self._detokenize)

    def _tokenize(self, body: bytes, gone: Callable[[], bool]) -> tuple[shapes.TokenList, list[str]]:
        raw = convert.decode_object(body)
        asked = convert.typed(raw, shapes.TokenizeRequest)
        warnings = field_policy.check(raw, self._strict, shapes.TokenizeRequest)
        task = Tokenize(_text(asked, self._files), asked.add_special is True, asked.parse_special is not False)
        found = self._service.answer(asked.model, task, gone)
        pieces = [shapes.TokenPiece(i, _piece(piece)) for i, piece in zip(found.ids, found.pieces, strict=True)]
        tokens: list[int | shapes.TokenPiece] = [*(pieces if asked.with_pieces else found.ids)]
        return shapes.TokenList(tokens, len(found.ids), warnings or UNSET), warnings

    def _detokenize(self, body: bytes, gone: Callable[[], bool]) -> tuple[shapes.DetokenizedText, list[str]]:
        raw = convert.decode_object(body)
        asked = convert.typed(raw, shapes.DetokenizeRequest)
        warnings = field_policy.check(raw, self._strict, shapes.DetokenizeRequest)
        found = self._service.answer(asked.model, Detokenize(tuple(asked.tokens)), gone)
        return shapes.DetokenizedText(found.text, warnings or UNSET), warnings


def _text(asked: shapes.TokenizeRequest, files: message_parts.Files) -> str | values.Request:
    if (asked.content is None) == (asked.messages is None):
        raise InvalidRequest("give either content, a text, or messages, a chat", "content")
    if asked.messages is None:
        assert asked.content is not None
        return asked.content
    if asked.add_special is not None or asked.parse_special is not None:
        raise InvalidRequest("add_special and parse_special are for content; a chat has its template", "add_special")
    return convert.to_request(schema.ChatRequest(messages=asked.messages, tools=asked.tools), files)


def _piece(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
