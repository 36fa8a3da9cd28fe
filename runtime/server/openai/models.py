"""`GET /v1/models` and `/v1/models/{id}`: what is installed, in OpenAI's shape, or Anthropic's for its clients."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import NotFound, NotReady
from ...service import Service
from ..anthropic import convert as anthropic
from ..anthropic import schema as anthropic_wire
from ..http import request_io
from ..http.openapi import RouteDescription
from . import convert, schema

LIST = RouteDescription(
    "The models on this machine", {200: (schema.ModelList, anthropic_wire.ModelList)}, errors=(NotReady,)
)
SHOW = RouteDescription("One model", {200: (schema.ModelCard, anthropic_wire.ModelInfo)}, errors=(NotFound, NotReady))


class ModelEndpoints:
    """Tells of the models of one service, and of those on this disk that it has not loaded."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def list(self, request: Request) -> Response:
        loaded = self._service.models()
        if _is_anthropic(request):
            return request_io.whole(anthropic.model_list(loaded))
        others = await asyncio.to_thread(self._service.installed)
        cards = [convert.model_card(info) for info in loaded]
        return request_io.whole(
            schema.ModelList([*cards, *(convert.model_card(info, loaded=False) for info in others)])
        )

    async def show(self, request: Request) -> Response:
        name = request.path_params["id"]
        for info in self._service.models():
            if await asyncio.to_thread(self._service.serves, name):
                return request_io.whole(
                    anthropic.model_info(info) if _is_anthropic(request) else convert.model_card(info)
                )
        for info in await asyncio.to_thread(self._service.installed):
            if info.id == name:
                return request_io.whole(convert.model_card(info, loaded=False))
        raise NotFound(f"there is no model {name!r} here", "model")


def _is_anthropic(request: Request) -> bool:
    """Both APIs have these paths; its clients send the version of theirs."""
    return "anthropic-version" in request.headers
