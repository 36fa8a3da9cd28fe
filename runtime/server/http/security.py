"""Guards every route: checks the Host and Origin headers, the API key, the body's size and pace, and the number of
requests; names each response. Limits HTTP connections: their number, the time and size of a head, and unread answers.

The Host check stops DNS rebinding, in which a web page makes a browser send requests to loopback under the page's own
host name (CVE-2024-28224 was the lack of such a check). The Origin check stops other web pages from sending requests
with the user's browser. Pages of allowed origins may send them, and read the responses (CORS).
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import time
import uuid
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ....models.errors import Forbidden, GalagoError
from ...config import ServerConfig, is_loopback
from ...types.limits import limit, limit_error
from .errors import ErrorResponses
from .read_throttle import QUICK_SECONDS, ReadThrottle
from .request_context import CURRENT, MemoryBudget, RequestContext

if TYPE_CHECKING:
    from ..accounts.keys import ApiKeys
    from ..accounts.record import RequestRecord

REQUEST_ID = "x-request-id"
"""The header that OpenAI's clients show as the request id of an answer or an error."""
ANTHROPIC_REQUEST_ID = "request-id"
"""The header that Anthropic's clients show."""

_IDENTITY_HEADERS = ("authorization", "x-api-key", "user-agent")

RECORD = "galago.record"
"""The scope's entry with the record of a request, if the server has API keys or an audit log."""

_PUBLIC_PATHS = frozenset({"/health"})
"""Paths that need no API key: they only say whether the server is up."""
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""Common loopback names, recognized without parsing."""


class Guard:
    """ASGI middleware. Refuses a request before its body is read, and a body once it exceeds the limit or stops.

    Each request gets a context with the `budget`, and with `foreground`, the requests being computed.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServerConfig,
        error_responses: ErrorResponses,
        budget: MemoryBudget,
        foreground: set[object],
        keys: ApiKeys | None = None,
    ) -> None:
        self._app = app
        self._error_responses = error_responses
        self._budget = budget
        self._foreground = foreground
        self._requests_by_client: Counter[str] = Counter()
        self._host = config.host
        self._allowed_hosts = config.allowed_hosts
        self._allows_origin = config.allows_origin
        self._only_loopback = config.loopback
        self._keys = keys
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
        record = scope.get(RECORD)
        context = RequestContext(self._budget, self._foreground, _identity(client, headers), record=record)
        CURRENT.set(context)
        try:
            self._check(scope["path"], headers, record)
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

    def _check(self, path: str, headers: Headers, record: RequestRecord | None) -> None:
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
        if self._keys is not None and path not in _PUBLIC_PATHS:
            account = self._keys.account_for(headers)
            if record is not None:
                record.account = account
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise self._too_large()

    def _host_allowed(self, host: str) -> bool:
        name = _without_port(host)
        if name in _LOOPBACK_NAMES or name in self._allowed_hosts or host in self._allowed_hosts:
            return True
        return is_loopback(name) or (not self._only_loopback and (name == self._host or _is_address(name)))

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
            MutableHeaders(scope=message).update({REQUEST_ID: request_id, ANTHROPIC_REQUEST_ID: request_id})
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


class OpenConnection(Protocol):
    """A connection of either protocol."""

    transport: Any

    @property
    def waits_for_client(self) -> bool:
        """Whether it may be closed to make room for another."""


class ConnectionLimits:
    """Limits of connections, read when this is created, and the errors of those that exceed them."""

    def __init__(self, budget: MemoryBudget, error_responses: ErrorResponses) -> None:
        self.budget = budget
        self.connections = limit("connections")
        self.head_seconds = limit("header_seconds")
        self.head_bytes = limit("header_bytes")
        self.unread_seconds = limit("body_seconds")
        self.throttle = ReadThrottle()
        self.open: dict[OpenConnection, None] = {}
        """The open connections, the oldest first."""
        self._error_responses = error_responses

    def make_room(self) -> bool:
        """Closes the oldest connection that waits for its client. Returns whether there was one."""
        oldest = next((one for one in self.open if one.waits_for_client), None)
        if oldest is not None:
            del self.open[oldest]
            oldest.transport.abort()
        return oldest is not None

    def response(self, error: GalagoError) -> bytes:
        """A whole response, after which the connection is closed."""
        response = self._error_responses.response(error, "")
        headers = [(b"connection", b"close"), *response.raw_headers]
        lines = [b"HTTP/1.1 %d " % response.status_code, *(b"%s: %s" % header for header in headers), b"", b""]
        return b"\r\n".join(lines) + bytes(response.body)


