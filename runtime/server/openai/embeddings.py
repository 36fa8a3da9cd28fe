"""`POST /v1/embeddings`, texts in and vectors out, and `/v1/rerank`, documents in the order of how well they answer.

Shapes stand in `wire_vectors.py`.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import Callable, Sequence

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import EngineError, InvalidRequest, NotFound, NotReady, UnsupportedField
from ...service import Service
from ...types.request import check_number
from ...types.tasks import Rerank, Vectors
from ..http import field_policy, request_io
from ..http.openapi import RouteDescription
from . import convert
from . import embeddings_schema as wire

_ERRORS = (InvalidRequest, NotFound, NotReady, EngineError)
EMBED = RouteDescription(
    "Make vectors of texts",
    {200: wire.EmbeddingList},
    body=wire.EmbeddingRequest,
    errors=_ERRORS,
    method="POST",
    examples={"texts": {"input": ["a house", "a home"]}},
)
RERANK = RouteDescription(
    "Order documents by how well they answer a question",
    {200: wire.Ranking},
    body=wire.RerankRequest,
    errors=_ERRORS,
    method="POST",
    examples={"texts": {"query": "How warm is it?", "documents": ["It is warm.", "A house."]}},
)


class VectorEndpoints:
    """Makes vectors with one service."""

    def __init__(self, service: Service, strict: bool) -> None:
        self._service = service
        self._strict = strict

    async def embed(self, request: Request) -> Response:
        return await request_io.answered(request, self._embed)

    def _embed(self, body: bytes, gone: Callable[[], bool]) -> tuple[wire.EmbeddingList, list[str]]:
        raw = convert.decode_object(body)
        _refuse_media(raw.get("input"))
        asked = convert.typed(raw, wire.EmbeddingRequest)
        warnings = field_policy.check(raw, self._strict, wire.EmbeddingRequest)
        vectors = self._service.embed(
            convert.inputs(asked.input, "input"), asked.dimensions, model=asked.model, cancelled=gone
        )
        data: Sequence[str | list[float]] = _base64(vectors) if asked.encoding_format == "base64" else vectors.rows()
        usage = wire.VectorUsage(vectors.tokens, vectors.tokens)
        embeddings = [wire.Embedding(i, one) for i, one in enumerate(data)]
        return wire.EmbeddingList(self._service.model_id, embeddings, usage, warnings or UNSET), warnings

    async def rerank(self, request: Request) -> Response:
        return await request_io.answered(request, self._rerank)

    def _rerank(self, body: bytes, gone: Callable[[], bool]) -> tuple[wire.Ranking, list[str]]:
        raw = convert.decode_object(body)
        asked = convert.typed(raw, wire.RerankRequest)
        warnings = field_policy.check(raw, self._strict, wire.RerankRequest)
        check_number("top_n", asked.top_n, 1, 2**31 - 1, whole=True)
        documents = [one if isinstance(one, str) else one.text for one in asked.documents]
        found = self._service.answer(asked.model, Rerank(asked.query, tuple(documents)), gone)
        order = sorted(range(len(documents)), key=lambda i: -found.scores[i])[: asked.top_n]
        results = [wire.Rank(i, found.scores[i]) for i in order]
        for rank in results if asked.return_documents else ():
            rank.document = wire.Document(documents[rank.index])
        usage = wire.VectorUsage(found.tokens, found.tokens)
        return wire.Ranking(self._service.model_id, results, usage, warnings or UNSET), warnings


def _refuse_media(given: object) -> None:
    """Says more than that the type is wrong to who sends what other servers take, as `{"content": [PARTS]}`."""
    for i, one in enumerate(given if isinstance(given, list) else [given]):
        if isinstance(one, dict) or isinstance(one, list) and any(isinstance(part, dict) for part in one):
            raise UnsupportedField(
                f"input[{i}] is no text: of pictures and sounds no vectors are made here, since each model wants them "
                "in a prompt of its own, which its file does not tell",
                f"input[{i}]",
            )


def _base64(vectors: Vectors) -> list[str]:
    """As OpenAI's clients ask for them by default: float32, the lowest byte first."""
    numbers = array("f", vectors.data)
    if sys.byteorder == "big":
        numbers.byteswap()
    data, size = numbers.tobytes(), 4 * vectors.width
    return [b64encode(data[i : i + size]).decode() for i in range(0, len(data), size)]
