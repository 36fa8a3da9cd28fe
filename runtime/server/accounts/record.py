"""Records what each request uses, for the limits of its key and for the audit log."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ....models.errors import GalagoError
from ..http.errors import code, status
from ..http.security import RECORD
from .audit import AuditLine, ClientKind, client_kind, utc_time

if TYPE_CHECKING:
    from .account import Account

_OTHER_PATH = "other"
"""Stands in the audit log for a path that is no route: the client has chosen its text."""
_SWITCHING_PROTOCOLS, _CLIENT_CLOSED_REQUEST, _UNEXPECTED_ERROR = 101, 499, 500


class RequestRecord:
    """One request, from its arrival until its last answer has ended. Thread-safe.

    `on_end` is called once, with the record, after `end` and after the last of the answers that `hold` has announced.
    """

    def __init__(
        self,
        method: str,
        path: str,
        client: ClientKind,
        account: Account | None = None,
        on_end: Callable[[RequestRecord], None] = lambda _: None,
    ) -> None:
        self.method = method
        self.path = path
        self.client = client
        self.account = account
        self.model: str | None = None
        self.is_admitted = False
        """Whether the request counts as one of its key."""
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.status = 0
        self.error: str | None = None
        self._reserved_tokens = 0
        self._on_end = on_end
        self._arrived_at = time.time()
        self._arrived = time.monotonic()
        self._running = 1
        self._lock = threading.Lock()

    def child(self) -> RequestRecord:
        """Returns the record of one request among several that share a connection."""
        return RequestRecord(self.method, self.path, self.client, self.account, self._on_end)

    def admit(self, model: str, most_tokens: int) -> None:
        """Counts the request as one of its key, once. Raises `RateLimited`."""
        with self._lock:
            self.model = model
            if self.is_admitted:
                return
            if self.account is not None:
                self.account.admit(model, most_tokens)
                self._reserved_tokens = most_tokens
            self.is_admitted = True

    def pass_on_reservation(self, most_tokens: int) -> None:
        """Reserves tokens for an answer that begins, which gives them back, in place of those of the request."""
        with self._lock:
            reserved, self._reserved_tokens = self._reserved_tokens, 0
        if self.account is not None:
            self.account.reserve(most_tokens - reserved)

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts tokens that the request has used."""
        with self._lock:
            self.prompt_tokens += prompt_tokens
            self.completion_tokens += completion_tokens
        if self.account is not None and self.model is not None:
            self.account.use(self.model, prompt_tokens, completion_tokens)

    def fail(self, error: GalagoError) -> None:
        """Notes an error that was not the response's status."""
        self.error = code(error)

    def hold(self) -> None:
        """Announces an answer, for which `end` will be called too."""
        with self._lock:
            self._running += 1

    def end(self) -> None:
        with self._lock:
            self._running -= 1
            has_ended = not self._running
            reserved, self._reserved_tokens = self._reserved_tokens, 0
        if self.account is not None and reserved:
            self.account.reserve(-reserved)
        if has_ended:
            self._on_end(self)

    def audit_line(self) -> AuditLine:
        return AuditLine(
            time=utc_time(self._arrived_at),
            key=None if self.account is None else self.account.name,
            client=self.client,
            method=self.method,
            path=self.path,
            model=self.model,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            status=self.status,
            error=self.error,
            seconds=round(time.monotonic() - self._arrived, 3),
        )


@contextlib.contextmanager
def recorded(record: RequestRecord | None) -> Iterator[None]:
    """Ends a record with its block, with the status of success, or of the error that the block raises."""
    try:
        yield
    except GalagoError as error:
        if record is not None:
            record.status = status(error)
        raise
    except Exception:
        if record is not None:
            record.status = _UNEXPECTED_ERROR
        raise
    finally:
        if record is not None:
            record.status = record.status or 200
            record.end()


class Recorder:
    """ASGI middleware. Makes the record of each request. `paths` are those of the routes."""

    def __init__(self, app: ASGIApp, on_end: Callable[[RequestRecord], None], paths: Collection[str]) -> None:
        self._app = app
        self._on_end = on_end
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        client = client_kind((scope.get("client") or ("",))[0])
        record = RequestRecord(scope.get("method", "GET"), self._shown_path(scope), client, on_end=self._on_end)
        scope[RECORD] = record

        async def send_and_note(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                record.status = message["status"]
            elif message["type"] == "websocket.accept":
                record.status = _SWITCHING_PROTOCOLS
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            record.path = self._shown_path(scope)
            record.status = record.status or _CLIENT_CLOSED_REQUEST
            record.end()

    def _shown_path(self, scope: Scope) -> str:
        """The path with the names of its parameters in place of their values."""
        path: str = scope["path"]
        for name, value in scope.get("path_params", {}).items():
            path = path.replace(f"/{value}", f"/{{{name}}}", 1)
        return path if path in self._paths else _OTHER_PATH