class _HoldableFlow(FlowControl):
    """Flow control that can stop reading for a time, whether or not the request needs more of its body."""

    is_held = False

    def hold(self) -> None:
        self.is_held = True
        if not self.read_paused:
            self._transport.pause_reading()

    def go_on(self) -> None:
        self.is_held = False
        if not self.read_paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def pause_reading(self) -> None:
        if self.is_held:
            self.read_paused = True
        else:
            super().pause_reading()

    def resume_reading(self) -> None:
        if self.is_held:
            self.read_paused = False
        else:
            super().resume_reading()


class LimitedConnection(HttpToolsProtocol):
    """An HTTP connection within the limits. At their limit, a new one takes the place of one that waits.

    A connection whose bytes take long to parse, such as chunks of one byte each, is read with pauses.
    """

    flow: _HoldableFlow

    def __init__(self, *, limits: ConnectionLimits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._receiving: Literal["head", "body"] | None = None
        self._head_bytes = 0
        self._head_since: float | None = None
        self._unread: tuple[int, float] = (0, 0.0)
        """Bytes that the client has not read, and the time since when their number is the same."""
        self._earlier: deque[RequestResponseCycle] = deque()
        """Requests before the last one that has arrived, if they are not answered yet."""
        self.opened = self.loop.time()

    @property
    def waits_for_client(self) -> bool:
        """Whether there is no request, or only a part of one."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self.cycle.more_body and not self.cycle.response_started

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _HoldableFlow(transport)
        if len(self._limits.open) >= self._limits.connections and not self._limits.make_room():
            self._refuse(limit_error("connections", "the server has too many open connections"))
            return
        self._limits.open[self] = None
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.open.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        for cycle in self._earlier:  # uvicorn tells only the last one
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        continues_head = self._receiving == "head"
        began = time.thread_time()
        super().data_received(data)
        spent = time.thread_time() - began
        if spent > QUICK_SECONDS and self in self._limits.open and not self.transport.is_closing():
            self.flow.hold()
            self.loop.call_later(self._limits.throttle.pause_seconds(spent, self.loop.time()), self.flow.go_on)
        if continues_head and self._receiving == "head":
            self._count_head(len(data))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving, self._head_bytes = "head", 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._receiving == "head":  # later headers are a chunked body's trailers, which are ignored
            super().on_header(name, value)
            self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._receiving = "body"
        while self._earlier and self._earlier[0].response_complete:
            self._earlier.popleft()
        if self.cycle is not None and not self.cycle.response_complete:
            self._earlier.append(self.cycle)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._receiving = None
        super().on_message_complete()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.head_bytes and not self.transport.is_closing():
            self._refuse(limit_error("header_bytes", "the request's headers are too large"))

    def _watch(self) -> None:
        self._timer = self.loop.call_later(self._limits.head_seconds / 2, self._check)

    def _check(self) -> None:
        """Closes a connection whose client sends no head, or reads no answer, in time."""
        now = self.loop.time()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            if self._head_since is None:
                self._head_since = now if self.cycle else self.opened
            if not self._waits_for_head():
                self._head_since = None
            elif now - self._head_since >= self._limits.head_seconds:
                self._refuse(limit_error("header_seconds", "the request's headers did not arrive in time"))
                return
        else:
            self._head_since = None
            size = self.transport.get_write_buffer_size() if self.flow.write_paused else 0
            if not size or size != self._unread[0]:
                self._unread = (size, now)
            elif now - self._unread[1] >= self._limits.unread_seconds:
                self.transport.abort()
                return
        self._watch()

    def _waits_for_head(self) -> bool:
        """Whether the first head is missing, another is incomplete, or a body goes on after its response."""
        return self.cycle is None or self._receiving is not None

    def _refuse(self, error: GalagoError) -> None:
        self._limits.open.pop(self, None)
        self.transport.write(self._limits.response(error))
        self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._limits.open.pop(self, None)
        super().handle_websocket_upgrade()
