"""Responses over a WebSocket: `GET /v1/responses`, upgraded.

A client sends `response.create` messages, which have the fields of `POST /v1/responses`, and gets the events of each
answer as text messages, one answer after the other. The connection remembers the conversation of the last
response that did not fail, so that `previous_response_id` continues it without a store, also after an error, and
references find its items. Closing the connection stops the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

from msgspec import Struct
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from .....models.errors import GalagoError, InvalidRequest, UnsupportedField
from ....types.warnings import Warnings
from ...accounts.record import RequestRecord, recorded
from ...http import errors, request_io
from ...http.request_context import BUSY, CURRENT, ENDING
from ...http.warning_log import log_new
from ...resource import ServerContext
from ..errors import error_response
from ..schema import ErrorBody
from . import convert
from .runs import Conversation, Run, Runs

MAX_WAITING = 4
"""Most messages that may wait while a request is answered."""

_NO_PREVIOUS = "previous_response_not_found"
_PREVIOUS_FIELD = "previous_response_id"
_SILENT = ("response.processed",)
"""Messages that need no answer."""


class ErrorEvent(Struct, tag="error"):
    """A request on the connection that is not answered; `status` is the one that an HTTP response would have."""

    status: int
    error: ErrorBody


class ResponsesSocket(WebSocketRoute):
    """The route of the connections."""

    def __init__(self, path: str, runs: Runs, context: ServerContext) -> None:
        super().__init__(path, self._serve)
        self._runs = runs
        self._context = context

    async def _serve(self, socket: WebSocket) -> None:
        await socket.accept()
        await _Connection(socket, self._runs, self._context).serve()


class _Connection:
    """One client: one task reads its messages, another answers them in order."""

    def __init__(self, socket: WebSocket, runs: Runs, context: ServerContext) -> None:
        self._socket = socket
        self._runs = runs
        self._context = context
        self._messages: asyncio.Queue[tuple[dict[str, Any], Warnings]] = asyncio.Queue(MAX_WAITING)
        self._closed = threading.Event()
        request = CURRENT.get()
        self._record = None if request is None else request.record
        self._last: Conversation | None = None
        """The conversation of the last response that did not fail."""

    async def serve(self) -> None:
        tasks = [asyncio.create_task(self._read_all()), asyncio.create_task(self._answer_all())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._closed.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_all(self) -> None:
        """Reads messages until the client leaves."""
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                try:
                    text = message.get("text")
                    body = bytearray(message.get("bytes") or b"" if text is None else text.encode())
                    raw, warnings = self._runs.decode(body)
                    create = _create_request(raw)
                    if create is not None:
                        self._messages.put_nowait((create, warnings))
                except asyncio.QueueFull:
                    problem = f"{MAX_WAITING} requests are waiting on this connection already; wait for an answer"
                    await self._send(_error_event(InvalidRequest(problem)))
                except GalagoError as error:
                    await self._send(_error_event(error))

    async def _answer_all(self) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while not self._socket.scope.get(ENDING):
                raw, warnings = await self._messages.get()
                self._socket.scope[BUSY] = True
                record = self._record and self._record.child()
                with recorded(record), self._context.budget.request(self._context.foreground, record):
                    await self._answer(raw, warnings, record)
                self._socket.scope[BUSY] = False

    async def _answer(self, raw: dict[str, Any], warnings: Warnings, record: RequestRecord | None) -> None:
        try:
            run = await self._prepared(raw, warnings)
        except GalagoError as error:
            if record is not None:
                record.status = errors.status(error)
            await self._send(_error_event(error))
            return
        log_new(run.warnings)
        try:
            async with contextlib.aclosing(run.chunks()) as chunks:
                async for chunk in chunks:
                    await self._send(chunk)
            if run.response.status in ("completed", "incomplete"):
                self._last = run.conversation()
        except GalagoError as error:
            for failure in run.encoder.fail(error):
                await self._send(failure)
        finally:
            self._runs.end(run)

    async def _prepared(self, raw: dict[str, Any], warnings: Warnings) -> Run:
        """The response in progress. If the client leaves before it has started, it is ended as soon as it starts."""
        working = asyncio.ensure_future(asyncio.to_thread(self._prepare, raw, warnings))
        request_io.count(working)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            working.add_done_callback(self._end)
            raise
        finally:
            del working  # its error's traceback has this frame: a cycle that would hold the request's files

    def _prepare(self, raw: dict[str, Any], warnings: Warnings) -> Run:
        fields = {name: value for name, value in raw.items() if name != "generate"}
        parsed = self._runs.parse(fields, warnings, self._last)
        return self._runs.prepare(parsed, self._closed.is_set, answers=raw.get("generate") is not False)

    def _end(self, done: asyncio.Future[Run]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._runs.end(done.result())

    async def _send(self, event: Struct) -> None:
        await self._socket.send_text(request_io.encode_json(event).decode())


def _create_request(raw: dict[str, Any]) -> dict[str, Any] | None:
    """The request in a message; `None` if it asks for nothing."""
    kind = raw.pop("type", None)
    if kind in _SILENT:
        return None
    if kind != "response.create":
        has = "no type" if kind is None else f"the type {kind!r:.60}"
        raise InvalidRequest(f"the message has {has}; only response.create is answered here", "type")
    if raw.get("background"):
        raise UnsupportedField("background is not supported over a WebSocket; leave it out", "background")
    if raw.get("stream_id") is not None:
        raise UnsupportedField("stream_id is not supported; open a connection for each conversation", "stream_id")
    return {name: value for name, value in raw.items() if name not in ("stream", "stream_options", "background")}


def _error_event(error: GalagoError) -> ErrorEvent:
    body = error_response(convert.with_api_field_name(error)).error
    if error.param == _PREVIOUS_FIELD:
        body.code = _NO_PREVIOUS
    return ErrorEvent(errors.status(error), body)
