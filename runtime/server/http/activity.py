"""Knows when nobody asks anything, for work that may wait until then. Knows no resource."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send


class Activity:
    """How many requests are being answered."""

    def __init__(self) -> None:
        self._count = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def begin(self) -> None:
        self._count += 1
        self._quiet.clear()

    def end(self) -> None:
        self._count -= 1
        if not self._count:
            self._quiet.set()

    async def quiet(self) -> None:
        """Returns as soon as there is no request."""
        await self._quiet.wait()


class ActivityMiddleware:
    """ASGI middleware that counts requests from their first byte until their answers' last."""

    def __init__(self, app: ASGIApp, traffic: Activity) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._traffic.begin()
        try:
            await self._app(scope, receive, send)
        finally:
            self._traffic.end()
