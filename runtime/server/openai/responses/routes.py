"""`POST /v1/responses`, and responses that were stored. I/O only; shapes and conversion stand beside it."""

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
from ....inference.stream import Stream
from ....service import Service
from ....types.events import Failed, Finished, Started
from ....types.options import bounds
from ....types.tasks import Estimate
from ...http import events as answers
from ...http import field_policy, pagination, request_io
from ...http.openapi import Endpoint, RouteDescription, Streamed
from ...storage.database import Storage
from ...storage.responses import ResponseStore
from ..convert import decode_object, renamed, typed, warning_headers
from ..message_parts import Files
from ..schema import encode
from . import convert, schema
from .events import ResponseEvents, new_id

_ERRORS = (InvalidRequest, NotFound, NotReady, EngineError, ConfigError)
_KEPT = (InvalidRequest, NotFound, ConfigError)
_MOST_ITEMS = 100
_ASKED = {"input": "How warm is it in Bern?"}

CREATE = RouteDescription(
    "Answer a chat, in items; with a store, keep it",
    {200: schema.Response},
    body=schema.ResponsesRequest,
    stream=Streamed(schema.StreamEvent),
    errors=_ERRORS,
    method="POST",
    bounds=bounds("responses"),
    examples={"text": _ASKED | {"max_output_tokens": 64}},
    known=convert.KNOWN,
)
COUNT = RouteDescription(
    "The tokens of a chat in items",
    {200: schema.TokenCount},
    body=schema.ResponsesRequest,
    errors=_ERRORS,
    method="POST",
    bounds=bounds("responses"),
    examples={"text": _ASKED},
    known=convert.KNOWN,
)
_STREAM = {"stream": {"enum": ["false"]}}
RETRIEVE = RouteDescription("A response that was stored", {200: schema.Response}, errors=_KEPT, query=_STREAM)
ITEMS = RouteDescription(
    "What a response was asked", {200: schema.ItemList}, errors=_KEPT, query=pagination.query(_MOST_ITEMS)
)
DELETE = RouteDescription("Delete a response", {200: schema.Deleted}, errors=_KEPT, method="DELETE")
CANCEL = RouteDescription("Stop answering", {200: schema.Response}, errors=_KEPT, method="POST")


