"""`/v1/responses`: answers streamed, whole or in the background, and the responses that are stored."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from functools import partial
from itertools import chain
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from .....models.errors import ConfigError, EngineError, GalagoError, InvalidRequest, NotFound, NotReady
from ....types.options import bounds
from ....types.tasks import Estimate
from ....types.warnings import Warnings
from ...http import events, pagination, request_io
from ...http.openapi import Endpoint, RouteDescription, Streamed
from ...resource import Resource, ServerContext
from ...storage.database import STORE_OPTION
from ...storage.responses import ResponseStore
from . import convert, schema
from .events import ResponseEncoder, new_id
from .stream_schema import StreamEvent

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
_STREAM = {"stream": {"enum": ["false"]}}
RETRIEVE = RouteDescription("A stored response", {200: schema.Response}, errors=_STORE_ERRORS, query=_STREAM)
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
        self._store = None if context.database is None else ResponseStore(context.database)
        self._running: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def routes(self, prefix: str) -> list[Endpoint]:
        return [
            Endpoint(f"{prefix}/responses", self.create, CREATE),
            Endpoint(f"{prefix}/responses/input_tokens", self.count, COUNT),
            Endpoint(f"{prefix}/responses/{{id}}", self.retrieve, RETRIEVE),
            Endpoint(f"{prefix}/responses/{{id}}", self.delete, DELETE),
            Endpoint(f"{prefix}/responses/{{id}}/cancel", self.cancel, CANCEL),
            Endpoint(f"{prefix}/responses/{{id}}/input_items", self.items, ITEMS),
        ]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Waits at the end for the responses in the background."""
        yield
        await asyncio.gather(*self._tasks)

    async def create(self, request: Request) -> Response:
        body = await request_io.read_body(request)
        run = await request_io.run_on_thread(request, partial(self._prepare, body), self._end)
        headers = request_io.warning_headers(run.warnings)
        self._running[run.response.id] = run
        if run.request.stream:
            end = partial(self._end, run)
            return events.stream_response([run.choices], run.encoder, events.NAMED_SSE, headers, end)
        if run.request.background:
            task = asyncio.create_task(self._answer(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            await request_io.unless_disconnected(request, self._answer(run))
            if run.error is not None:
                raise run.error
        return request_io.json_response(run.response, headers)

    async def count(self, request: Request) -> Response:
        return await request_io.answer_on_thread(request, self._count)

    def _count(self, body: bytes, disconnected: request_io.Cancellation) -> tuple[schema.TokenCount, list[str]]:
        _, request, warnings = self._parse(body)
        self._store_for(request)
        history = self._history(request.previous_response_id)
        task = Estimate(convert.to_request(request, history, self.context.read_file, warnings), predict_seconds=False)
        return schema.TokenCount(self.service.run_task(request.model, task, disconnected).prompt_tokens), warnings

    def _parse(self, body: bytes) -> tuple[dict[str, Any], schema.ResponsesRequest, Warnings]:
        raw = convert.with_item_types(request_io.decode_object(body))
        warnings = request_io.no_warnings(self.strict)
        return raw, request_io.convert_object(raw, schema.ResponsesRequest, warnings), warnings

    def _prepare(self, body: bytes, disconnected: request_io.Cancellation) -> _Run:
        raw, request, warnings = self._parse(body)
        store = self._store_for(request)
        model = self.service.model(request.model).id
        generate = partial(self.service.generate, request.model)
        try:
            history = self._history(request.previous_response_id)
            runtime_request = convert.to_request(request, history, self.context.read_file, warnings)
            choices = events.Choices(generate, runtime_request, cancelled=disconnected)
        except InvalidRequest as error:
            convert.with_api_field_name(error)
            raise
        response_id = f"resp_{uuid.uuid4().hex}"
        response = convert.new_response(response_id, time.time(), model, raw, store is not None)
        if store is not None:
            items = request_io.encode_json(convert.stored_items(raw["input"], new_id))
            store.add(response_id, request.previous_response_id, items, request_io.encode_json(response))
        return _Run(request, warnings, choices, response, store)

    def _store_for(self, request: schema.ResponsesRequest) -> ResponseStore | None:
        """The store for this response. As at OpenAI, responses are stored by default, if the server has a store."""
        for field in ("store", "background", "previous_response_id"):
            if getattr(request, field) and self._store is None:
                raise InvalidRequest(f"{field}: this server stores no responses; start it with `{STORE_OPTION}`", field)
        if request.background and request.stream:
            raise InvalidRequest("background and stream exclude each other; give only one of them", "background")
        if request.background and request.store is False:
            raise InvalidRequest(
                "a background response must be stored, or it could not be retrieved; leave store out", "store"
            )
        return None if request.store is False else self._store

    def _history(self, previous_id: str | None) -> list[schema.Item]:
        """The items of the conversation up to and including a stored response."""
        if previous_id is None or self._store is None:
            return []
        turns = [
            (msgspec.json.decode(items), msgspec.json.decode(response)["output"])
            for items, response in self._store.conversation(previous_id)
        ]
        return convert.to_items(list(chain.from_iterable(chain.from_iterable(turns))))

    async def _answer(self, run: _Run) -> None:
        """Completes a response that is not streamed."""
        try:
            async with contextlib.aclosing(events.encode([run.choices], run.encoder)) as chunks:
                async for _ in chunks:
                    pass
        except GalagoError as error:
            run.error = None if run.response.status == "cancelled" else error
            for _ in run.encoder.fail(error):
                pass
        finally:
            self._end(run)

    def _end(self, run: _Run) -> None:
        """Stores how the response ended; if it has not, because the client left, it is cancelled."""
        run.choices.close()
        response = run.response
        if response.status == "in_progress":
            response.status = "cancelled"
        if run.store is not None:
            run.store.update(response.id, response.status, request_io.encode_json(response))
        self._running.pop(response.id, None)

    async def retrieve(self, request: Request) -> Response:
        if request.query_params.get("stream") == "true":
            raise InvalidRequest("a stored response cannot be streamed; leave stream out", "stream")
        response = await self._stored(request)
        return Response(response, media_type="application/json")

    async def items(self, request: Request) -> Response:
        query, response_id = request.query_params, request.path_params["id"]
        limit, newest_first = pagination.limit(query, _MAX_ITEMS), pagination.newest_first(query)
        stored = None if self._store is None else await asyncio.to_thread(self._store.input_items, response_id)
        if stored is None:
            raise _not_stored(response_id)
        entries = [pagination.ListEntry(item["id"], item) for item in msgspec.json.decode(stored)]
        page, more = pagination.page(entries[::-1] if newest_first else entries, query.get("after"), limit)
        first, last = (page[0].id, page[-1].id) if page else (None, None)
        return request_io.json_response(schema.ItemList([entry.item for entry in page], first, last, more))

    async def delete(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        if response_id in self._running:
            self._running[response_id].choices.close()
        if self._store is None or not await asyncio.to_thread(self._store.delete, response_id):
            raise _not_stored(response_id)
        return request_io.json_response(schema.Deleted(response_id))

    async def cancel(self, request: Request) -> Response:
        run = self._running.get(request.path_params["id"])
        if run is not None and run.store is not None:
            run.choices.close()
            run.response.status = "cancelled"
            return request_io.json_response(run.response)
        response = await self._stored(request)
        if msgspec.json.decode(response)["status"] != "cancelled":
            raise InvalidRequest("the response has already ended and cannot be cancelled", "response_id")
        return Response(response, media_type="application/json")

    async def _stored(self, request: Request) -> bytes:
        response_id = request.path_params["id"]
        response = None if self._store is None else await asyncio.to_thread(self._store.get, response_id)
        if response is None:
            raise _not_stored(response_id)
        return response


class _Run:
    """A response in progress. `error` is set if it has failed."""

    def __init__(
        self,
        request: schema.ResponsesRequest,
        warnings: list[str],
        choices: events.Choices,
        response: schema.Response,
        store: ResponseStore | None,
    ) -> None:
        self.request = request
        self.warnings = warnings
        self.choices = choices
        self.response = response
        self.store = store
        self.encoder = ResponseEncoder(response, warnings, time.time)
        self.error: GalagoError | None = None


def _not_stored(response_id: str) -> NotFound:
    return NotFound(f"this server has stored no response {response_id!r:.100}", "response_id")
