"""`POST /v1/plan`: what a chat request would take here, without answering it. Shapes stand in `wire_plan.py`."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import EngineError, InvalidRequest, NotFound, NotReady
from ...service import Service
from ...types.tasks import Estimate, RequestEstimate
from ..http import field_policy, request_io
from ..http.openapi import RouteDescription
from ..openai import convert
from ..openai import message_parts as parts
from ..openai.schema import ChatRequest
from . import estimate_schema as wire

ABOUT = RouteDescription(
    "What a chat would take, without answering it",
    {200: wire.PlanAnswer},
    body=ChatRequest,
    errors=(InvalidRequest, NotFound, NotReady, EngineError),
    method="POST",
    bounds=convert.BOUNDS,
    examples={"text": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}},
)


class PlanEndpoint:
    """Plans with one service."""

    def __init__(self, service: Service, strict: bool, files: parts.Files) -> None:
        self._service = service
        self._files = files
        self._strict = strict

    async def plan(self, request: Request) -> Response:
        return await request_io.answered(request, self._plan)

    def _plan(self, body: bytes, gone: Callable[[], bool]) -> tuple[wire.PlanAnswer, list[str]]:
        raw = convert.decode_object(body)
        chat = convert.chat_request(raw)
        warnings = field_policy.check(raw, self._strict)
        try:
            count = convert.choices(chat)
            found = self._service.answer(chat.model, Estimate(convert.to_request(chat, self._files)), gone)
        except InvalidRequest as error:
            raise convert.renamed(error) from None
        several = ["the seconds are those of one answer, not of several at once"] if count > 1 else []
        return _answer(self._service.model_id, found, [*warnings, *several]), warnings


def _answer(model: str, found: RequestEstimate, warnings: list[str]) -> wire.PlanAnswer:
    parts = [wire.PlannedPart(part.message, part.part, part.kind, part.tokens) for part in found.parts]
    return wire.PlanAnswer(
        model=model,
        fits=not found.over,
        over_by=found.over,
        context_length=found.context,
        max_tokens=found.max_tokens,
        tokens=wire.PlannedTokens(found.tokens, found.cached, found.frame, parts),
        seconds=wire.PlannedSeconds(_rounded(found.first_token), _rounded(found.total)),
        peak_memory_bytes=found.memory,
        warnings=[*warnings, *found.warnings] or UNSET,
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
