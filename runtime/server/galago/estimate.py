"""`POST /v1/plan`: the tokens, time and memory that a chat request would take, without answering it."""

from __future__ import annotations

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import EngineError, InvalidRequest, NotFound, NotReady
from ...types.tasks import Estimate, RequestEstimate
from ..http import request_io
from ..http.openapi import Endpoint, RouteDescription
from ..openai.chat import convert
from ..openai.chat.schema import ChatRequest
from ..resource import Resource
from . import estimate_schema as schema

PLAN = RouteDescription(
    "Estimate what a chat would take, without answering it",
    {200: schema.EstimateResponse},
    body=ChatRequest,
    errors=(InvalidRequest, NotFound, NotReady, EngineError),
    method="POST",
    bounds=convert.BOUNDS,
    examples={"text": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}},
)


class Estimates(Resource):
    def routes(self, prefix: str) -> list[Endpoint]:
        return [Endpoint(f"{prefix}/plan", self.plan, PLAN)]

    async def plan(self, request: Request) -> Response:
        return await request_io.answer_on_thread(request, self._plan)

    def _plan(
        self, body: bytearray, disconnected: request_io.Cancellation
    ) -> tuple[schema.EstimateResponse, list[str]]:
        chat, warnings = request_io.parse_body(body, ChatRequest, self.strict)
        chat.model = self.service.model_for(chat.model, warnings)
        with convert.api_field_names(warnings):
            count = convert.choice_count(chat)
            task = Estimate(convert.to_request(chat, self.context.read_file, warnings))
            estimate = self.service.run_task(chat.model, task, disconnected)
        several = ["the seconds are those of one answer, not of several at once"] if count > 1 else []
        return _response(chat.model, estimate, [*warnings, *several]), warnings


def _response(model: str, estimate: RequestEstimate, warnings: list[str]) -> schema.EstimateResponse:
    parts = [schema.EstimatedPart(part.message, part.part, part.kind, part.tokens) for part in estimate.parts]
    return schema.EstimateResponse(
        model=model,
        fits=not estimate.excess_tokens,
        over_by=estimate.excess_tokens,
        context_length=estimate.context_length,
        max_tokens=estimate.max_tokens,
        tokens=schema.EstimatedTokens(estimate.prompt_tokens, estimate.cached_tokens, estimate.template_tokens, parts),
        seconds=schema.EstimatedSeconds(_rounded(estimate.first_token_seconds), _rounded(estimate.total_seconds)),
        peak_memory_bytes=estimate.memory_bytes,
        warnings=[*warnings, *estimate.warnings] or UNSET,
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
