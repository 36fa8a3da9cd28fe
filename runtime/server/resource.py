"""The base class of groups of endpoints, and the objects that they share.

A new endpoint is a package with a `Resource` that lists its routes, and one line in `app.build`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from ...models.errors import InvalidRequest, RequestTooLarge
from ..config import ServerConfig
from ..service import Service
from .accounts.accounts import Accounts
from .http.openapi import Endpoint
from .http.request_context import CURRENT, MemoryBudget
from .storage.database import STORE_OPTION, Database
from .storage.file_store import FileStore

RequestFunction: TypeAlias = Callable[[Request], Awaitable[Response]]


@dataclass
class ShutdownState:
    """Whether the server is about to end, and the lines of batches that it finishes before."""

    has_begun: bool = False
    batch_lines: set[tuple[str, int]] = field(default_factory=set)


@dataclass(frozen=True)
class ServerContext:
    """Objects shared by the endpoints of an application. `database` and `files` exist if the user has named a folder.

    `foreground` collects the requests being computed, other than those of batches.
    """

    service: Service
    config: ServerConfig
    database: Database | None = None
    files: FileStore | None = None
    budget: MemoryBudget = field(default_factory=MemoryBudget)
    foreground: set[object] = field(default_factory=set)
    shutdown: ShutdownState = field(default_factory=ShutdownState)
    accounts: Accounts = field(default_factory=lambda: Accounts(ServerConfig()))

    def file_store(self, field: str) -> FileStore:
        """Raises `InvalidRequest`, which names the request's field, if the server stores no files."""
        if self.files is None:
            raise InvalidRequest(f"{field}: this server stores no files; start it with `{STORE_OPTION}`", field)
        return self.files

    def read_file(self, file_id: str, field: str) -> bytes:
        """The bytes of an uploaded file that the current request refers to in a field.

        Raises `RequestTooLarge` if the files that the request refers to are too large together, and `NotFound` if the
        file is damaged.
        """
        context, store = CURRENT.get(), self.file_store(field)
        if context is None:
            raise RuntimeError("a file is read outside of a request")
        try:
            check = partial(store.check, file_id, field)
            return self.budget.read_file(context, file_id, lambda: store.open(file_id, field), check)
        except RequestTooLarge as error:
            error.param = field
            raise


class Resource:
    """A group of endpoints. Subclasses override what they need."""

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self.service = context.service
        self.strict = context.config.strict

    def routes(self, prefix: str) -> list[Endpoint]:
        """The endpoints with their descriptions. `prefix` is `/v1` or empty; other APIs have paths of their own."""
        raise NotImplementedError

    def sockets(self, prefix: str) -> list[WebSocketRoute]:
        """The routes that answer WebSocket connections."""
        return []

    def batch_endpoints(self) -> Mapping[str, RequestFunction]:
        """The endpoints that a batch may send requests to, by path, which answer at background priority."""
        return {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs background work while the application runs."""
        yield
