"""`GET /` and `/health`: whether the server is up and the model is loaded."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from ..http.openapi import Endpoint, RouteDescription
from ..http.request_io import encode_json
from ..resource import Resource


class HealthStatus(Struct):
    status: Literal["ok", "loading"]


GREET = RouteDescription("Whether the server is up", {200: "text/plain; charset=utf-8"})
SHOW = RouteDescription("Whether the model is loaded", {200: HealthStatus, 503: HealthStatus})


class Health(Resource):
    def routes(self, prefix: str) -> list[Endpoint]:
        return [Endpoint("/", self.greet, GREET), Endpoint("/health", self.show, SHOW)]

    async def greet(self, _request: Request) -> Response:
        return Response("Galago is running", media_type="text/plain")

    async def show(self, _request: Request) -> Response:
        ready = self.service.ready
        body = encode_json(HealthStatus("ok" if ready else "loading"))
        return Response(body, 200 if ready else 503, media_type="application/json")
