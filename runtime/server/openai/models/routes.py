"""`/v1/models`: lists models in OpenAI's format, or in Anthropic's for its clients; loads and unloads one."""

from __future__ import annotations

import asyncio
from functools import partial
from math import isinf

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from .....models.errors import ConfigError, EngineError, InvalidRequest, ModelError, NotFound, NotReady
from ....types.model_info import ModelInfo, ModelState, ModelStatus
from ....types.warnings import Warnings
from ...anthropic import convert as anthropic_convert
from ...anthropic import schema as anthropic_schema
from ...http import request_io
from ...http.keep_alive import keep_function
from ...http.openapi import Endpoint, RouteDescription
from ...http.request_io import json_response
from ...resource import Resource
from . import schema

LIST = RouteDescription(
    "The models on this machine", {200: (schema.ModelList, anthropic_schema.ModelList)}, errors=(NotReady,)
)
SHOW = RouteDescription("One model", {200: (schema.ModelCard, anthropic_schema.ModelInfo)}, errors=(NotFound, NotReady))
_LOAD_ERRORS = (InvalidRequest, NotFound, NotReady, ConfigError, ModelError, EngineError)
LOAD = RouteDescription(
    "Load a model, and answer when it is loaded",
    {200: schema.ModelStatus},
    errors=_LOAD_ERRORS,
    method="POST",
    body=schema.LoadRequest,
    examples={"for_an_hour": {"keep_alive": "1h"}},
)
UNLOAD = RouteDescription(
    "Unload a model once it has ended its answers, and answer then",
    {200: schema.ModelStatus},
    errors=_LOAD_ERRORS,
    method="POST",
)


class Models(Resource):
    """The loaded models, and those on disk that are not loaded."""

    def routes(self, prefix: str) -> list[Endpoint]:
        return [
            Endpoint(f"{prefix}/models", self.list, LIST),
            Endpoint(f"{prefix}/models/{{id:path}}/load", self.load, LOAD),
            Endpoint(f"{prefix}/models/{{id:path}}/unload", self.unload, UNLOAD),
            Endpoint(f"{prefix}/models/{{id:path}}", self.show, SHOW),
        ]

    async def list(self, request: Request) -> Response:
        loaded = [*self.service.models(), *self.service.aliases()]
        if _is_anthropic(request):
            return json_response(anthropic_convert.model_list(loaded))
        others = await asyncio.to_thread(self.service.installed)
        status = {one.id: one for one in self.service.status()}
        coming = [await asyncio.to_thread(self.service.model, name) for name in status.keys() - {i.id for i in loaded}]
        cards = [_card(info, status.get(info.id)) for info in [*loaded, *coming]]
        return json_response(schema.ModelList([*cards, *(_card(info, None, "unloaded") for info in others)]))

    async def show(self, request: Request) -> Response:
        name = request.path_params["id"]
        self.service.models()  # raises `NotReady` while they are loading
        if await asyncio.to_thread(self.service.is_loaded, name):
            info = await asyncio.to_thread(self.service.model, name)
            info = next((alias for alias in self.service.aliases() if alias.id == name), info)
            return json_response(
                anthropic_convert.model_info(info) if _is_anthropic(request) else _card(info, self._status(info.id))
            )
        for info in await asyncio.to_thread(self.service.installed):
            if info.id == name:
                return json_response(_card(info, None, "unloaded"))
        raise NotFound(f"there is no model {name!r} on this machine; GET /v1/models lists the models", "model")

    def _status(self, name: str) -> ModelStatus | None:
        return next((status for status in self.service.status() if status.id == name), None)

    async def load(self, request: Request) -> Response:
        name, body = request.path_params["id"], await request_io.read_body(request)
        parsed, warnings = request_io.parse_body(body or b"{}", schema.LoadRequest, self.strict)
        load = partial(self._load, name, parsed.keep_alive, warnings)
        status = await request_io.run_on_thread(request, load)
        status = self._status(status.id) or status
        return json_response(_status(status), request_io.warning_headers(warnings))

    def _load(
        self, name: str, keep_alive: float | str | None, warnings: Warnings, cancelled: request_io.Cancellation
    ) -> ModelStatus:
        model = self.service.model_for(name, warnings)
        keep = keep_function(self.service, model, keep_alive, warnings)
        status = self.service.load_model(model, cancelled)
        keep()
        return status

    async def unload(self, request: Request) -> Response:
        status = await request_io.run_on_thread(request, partial(self.service.unload_model, request.path_params["id"]))
        return json_response(_status(status))


def _is_anthropic(request: Request) -> bool:
    """Both APIs have these paths; Anthropic's clients send the version of their API."""
    return "anthropic-version" in request.headers


def _status(status: ModelStatus) -> schema.ModelStatus:
    return schema.ModelStatus(
        status.id,
        status.state,
        status.busy,
        status.memory_bytes,
        -1 if isinf(status.keep_alive) else status.keep_alive,
        _seconds_left(status),
    )


def _seconds_left(status: ModelStatus | None) -> float | UnsetType:
    if status is None or status.idle_seconds_left is None:
        return UNSET
    return round(status.idle_seconds_left, 1)


def _card(info: ModelInfo, status: ModelStatus | None, state: ModelState = "ready") -> schema.ModelCard:
    """Describes a model with a status, or in a state. An alias has no status of its own."""
    modalities = [("text", True), ("image", info.vision), ("audio", info.audio)]
    return schema.ModelCard(
        id=info.id,
        created=info.created,
        context_length=info.context_length,
        input_modalities=[name for name, supported in modalities if supported],
        parameters=info.parameters,
        size_bytes=info.size_bytes,
        description=info.description,
        loaded=(status.state if status else state) == "ready",
        state=status.state if status else state,
        seconds_left=_seconds_left(status),
    )
