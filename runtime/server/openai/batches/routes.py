"""`/v1/batches`: create, list, retrieve and cancel. `runner` answers the requests."""

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
from ...http import pagination, request_io
from ...http.errors import ErrorResponses
from ...http.openapi import Endpoint, RouteDescription
from ...http.request_context import CURRENT
from ...resource import RequestFunction, Resource, ServerContext
from ...storage.batch_store import BatchStore
from ...storage.database import STORE_OPTION
from ...storage.file_store import FileStore
from .lines import check_lines, parse_lines
from .runner import BatchRunner
from .schema import Batch, BatchList, BatchRequest, LineError, LineErrors, RequestCounts

_WINDOW = re.compile(r"([1-9]\d{0,3})([mhd])")
_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86_400}
_MAX_METADATA = 16
_MAX_LISTED = 100

_ERRORS = (InvalidRequest, NotFound, ConfigError)

CREATE = RouteDescription(
    "Answer the requests in a file while the server is otherwise idle",
    {200: Batch},
    BatchRequest,
    errors=_ERRORS,
    method="POST",
)
LIST = RouteDescription(
    "The batches, newest first",
    {200: BatchList},
    errors=_ERRORS,
    query=pagination.query_schemas(_MAX_LISTED, ordered=False),
)
SHOW = RouteDescription("One batch and its progress", {200: Batch}, errors=_ERRORS)
CANCEL = RouteDescription("Cancel a batch", {200: Batch}, errors=_ERRORS, method="POST")


@dataclass(frozen=True, slots=True)
class _BatchServices:
    files: FileStore
    batches: BatchStore
    runner: BatchRunner


class Batches(Resource):
    """Batches are sent to the given endpoints. They need a server with a store."""

    def __init__(
        self, context: ServerContext, endpoints: Mapping[str, RequestFunction], error_responses: ErrorResponses
    ) -> None:
        super().__init__(context)
        self._endpoints = endpoints
        self._optional: _BatchServices | None = None
        if context.files is not None:
            batches = BatchStore(context.files)
            runner = BatchRunner(batches, endpoints, context, error_responses)
            self._optional = _BatchServices(context.files, batches, runner)

    def routes(self, prefix: str) -> list[Endpoint]:
        return [
            Endpoint(f"{prefix}/batches", self.create, CREATE),
            Endpoint(f"{prefix}/batches", self.list, LIST),
            Endpoint(f"{prefix}/batches/{{id}}", self.show, SHOW),
            Endpoint(f"{prefix}/batches/{{id}}/cancel", self.cancel, CANCEL),
        ]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = None if self._optional is None else asyncio.create_task(self._optional.runner.run())
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
            self._services().runner.wake()
        return request_io.json_response(batch)

    def _create(self, body: bytearray) -> Batch:
        services = self._services()
        request = request_io.parse_body(body, BatchRequest, self.strict)[0]
        if request.endpoint not in self._endpoints:
            endpoints = ", ".join(self._endpoints)
            raise InvalidRequest(f"endpoint is {request.endpoint!r:.100}; it must be one of {endpoints}", "endpoint")
        if len(request.metadata or {}) > _MAX_METADATA:
            raise InvalidRequest(f"metadata has more than {_MAX_METADATA} entries", "metadata")
        window_seconds = _window_seconds(request.completion_window)
        if (context := CURRENT.get()) is not None:
            size_bytes = services.files.get(request.input_file_id, "input_file_id").bytes
            self.context.budget.add(context, size_bytes)  # a single line may have almost all of them
        with services.files.open(request.input_file_id, "input_file_id") as file:
            services.files.check(request.input_file_id, "input_file_id", file)
            file.seek(0)
            count, errors = check_lines(file, request.endpoint)
            file.seek(0)
            batch = _new_batch(request, window_seconds, count, errors)
            lines = () if errors else parse_lines(file, request.endpoint)
            services.batches.add(batch, lines, request.output_expires_after, _owner())
        return batch

    async def list(self, request: Request) -> Response:
        limit, after = pagination.limit(request.query_params, _MAX_LISTED), request.query_params.get("after")
        batches, more = await asyncio.to_thread(self._services().batches.page, after, limit)
        ends = (batches[0].id, batches[-1].id) if batches else (None, None)
        return request_io.json_response(BatchList(batches, more, *ends))

    async def show(self, request: Request) -> Response:
        batch = await asyncio.to_thread(self._services().batches.get, request.path_params["id"])
        return request_io.json_response(batch)

    async def cancel(self, request: Request) -> Response:
        services = self._services()
        batch = await asyncio.to_thread(services.batches.cancel, request.path_params["id"])
        services.runner.cancel(batch.id)
        return request_io.json_response(batch)

    def _services(self) -> _BatchServices:
        if self._optional is None:
            raise InvalidRequest(f"this server stores no batches; start it with `{STORE_OPTION}`", "batch")
        return self._optional


def _owner() -> str | None:
    """The name of the current request's API key."""
    context = CURRENT.get()
    account = None if context is None or context.record is None else context.record.account
    return None if account is None else account.name


def _new_batch(request: BatchRequest, window_seconds: int, count: int, errors: list[LineError]) -> Batch:
    now = int(time.time())
    return Batch(
        id=f"batch_{uuid.uuid4().hex}",
        endpoint=request.endpoint,
        input_file_id=request.input_file_id,
        completion_window=request.completion_window,
        status="failed" if errors else "in_progress",
        created_at=now,
        expires_at=now + window_seconds,
        request_counts=RequestCounts(0 if errors else count),
        errors=LineErrors(errors) if errors else None,
        in_progress_at=None if errors else now,
        failed_at=now if errors else None,
        metadata=request.metadata,
    )


def _window_seconds(window: str) -> int:
    """The seconds in a completion window such as `24h`."""
    parts = _WINDOW.fullmatch(window)
    if parts is None:
        raise InvalidRequest(
            f"completion_window is {window!r:.100}; it must be a number of minutes, hours or days, such as 24h",
            "completion_window",
        )
    return int(parts[1]) * _UNIT_SECONDS[parts[2]]
