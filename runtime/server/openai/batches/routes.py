"""`/v1/batches`: made, listed, shown and cancelled. I/O only; the runner does the work."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from .....models.errors import ConfigError, InvalidRequest, NotFound
from ....service import Service
from ...http import pagination, request_io
from ...http.activity import Activity
from ...http.openapi import Endpoint, RouteDescription
from ...storage.batch_store import BatchStore
from ...storage.database import OPTION
from ...storage.file_store import FileStore
from ..convert import decode_object, typed
from .lines import read
from .runner import Answering, Runner
from .schema import Batch, BatchList, BatchRequest, Counts, Errors

_WINDOW = re.compile(r"([1-9]\d{0,3})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}
_MOST_METADATA = 16
_MOST_LISTED = 100

_ERRORS = (InvalidRequest, NotFound, ConfigError)

CREATE = RouteDescription(
    "Answer the requests of a file in idle time", {200: Batch}, BatchRequest, errors=_ERRORS, method="POST"
)
LIST = RouteDescription(
    "The batches, the newest first",
    {200: BatchList},
    errors=_ERRORS,
    query=pagination.query(_MOST_LISTED, ordered=False),
)
SHOW = RouteDescription("One batch and how far it is", {200: Batch}, errors=_ERRORS)
CANCEL = RouteDescription("End a batch", {200: Batch}, errors=_ERRORS, method="POST")


@dataclass(frozen=True, slots=True)
class _Kept:
    shelf: FileStore
    ledger: BatchStore
    runner: Runner


class Batches:
    """Keeps batches beside the files on a shelf, to be answered by `endpoints`; without one, says what makes it."""

    def __init__(
        self, endpoints: Mapping[str, Answering], service: Service, traffic: Activity, shelf: FileStore | None
    ) -> None:
        self._endpoints = endpoints
        self._all: _Kept | None = None
        if shelf is not None:
            ledger = BatchStore(shelf)
            self._all = _Kept(shelf, ledger, Runner(ledger, endpoints, traffic, service))

    def routes(self, prefix: str) -> list[Endpoint]:
        return [
            Endpoint(f"{prefix}/batches", self.create, CREATE),
            Endpoint(f"{prefix}/batches", self.list, LIST),
            Endpoint(f"{prefix}/batches/{{id}}", self.show, SHOW),
            Endpoint(f"{prefix}/batches/{{id}}/cancel", self.cancel, CANCEL),
        ]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Batches are worked off within."""
        task = None if self._all is None else asyncio.create_task(self._all.runner.run())
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def create(self, request: Request) -> Response:
        body = await request_io.read_body(request)
        batch = await asyncio.to_thread(self._create, body)
        if batch.status == "in_progress":
            self._kept().runner.look()
        return request_io.whole(batch)

    def _create(self, body: bytes) -> Batch:
        kept = self._kept()
        asked = typed(decode_object(body), BatchRequest, {})
        if asked.endpoint not in self._endpoints:
            known = ", ".join(self._endpoints)
            raise InvalidRequest(f"endpoint is {asked.endpoint!r:.100}, and must be one of {known}", "endpoint")
        if len(asked.metadata or {}) > _MOST_METADATA:
            raise InvalidRequest(f"metadata holds more than {_MOST_METADATA} entries", "metadata")
        seconds = _window(asked.completion_window)
        lines, errors = read(kept.shelf.read(asked.input_file_id, "input_file_id"), asked.endpoint)
        now = int(time.time())
        batch = Batch(
            id=f"batch_{uuid.uuid4().hex}",
            endpoint=asked.endpoint,
            input_file_id=asked.input_file_id,
            completion_window=asked.completion_window,
            status="failed" if errors else "in_progress",
            created_at=now,
            expires_at=now + seconds,
            request_counts=Counts(0 if errors else len(lines)),
            errors=Errors(errors) if errors else None,
            in_progress_at=None if errors else now,
            failed_at=now if errors else None,
            metadata=asked.metadata,
        )
        kept.ledger.add(batch, () if errors else lines, asked.output_expires_after)
        return batch

    async def list(self, request: Request) -> Response:
        limit, after = pagination.limit(request.query_params, _MOST_LISTED), request.query_params.get("after")
        batches, more = await asyncio.to_thread(self._kept().ledger.page, after, limit)
        ends = (batches[0].id, batches[-1].id) if batches else (None, None)
        return request_io.whole(BatchList(batches, more, *ends))

    async def show(self, request: Request) -> Response:
        return request_io.whole(await asyncio.to_thread(self._kept().ledger.get, request.path_params["id"]))

    async def cancel(self, request: Request) -> Response:
        kept = self._kept()
        batch = await asyncio.to_thread(kept.ledger.cancel, request.path_params["id"])
        kept.runner.cancel(batch.id)
        return request_io.whole(batch)

    def _kept(self) -> _Kept:
        if self._all is None:
            raise InvalidRequest(f"this server keeps no batches; {OPTION} makes it", "batch")
        return self._all


def _window(window: str) -> int:
    """Seconds in such as 24h."""
    found = _WINDOW.fullmatch(window)
    if found is None:
        message = f"completion_window is {window!r:.100}, and must be a number of minutes, hours or days, such as 24h"
        raise InvalidRequest(message, "completion_window")
    return int(found[1]) * _SECONDS[found[2]]
