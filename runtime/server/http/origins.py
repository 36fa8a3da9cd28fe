"""Lets pages of the allowed origins read responses (CORS)."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ...config import ServerConfig
from .security import ANTHROPIC_REQUEST_ID, REQUEST_ID

_SHOWN_HEADERS = (REQUEST_ID, ANTHROPIC_REQUEST_ID, "retry-after", "x-galago-warnings")


class AllowedOrigins:
    """ASGI middleware. Lets pages of allowed origins read responses, and answers the preflight requests for them."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._allows = config.allows_origin
        self._shared = CORSMiddleware(
            app,
            allow_origin_regex=".*",
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=_SHOWN_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_request = scope["type"] == "http"
        app = self._shared if is_request and self._allows(Headers(scope=scope).get("origin", "")) else self._app
        await app(scope, receive, send)
