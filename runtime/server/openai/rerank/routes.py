"""`POST /v1/rerank`: documents ordered by their relevance to a query."""

from __future__ import annotations

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from .....models.errors import EngineError, InvalidRequest, NotFound, NotReady
from ....types import tasks
from ....types.request import check_number
from ...http import request_io
from ...http.keep_alive import keep_function
from ...http.openapi import Endpoint, RouteDescription
from ...resource import Resource
from . import schema

RERANK = RouteDescription(
    "Order documents by relevance to a query",
    {200: schema.RerankResponse},
    body=schema.RerankRequest,
    errors=(InvalidRequest, NotFound, NotReady, EngineError),
    method="POST",
    examples={"texts": {"query": "How warm is it?", "documents": ["It is warm.", "A house."]}},
)


class Reranking(Resource):
    def routes(self, prefix: str) -> list[Endpoint]:
        return [Endpoint(f"{prefix}/rerank", self.rerank, RERANK)]

    async def rerank(self, request: Request) -> Response:
        return await request_io.answer_on_thread(request, self._rerank)

    def _rerank(
        self, body: bytearray, disconnected: request_io.Cancellation
    ) -> tuple[schema.RerankResponse, list[str]]:
        request, warnings = request_io.parse_body(body, schema.RerankRequest, self.strict)
        request.model = self.service.model_for(request.model, warnings)
        check_number("top_n", request.top_n, 1, 2**31 - 1, whole=True)
        documents = [one if isinstance(one, str) else one.text for one in request.documents]
        task = tasks.Rerank(request.query, tuple(documents))
        keep = keep_function(self.service, request.model, request.keep_alive, warnings)
        answer = self.service.run_task(request.model, task, disconnected)
        keep()
        order = sorted(range(len(documents)), key=lambda i: -answer.scores[i])[: request.top_n]
        results = [schema.RerankResult(i, answer.scores[i]) for i in order]
        for result in results if request.return_documents else ():
            result.document = schema.Document(documents[result.index])
        usage = schema.RerankUsage(answer.tokens, answer.tokens)
        return schema.RerankResponse(request.model, results, usage, warnings or UNSET), warnings
