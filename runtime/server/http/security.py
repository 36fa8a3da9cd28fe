"""Guards every route: checks the Host and Origin headers, the API key, the body's size and pace, and the number of
requests; names each response.

The Host check stops DNS rebinding, in which a web page makes a browser send requests to loopback under the page's own
host name (CVE-2024-28224 was the lack of such a check). The Origin check stops other web pages from sending requests
with the user's browser. Pages of allowed origins may send them, and read the responses (CORS).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import uuid
from collections import Counter
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ....models.errors import Forbidden, GalagoError, Unauthorized
from ...config import ServerConfig, is_loopback
from ...types.limits import limit, limit_error
from .errors import ErrorResponses
from .request_context import CURRENT, MemoryBudget, RequestContext

REQUEST_ID = "x-request-id"
"""The header that OpenAI's clients show as the request id of an answer or an error."""
_ANTHROPIC_REQUEST_ID = "request-id"
"""The one that Anthropic's clients show."""

_IDENTITY_HEADERS = ("authorization", "x-api-key", "user-agent")

_PUBLIC_PATHS = frozenset({"/health"})
"""Paths that need no API key: they only say whether the server is up."""
_SHOWN_HEADERS = (REQUEST_ID, _ANTHROPIC_REQUEST_ID, "retry-after", "x-galago-warnings")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""The usual ones, which are recognized without parsing."""


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


class Guard:
    """ASGI middleware. Refuses a request before its body is read, and a body once it exceeds the limit or stops.

    Each request gets a context with the `budget`, and with `running`, the requests that are computed.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServerConfig,
        error_responses: ErrorResponses,
        budget: MemoryBudget,
        running: set[object],
    ) -> None:
        self._app = app
        self._error_responses = error_responses
        self._budget = budget
        self._running = running
        self._requests_by_client: Counter[str] = Counter()
        self._host = config.host
        self._allowed_hosts = config.allowed_hosts
        self._allows_origin = config.allows_origin
        self._only_loopback = config.loopback
        self._api_key = config.api_key
        self._max_body_bytes = limit("body_bytes")
        self._max_client_requests = limit("client_requests")
        self._body_seconds = limit("body_seconds")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[REQUEST_ID] = f"req_{uuid.uuid4().hex}"
        send = _with_request_id(scope[REQUEST_ID], send)
        client, headers = (scope.get("client") or ("",))[0], Headers(scope=scope)
        context = RequestContext(self._budget, self._running, _identity(client, headers))
        CURRENT.set(context)
        try:
            self._check(scope["path"], headers)
            limited = self._limited(receive, client, context) if scope["type"] == "http" else receive
            await self._app(scope, limited, send)
        except GalagoError as error:
            await self._error_responses.response(error, scope["path"], scope[REQUEST_ID])(scope, receive, send)
        finally:
            if context.is_complete:
                self._requests_by_client[client] -= 1
                if not self._requests_by_client[client]:
                    del self._requests_by_client[client]
            if context.held_bytes:
                self._budget.end(context)

    def _check(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._host_allowed(host):
            raise Forbidden(
                f"the Host header {host!r} is not allowed, to protect against DNS rebinding; "
                "add the name with --allow-host if it is yours",
                "Host",
            )
        for origin in headers.getlist("origin"):
            if urlsplit(origin).netloc != host and not self._allows_origin(origin):
                raise Forbidden(
                    f"pages from {origin!r:.100} may not send requests to this server; "
                    "if you trust them, allow them with `galago serve --allow-origin ORIGIN`",
                    "Origin",
                )
        if self._api_key is not None and path not in _PUBLIC_PATHS:
            self._check_key(headers, self._api_key.encode())
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise self._too_large()

    def _host_allowed(self, host: str) -> bool:
        name = _without_port(host)
        if name in _LOOPBACK_NAMES or name in self._allowed_hosts or host in self._allowed_hosts:
            return True
        if self._only_loopback:
            return is_loopback(name)
        return name == self._host or is_loopback(name) or _is_address(name)

    def _check_key(self, headers: Headers, expected: bytes) -> None:
        """Accepts the key in the header of OpenAI's clients or in that of Anthropic's."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        keys = [key.strip()] if scheme.lower() == "bearer" else []
        keys += headers.getlist("x-api-key")
        if not any([hmac.compare_digest(key.encode("latin-1", "replace"), expected) for key in keys]):
            raise Unauthorized(
                "the API key is missing or wrong; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
            )

    def _limited(self, receive: Receive, client: str, context: RequestContext) -> Receive:
        """Receives a body within the limits. The request counts as one of its client's once all of it has come."""
        received_bytes = 0

        async def limited() -> Message:
            nonlocal received_bytes
            if context.is_complete:
                return await receive()
            try:
                async with asyncio.timeout(self._body_seconds):
                    message = await receive()
            except TimeoutError:
                raise limit_error("body_seconds", "the request's body did not arrive in time") from None
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._max_body_bytes:
                raise self._too_large()
            if message["type"] == "http.request" and not message.get("more_body", False):
                context.is_complete = True
                self._requests_by_client[client] += 1
                if self._requests_by_client[client] > self._max_client_requests:
                    raise limit_error("client_requests", "this client has too many requests in progress")
            return message

        return limited

    def _too_large(self) -> GalagoError:
        return limit_error("body_bytes", "the request's body is too large")


def _with_request_id(request_id: str, send: Send) -> Send:
    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update({REQUEST_ID: request_id, _ANTHROPIC_REQUEST_ID: request_id})
        await send(message)

    return send_with_id


def _identity(address: str, headers: Headers) -> str:
    """Tells clients apart: by address, by key and, since most are programs on this machine, by the program's name."""
    texts = (address, *(headers.get(name, "") for name in _IDENTITY_HEADERS))
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()  # the key stays in this process


def _without_port(host: str) -> str:
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        return name if not port or port.startswith(":") else host
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    """Whether this is an IP address: it needs no DNS, so a web page cannot have rebound it."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
