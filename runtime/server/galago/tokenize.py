"""`POST /v1/tokenize` and `/v1/detokenize`: texts and chats as tokens, and tokens as text."""

from __future__ import annotations

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import EngineError, InvalidRequest, NotFound, NotReady
from ...types import request as values
from ...types.tasks import Detokenize, Tokenize
from ...types.warnings import Warnings
from ..http import request_io
from ..http.openapi import Endpoint, RouteDescription
from ..openai.chat import convert
from ..openai.chat.message_parts import ReadFile
from ..openai.chat.schema import ChatRequest
from ..resource import Resource
from . import tokenize_schema as schema

_ERRORS = (InvalidRequest, NotFound, NotReady, EngineError)
TOKENIZE = RouteDescription(
    "The tokens of a text or a chat",
    {200: schema.TokenList},
    body=schema.TokenizeRequest,
    errors=_ERRORS,
    method="POST",
    examples={"text": {"content": "Hello"}},
)
DETOKENIZE = RouteDescription(
    "The text of tokens",
    {200: schema.DetokenizedText},
    body=schema.DetokenizeRequest,
    errors=_ERRORS,
    method="POST",
    examples={"tokens": {"tokens": [1, 2]}},
)


class Tokenization(Resource):
    def routes(self, prefix: str) -> list[Endpoint]:
        return [
            Endpoint(f"{prefix}/tokenize", self.tokenize, TOKENIZE),
            Endpoint(f"{prefix}/detokenize", self.detokenize, DETOKENIZE),
        ]

    async def tokenize(self, request: Request) -> Response:
        return await request_io.answer_on_thread(request, self._tokenize)

    async def detokenize(self, request: Request) -> Response:
        return await request_io.answer_on_thread(request, self._detokenize)

    def _tokenize(self, body: bytearray, disconnected: request_io.Cancellation) -> tuple[schema.TokenList, list[str]]:
        request, warnings = request_io.parse_body(body, schema.TokenizeRequest, self.strict)
        request.model = self.service.model_for(request.model, warnings)
        text = _text_or_chat(request, self.context.read_file, warnings)
        task = Tokenize(text, request.add_special is True, request.parse_special is not False)
        answer = self.service.run_task(request.model, task, disconnected)
        warnings += answer.warnings
        pieces = [schema.TokenPiece(i, _piece(piece)) for i, piece in zip(answer.ids, answer.pieces, strict=True)]
        tokens: list[int | schema.TokenPiece] = [*(pieces if request.with_pieces else answer.ids)]
        return schema.TokenList(tokens, len(answer.ids), warnings or UNSET), warnings

    def _detokenize(
        self, body: bytearray, disconnected: request_io.Cancellation
    ) -> tuple[schema.DetokenizedText, list[str]]:
        request, warnings = request_io.parse_body(body, schema.DetokenizeRequest, self.strict)
        request.model = self.service.model_for(request.model, warnings)
        answer = self.service.run_task(request.model, Detokenize(tuple(request.tokens)), disconnected)
        return schema.DetokenizedText(answer.text, warnings or UNSET), warnings


def _text_or_chat(request: schema.TokenizeRequest, read_file: ReadFile, warnings: Warnings) -> str | values.Request:
    if (request.content is None) == (request.messages is None):
        raise InvalidRequest("give either content, a text, or messages, a chat", "content")
    if request.messages is None:
        assert request.content is not None
        return request.content
    if request.add_special is not None or request.parse_special is not None:
        raise InvalidRequest(
            "add_special and parse_special need content; a chat's special tokens come from its template",
            "add_special",
        )
    return convert.to_request(ChatRequest(messages=request.messages, tools=request.tools), read_file, warnings)


def _piece(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