class Responses:
    """Answers with one service, and keeps what was answered where a folder for it is named."""

    def __init__(self, service: Service, strict: bool, store: Storage | None, files: Files) -> None:
        self._service = service
        self._files = files
        self._strict = strict
        self._store = None if store is None else ResponseStore(store)
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
        """Waits at the end for what is answered in the background."""
        yield
        await asyncio.gather(*self._tasks)

    async def create(self, request: Request) -> Response:
        body = await request_io.read_body(request)
        run = await request_io.on_thread(request, partial(self._prepare, body), _Run.close)
        headers = warning_headers(run.warnings)
        if run.asked.stream:
            return answers.told(self._lines(run), headers, "text/event-stream")
        if run.asked.background:
            task = asyncio.create_task(self._drain(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            await request_io.unless_gone(request, self._drain(run))
            if run.error is not None:
                raise run.error
        return request_io.whole(run.response, headers)

    async def count(self, request: Request) -> Response:
        return await request_io.answered(request, self._count)

    def _count(self, body: bytes, gone: request_io.Gone) -> tuple[schema.TokenCount, list[str]]:
        _, asked, warnings = self._read(body)
        self._is_stored(asked)
        task = Estimate(convert.to_request(asked, self._history(asked.previous_response_id), self._files))
        return schema.TokenCount(self._service.answer(asked.model, task, gone).tokens), warnings

    def _read(self, body: bytes) -> tuple[dict[str, Any], schema.ResponsesRequest, list[str]]:
        raw = convert.normal(decode_object(body))
        asked = typed(raw, schema.ResponsesRequest, convert.ACCEPTED)
        return raw, asked, field_policy.check(raw, self._strict, schema.ResponsesRequest, convert.KNOWN)

    def _prepare(self, body: bytes, gone: request_io.Gone) -> _Run:
        raw, asked, warnings = self._read(body)
        stored = self._is_stored(asked)
        try:
            request = convert.to_request(asked, self._history(asked.previous_response_id), self._files)
            answer = self._service.generate(asked.model, request, gone)
        except InvalidRequest as error:
            raise _renamed(error) from None
        name = f"resp_{uuid.uuid4().hex}"
        response = convert.response(name, time.time(), self._service.model_id, raw, stored is not None)
        run = _Run(asked, warnings, answer, response, stored)
        if stored is not None:
            items = encode(convert.kept(raw["input"], new_id))
            stored.put(name, asked.previous_response_id, items, encode(response))
        return run

    def _is_stored(self, asked: schema.ResponsesRequest) -> ResponseStore | None:
        """Where this response is stored. As at OpenAI, all are that do not say otherwise, if there is a store."""
        for field in ("store", "background", "previous_response_id"):
            if getattr(asked, field) and self._store is None:
                raise InvalidRequest(
                    f"{field} needs a store, and this server keeps nothing: galago serve --store FOLDER makes one",
                    field,
                )
        if asked.background and asked.stream:
            raise InvalidRequest("background and stream exclude each other here", "background")
        if asked.background and asked.store is False:
            raise InvalidRequest("a response in the background must be stored, or nobody could read it", "store")
        return None if asked.store is False else self._store

    def _history(self, previous: str | None) -> list[schema.Item]:
        if previous is None or self._store is None:
            return []
        turns = [(msgspec.json.decode(a), msgspec.json.decode(b)["output"]) for a, b in self._store.before(previous)]
        return convert.items(list(chain.from_iterable(chain.from_iterable(turns))))

    async def _drain(self, run: _Run) -> None:
        async with contextlib.aclosing(self._events(run)) as events:  # type: ignore[type-var]
            async for _ in events:
                pass

    async def _lines(self, run: _Run) -> AsyncIterator[bytes]:
        number = 0
        async with contextlib.aclosing(self._events(run)) as events:  # type: ignore[type-var]
            async for event in events:
                event.sequence_number = number
                kind = str(event.__struct_config__.tag)
                yield b"event: " + kind.encode() + b"\ndata: " + encode(event) + b"\n\n"
                number += 1

    async def _events(self, run: _Run) -> AsyncIterator[schema.StreamEvent]:
        told = ResponseEvents(run.response)
        self._running[run.response.id] = run
        try:
            async with contextlib.aclosing(aiter(run.answer)) as events:  # type: ignore[type-var]
                async for event in events:
                    if run.response.status == "cancelled":
                        break  # what was on its way then does not change how it ended
                    for step in self._steps(run, told, event):
                        yield step
            if run.response.status == "in_progress":
                for step in told.cancel():
                    yield step
        finally:
            run.close()
            self._ended(run)

    @staticmethod
    def _steps(run: _Run, told: ResponseEvents, event: Any) -> Any:
        match event:
            case Started(warnings=warnings):
                run.response.warnings = [*run.warnings, *warnings] or msgspec.UNSET
                return told.begin()
            case Failed(error=error):
                run.error = _renamed(error)
                return told.fail(run.error)
            case Finished():
                return told.finish(event, time.time())
        return told.feed(event)

    def _ended(self, run: _Run) -> None:
        """Notes how it ended, by its client's leaving too."""
        response = run.response
        if response.status == "in_progress":
            response.status = "cancelled"
        if run.store is not None:
            run.store.update(response.id, response.status, encode(response))
        del self._running[response.id]

    async def retrieve(self, request: Request) -> Response:
        if request.query_params.get("stream") == "true":
            raise InvalidRequest("a stored response is not streamed again; leave stream out", "stream")
        found = await self._stored(request)
        return Response(found, media_type="application/json")

    async def items(self, request: Request) -> Response:
        query, name = request.query_params, request.path_params["id"]
        limit, newest_first = pagination.limit(query, _MOST_ITEMS), pagination.newest_first(query)
        given = None if self._store is None else await asyncio.to_thread(self._store.given, name)
        if given is None:
            raise _unknown(name)
        items = [pagination.ListEntry(item["id"], item) for item in msgspec.json.decode(given)]
        shown, more = pagination.cut(items[::-1] if newest_first else items, query.get("after"), limit)
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        return request_io.whole(schema.ItemList([entry.told for entry in shown], first, last, more))

    async def delete(self, request: Request) -> Response:
        name = request.path_params["id"]
        if name in self._running:
            self._running[name].close()
        if self._store is None or not await asyncio.to_thread(self._store.delete, name):
            raise _unknown(name)
        return request_io.whole(schema.Deleted(name))

    async def cancel(self, request: Request) -> Response:
        run = self._running.get(request.path_params["id"])
        if run is not None and run.store is not None:
            run.close()
            run.response.status = "cancelled"
            return request_io.whole(run.response)
        found = await self._stored(request)
        if msgspec.json.decode(found)["status"] != "cancelled":
            raise InvalidRequest("the response has ended already, so that it cannot be cancelled", "response_id")
        return Response(found, media_type="application/json")

    async def _stored(self, request: Request) -> bytes:
        name = request.path_params["id"]
        found = None if self._store is None else await asyncio.to_thread(self._store.get, name)
        if found is None:
            raise _unknown(name)
        return found


class _Run:
    """A request that is being answered. `error` is what has kept it from being."""

    def __init__(
        self,
        asked: schema.ResponsesRequest,
        warnings: list[str],
        answer: Stream,
        response: schema.Response,
        store: ResponseStore | None,
    ) -> None:
        self.asked = asked
        self.warnings = warnings
        self.answer = answer
        self.response = response
        self.store = store
        self.error: GalagoError | None = None

    def close(self) -> None:
        self.answer.close()


def _renamed(error: GalagoError) -> GalagoError:
    """An error about a schema or a limit, which this API knows by other names."""
    names = {"response_format": "text.format", "max_tokens": "max_output_tokens"}
    error = renamed(error)
    error.param = names.get(error.param or "", error.param)
    return error


def _unknown(name: str) -> NotFound:
    return NotFound(f"the response {name!r:.100} is not stored here", "response_id")
