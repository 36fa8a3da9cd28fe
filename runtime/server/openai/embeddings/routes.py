"""`POST /v1/embeddings`: a vector for each text."""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import Mapping, Sequence

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from .....models.errors import EngineError, InvalidRequest, NotFound, NotReady, UnsupportedField
from ....types.tasks import Embed, Vectors
from ...http import request_io
from ...http.keep_alive import keep_function
from ...http.openapi import Endpoint, RouteDescription
from ...resource import RequestFunction, Resource
from ..completions.convert import prompts
from . import schema

PATH = "/embeddings"

EMBED = RouteDescription(
    "Embed texts as vectors",
    {200: schema.EmbeddingList},
    body=schema.EmbeddingRequest,
    errors=(InvalidRequest, NotFound, NotReady, EngineError),
    method="POST",
    examples={"texts": {"input": ["a house", "a home"]}},
)


class Embeddings(Resource):
    def routes(self, prefix: str) -> list[Endpoint]:
        return [Endpoint(f"{prefix}{PATH}", self.embed, EMBED)]

    def batch_endpoints(self) -> Mapping[str, RequestFunction]:
        return {f"/v1{PATH}": self.embed}

    async def embed(self, request: Request) -> Response:
        return await request_io.answer_on_thread(request, self._embed)

    def _embed(self, body: bytearray, disconnected: request_io.Cancellation) -> tuple[schema.EmbeddingList, list[str]]:
        warnings = request_io.no_warnings(self.strict)
        raw = request_io.decode_object(body, warnings)
        _refuse_media(raw.get("input"))
        request = request_io.convert_object(raw, schema.EmbeddingRequest, warnings)
        request.model = self.service.model_for(request.model, warnings)
        texts = prompts(request.input, "input")
        task = Embed(tuple(texts), request.dimensions)
        keep = keep_function(self.service, request.model, request.keep_alive, warnings)
        vectors = self.service.run_task(request.model, task, disconnected)
        keep()
        as_base64 = request.encoding_format == "base64"
        data: Sequence[str | list[float]] = _base64_rows(vectors) if as_base64 else vectors.rows()
        embeddings = [schema.Embedding(i, one) for i, one in enumerate(data)]
        usage = schema.EmbeddingUsage(vectors.tokens, vectors.tokens)
        return schema.EmbeddingList(request.model, embeddings, usage, warnings or UNSET), warnings


def _refuse_media(field: object) -> None:
    """Raises a clear error for media in the form of other servers, such as `{"content": [PARTS]}`."""
    for i, one in enumerate(field if isinstance(field, list) else [field]):
        if isinstance(one, dict) or isinstance(one, list) and any(isinstance(part, dict) for part in one):
            raise UnsupportedField(
                f"input[{i}] is not a text: images and audio cannot be embedded, because each model needs them in "
                "a prompt of its own format, which GGUF files do not describe",
                f"input[{i}]",
            )


def _base64_rows(vectors: Vectors) -> list[str]:
    """Each vector as base64 of little-endian float32, which OpenAI's clients ask for by default."""
    numbers = array("f", vectors.data)
    if sys.byteorder == "big":
        numbers.byteswap()
    data, row_bytes = numbers.tobytes(), 4 * vectors.width
    return [b64encode(data[i : i + row_bytes]).decode() for i in range(0, len(data), row_bytes)]
