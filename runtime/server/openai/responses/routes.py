"""`/v1/responses`: answers streamed, whole or in the background, and the responses that are stored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from .....models.errors import ConfigError, EngineError, InvalidRequest, NotFound, NotReady
from ....types.options import bounds
from ....types.request import check_number
from ....types.tasks import Estimate
from ...http import events, pagination, request_io
from ...http.openapi import Endpoint, RouteDescription, Streamed
from ...http.request_context import keep
from ...resource import Resource, ServerContext
from . import replay, schema
from .runs import Run, Runs
from .stream_schema import StreamEvent
from .websocket import ResponsesSocket

_ERRORS = (InvalidRequest, NotFound, NotReady, EngineError, ConfigError)
_STORE_ERRORS = (InvalidRequest, NotFound, ConfigError)
_MAX_ITEMS = 100
_EXAMPLE = {"input": "How warm is it in Bern?"}

CREATE = RouteDescription(
    "Answer a chat in items, and store the response if the server has a store",
    {200: schema.Response},
    body=schema.ResponsesRequest,
    stream=Streamed(StreamEvent),
    errors=_ERRORS,
    method="POST",
    bounds=bounds("responses"),
    examples={"text": _EXAMPLE | {"max_output_tokens": 64}},
)
COUNT = RouteDescription(
    "Count the tokens of a chat in items",
    {200: schema.TokenCount},
    body=schema.ResponsesRequest,
    errors=_ERRORS,
    method="POST",
    bounds=bounds("responses"),
    examples={"text": _EXAMPLE},
)
COMPACT = RouteDescription(
    "Compact a conversation: one short item replaces all but the system's, developer's and user's messages",
    {200: schema.CompactedResponse},
    body=schema.CompactRequest,
    errors=_ERRORS,
    method="POST",
    examples={"text": _EXAMPLE | {"model": "builtin"}},
)
RETRIEVE = RouteDescription(
    "A stored response; a stream of it waits until it has ended, and has each text in one delta",
    {200: schema.Response},
    stream=Streamed(StreamEvent),
    errors=_STORE_ERRORS,
    query={"stream": {"type": "boolean"}, "starting_after": {"type": "integer", "minimum": 0}},
)
ITEMS = RouteDescription(
    "The input items of a stored response",
    {200: schema.ItemList},
    errors=_STORE_ERRORS,
    query=pagination.query_schemas(_MAX_ITEMS),
)
DELETE = RouteDescription("Delete a stored response", {200: schema.Deleted}, errors=_STORE_ERRORS, method="DELETE")
CANCEL = RouteDescription("Cancel a response", {200: schema.Response}, errors=_STORE_ERRORS, method="POST")


class Responses(Resource):
    """Responses are stored if the server has a store."""

    def __init__(self, context: ServerContext) -> None:
        super().__init__(context)
        self._runs = Runs(context)
        self._tasks: set[asyncio.Task[None]] = set()

    def routes(self, prefix: str) -> list[Endpoint]:
        return [
            Endpoint(f"{prefix}/responses", self.create, CREATE),
            Endpoint(f"{prefix}/responses/input_tokens", self.count, COUNT),
            Endpoint(f"{prefix}/responses/compact", self.compact, COMPACT),
            Endpoint(f"{prefix}/responses/{{id}}", self.retrieve, RETRIEVE),
            Endpoint(f"{prefix}/responses/{{id}}", self.delete, DELETE),
            Endpoint(f"{prefix}/responses/{{id}}/cancel", self.cancel, CANCEL),
            Endpoint(f"{prefix}/responses/{{id}}/input_items", self.items, ITEMS),
        ]

    def sockets(self, prefix: str) -> list[WebSocketRoute]:
        return [ResponsesSocket(f"{prefix}/responses", self._runs, self.context)]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Waits at the end for the responses in the background."""
        yield
        await asyncio.gather(*self._tasks)

    async def create(self, request: Request) -> Response:
        body = await request_io.read_body(request)
        run = await request_io.run_on_thread(request, partial(self._prepare, body), self._runs.end)
        if run.request.stream:
            end, headers = partial(self._runs.end, run), request_io.warning_headers(run.warnings)
            chunks, progress = run.chunks(), run.progress
            return events.ChunkResponse(chunks, run.encoder.fail, events.NAMED_SSE, headers, end, progress)
        if run.request.background:
            task = asyncio.create_task(self._runs.answer(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            await request_io.unless_disconnected(request, self._runs.answer(run))
            if run.error is not None:
                raise run.error
        return request_io.answer_response(run.response, run.warnings)

    def _prepare(self, body: bytearray, disconnected: request_io.Cancellation) -> Run:
        keep()  # the items of the response
        return self._runs.prepare(self._runs.parse(*self._runs.decode(body)), disconnected)

    async def count(self, request: Request) -> Response:
        return await request_io.answer_on_thread(request, self._count)

    def _count(self, body: bytearray, disconnected: request_io.Cancellation) -> tuple[schema.TokenCount, list[str]]:
        parsed = self._runs.parse(*self._runs.decode(body))
        self._runs.store_for(parsed)
        task = Estimate(self._runs.runtime_request(parsed), predict_seconds=False)
        model = self.service.model_for(parsed.request.model, parsed.warnings)
        estimate = self.service.run_task(model, task, disconnected)
        parsed.warnings += estimate.warnings
        return schema.TokenCount(estimate.prompt_tokens, parsed.warnings or UNSET), parsed.warnings

    async def compact(self, request: Request) -> Response:
        return await request_io.answer_on_thread(request, self._compact)

    def _compact(
        self, body: bytearray, disconnected: request_io.Cancellation
    ) -> tuple[schema.CompactedResponse, list[str]]:
        return self._runs.compact(*self._runs.decode(body))

    async def retrieve(self, request: Request) -> Response:
        run = self._runs.running.get(request.path_params["id"])
        response = await self._stored(request)
        if request.query_params.get("stream") != "true":
            return Response(response, media_type="application/json")
        stream = self._replayed(msgspec.json.decode(response, type=schema.Response), run, _starting_after(request))
        return events.ChunkResponse(stream, lambda _error: (), events.NAMED_SSE, {})

    async def _replayed(
        self, response: schema.Response, run: Run | None, last_number: int
    ) -> AsyncGenerator[StreamEvent, None]:
        """The events with higher numbers than the last one that the client has. Waits for a response in progress."""
        for event in replay.first_events(response):
            if event.sequence_number > last_number:
                yield event
        if run is not None:
            await asyncio.shield(asyncio.wrap_future(run.ended))
            response = run.response
        for event in replay.other_events(response):
            if event.sequence_number > last_number:
                yield event

    async def items(self, request: Request) -> Response:
        query, response_id = request.query_params, request.path_params["id"]
        limit, newest_first = pagination.limit(query, _MAX_ITEMS), pagination.newest_first(query)
        stored = (
            None if self._runs.store is None else await asyncio.to_thread(self._runs.store.input_items, response_id)
        )
        if stored is None:
            raise _not_stored(response_id)
        entries = [pagination.ListEntry(item["id"], item) for item in msgspec.json.decode(stored)]
        page, more = pagination.page(entries[::-1] if newest_first else entries, query.get("after"), limit)
        first, last = (page[0].id, page[-1].id) if page else (None, None)
        return request_io.json_response(schema.ItemList([entry.item for entry in page], first, last, more))

    async def delete(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        if response_id in self._runs.running:
            self._runs.running[response_id].close()
        if self._runs.store is None or not await asyncio.to_thread(self._runs.store.delete, response_id):
            raise _not_stored(response_id)
        return request_io.json_response(schema.Deleted(response_id))

    async def cancel(self, request: Request) -> Response:
        run = self._runs.running.get(request.path_params["id"])
        if run is not None and run.store is not None:
            run.close()
            run.response.status = "cancelled"
            return request_io.json_response(run.response)
        response = await self._stored(request)
        if msgspec.json.decode(response)["status"] != "cancelled":
            raise InvalidRequest("the response has already ended and cannot be cancelled", "response_id")
        return Response(response, media_type="application/json")

    async def _stored(self, request: Request) -> bytes:
        response_id = request.path_params["id"]
        response = None if self._runs.store is None else await asyncio.to_thread(self._runs.store.get, response_id)
        if response is None:
            raise _not_stored(response_id)
        return response


def _starting_after(request: Request) -> int:
    """The number of the last event that the client has; -1 if it wants all."""
    text = request.query_params.get("starting_after", "")
    number = int(text) if text.isdecimal() and len(text) < 10 else text
    check_number("starting_after", number or None, 0, 10**9, whole=True)
    return number if isinstance(number, int) else -1


def _not_stored(response_id: str) -> NotFound:
    return NotFound(f"this server has stored no response {response_id!r:.100}", "response_id")
