"""`GET /v1/models` and `/v1/models/{id}`, in OpenAI's format, or in Anthropic's for its clients."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from .....models.errors import NotFound, NotReady
from ....types.model_info import ModelInfo
from ...anthropic import convert as anthropic_convert
from ...anthropic import schema as anthropic_schema
from ...http.openapi import Endpoint, RouteDescription
from ...http.request_io import json_response
from ...resource import Resource
from . import schema

LIST = RouteDescription(
    "The models on this machine", {200: (schema.ModelList, anthropic_schema.ModelList)}, errors=(NotReady,)
)
SHOW = RouteDescription("One model", {200: (schema.ModelCard, anthropic_schema.ModelInfo)}, errors=(NotFound, NotReady))


class Models(Resource):
    """The loaded models, and those on disk that are not loaded."""

    def routes(self, prefix: str) -> list[Endpoint]:
        return [
            Endpoint(f"{prefix}/models", self.list, LIST),
            Endpoint(f"{prefix}/models/{{id:path}}", self.show, SHOW),
        ]

    async def list(self, request: Request) -> Response:
        loaded = [*self.service.models(), *self.service.aliases()]
        if _is_anthropic(request):
            return json_response(anthropic_convert.model_list(loaded))
        others = await asyncio.to_thread(self.service.installed)
        cards = [_card(info, loaded=True) for info in loaded]
        return json_response(schema.ModelList([*cards, *(_card(info, loaded=False) for info in others)]))

    async def show(self, request: Request) -> Response:
        name = request.path_params["id"]
        self.service.models()  # raises `NotReady` while they are loading
        if await asyncio.to_thread(self.service.is_loaded, name):
            info = await asyncio.to_thread(self.service.model, name)
            info = next((alias for alias in self.service.aliases() if alias.id == name), info)
            return json_response(
                anthropic_convert.model_info(info) if _is_anthropic(request) else _card(info, loaded=True)
            )
        for info in await asyncio.to_thread(self.service.installed):
            if info.id == name:
                return json_response(_card(info, loaded=False))
        raise NotFound(f"there is no model {name!r} on this machine; GET /v1/models lists the models", "model")


def _is_anthropic(request: Request) -> bool:
    """Both APIs have these paths; Anthropic's clients send the version of their API."""
    return "anthropic-version" in request.headers


def _card(info: ModelInfo, loaded: bool) -> schema.ModelCard:
    modalities = [("text", True), ("image", info.vision), ("audio", info.audio)]
    return schema.ModelCard(
        id=info.id,
        created=info.created,
        context_length=info.context_length,
        input_modalities=[name for name, supported in modalities if supported],
        parameters=info.parameters,
        size_bytes=info.size_bytes,
        description=info.description,
        loaded=loaded,
    )
