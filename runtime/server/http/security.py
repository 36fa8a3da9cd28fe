"""Stands before every route: who may ask, from where, and how large a body; names each response. Knows no resource.

The Host check stops DNS rebinding, where a web page makes a browser talk to loopback under the page's own name
(CVE-2024-28224 was the lack of one); the Origin check stops any other page from sending requests in a user's name.
"""

from __future__ import annotations

import hmac
import ipaddress
import uuid
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ....models.errors import Forbidden, GalagoError, RequestTooLarge, Unauthorized
from ...config import ServerConfig, is_loopback
from .errors import response

REQUEST_ID = "x-request-id"
"""The header that OpenAI's clients show as an answer's or an error's request id."""
_ANTHROPIC_ID = "request-id"
"""The one that Anthropic's clients show."""

_OPEN = frozenset({"/health"})
"""Paths that need no API key: they tell nothing but whether the server is up."""


class Guard:
    """ASGI middleware. Refuses before a byte of the body is read, except that it counts the body while it arrives."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[REQUEST_ID] = f"req_{uuid.uuid4().hex}"
        send = _named(scope[REQUEST_ID], send)
        try:
            self._check(scope["path"], Headers(scope=scope))
            await self._app(scope, self._counted(receive), send)
        except GalagoError as error:
            await response(error, scope["path"])(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._host_allowed(host):
            raise Forbidden(f"this server does not answer to the host {host!r}; allow it with --allow-host", "Host")
        for origin in headers.getlist("origin"):
            if urlsplit(origin).netloc != host:
                raise Forbidden(f"pages of {origin!r} may not use this server", "Origin")
        if self._config.api_key is not None and path not in _OPEN:
            self._check_key(headers)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._config.max_body_bytes:
            raise self._too_large()

    def _host_allowed(self, host: str) -> bool:
        name = _without_port(host)
        if name in self._config.allowed_hosts or host in self._config.allowed_hosts:
            return True
        if self._config.loopback:
            return is_loopback(name)
        return name == self._config.host or is_loopback(name) or _is_address(name)

    def _check_key(self, headers: Headers) -> None:
        """In the header that OpenAI's clients send, or that of Anthropic's."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = [key.strip()] if scheme.lower() == "bearer" else []
        given += headers.getlist("x-api-key")
        expected = (self._config.api_key or "").encode()
        if not any([hmac.compare_digest(key.encode("latin-1", "replace"), expected) for key in given]):
            how = "Authorization: Bearer KEY, or as x-api-key: KEY"
            raise Unauthorized(f"the API key is missing or wrong; send it as {how}")

    def _counted(self, receive: Receive) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._config.max_body_bytes:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"the request body is larger than the limit of {self._config.max_body_bytes} bytes")


def _named(request_id: str, send: Send) -> Send:
    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update({REQUEST_ID: request_id, _ANTHROPIC_ID: request_id})
        await send(message)

    return named


def _without_port(host: str) -> str:
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        return name if not port or port.startswith(":") else host
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    """An address needs no DNS, so no foreign page can have rebound it."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
