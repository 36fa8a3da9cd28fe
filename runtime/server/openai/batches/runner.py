"""Answers the lines of batches, one batch after another, while nobody else asks. Knows no tables and no wire format."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from .....models.errors import EngineCrashed, GalagoError, NotReady
from ....service import Service
from ...http import errors
from ...http.activity import Activity
from ...storage.batch_store import BatchLine, BatchStore, request_id
from .schema import Batch, LineResponse, LineResult, Status

Answering: TypeAlias = Callable[[Request], Awaitable[Response]]

_TRIES = 3
_REST = 10
_POLL = 0.2  # seconds between two looks whether the model is there again


class Runner:
    """As many lines are under way together as the service has slots.

    A line that was under way when the model's process died is asked again at the batch's end, alone, so that it is
    known which line does that; a line whose server died has no answer, and the next server asks it.
    """

    def __init__(
        self,
        ledger: BatchStore,
        endpoints: Mapping[str, Answering],
        traffic: Activity,
        service: Service,
    ) -> None:
        self._ledger = ledger
        self._endpoints = endpoints
        self._traffic = traffic
        self._service = service
        self._more = asyncio.Event()
        self._cancelled: set[str] = set()
        self._current: tuple[str, asyncio.Task[None]] | None = None

    def look(self) -> None:
        """Says that there is a new batch."""
        self._more.set()

    def cancel(self, name: str) -> None:
        """Stops the work on a batch, where it is under way; the ledger knows that it is to end."""
        self._cancelled.add(name)
        if self._current is not None and self._current[0] == name:
            self._current[1].cancel()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._more.clear()
            try:
                batch = await asyncio.to_thread(self._ledger.next)
                if batch is None:
                    await self._more.wait()
                else:
                    await self._run(batch)
            except Exception as error:  # the disk may be full now, and not later
                print(f"galago: batches rest for {_REST} s: {error}", file=sys.stderr, flush=True)
                await asyncio.sleep(_REST)

    async def _run(self, batch: Batch) -> None:
        work = asyncio.create_task(self._work_off(batch))
        self._current = (batch.id, work)
        try:
            if batch.status == "cancelling" or batch.id in self._cancelled:
                work.cancel()
            await asyncio.wait({work}, timeout=max(batch.expires_at - time.time(), 0))
        finally:
            self._current = None
            expired = not work.done()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error
        status: Status = "completed"
        if work.cancelled():
            status = "expired" if expired else "cancelled"
        await asyncio.to_thread(self._ledger.end, batch, status)

    async def _work_off(self, batch: Batch) -> None:
        waiting = deque(await asyncio.to_thread(self._ledger.unanswered, batch.id))
        crashed: deque[int] = deque()
        await self._quiet()
        slots = self._service.stats()[0][1].slots
        async with asyncio.TaskGroup() as group:
            for _ in range(max(slots, 1)):
                group.create_task(self._take(batch, waiting, crashed))
        tries = 1
        while crashed:
            tries += 1
            again, crashed = crashed, deque()
            await self._take(batch, again, crashed if tries < _TRIES else None)

    async def _take(self, batch: Batch, waiting: deque[int], crashed: deque[int] | None) -> None:
        """Answers one line after another; those under which the model's process died go to `crashed`, if given."""
        while waiting:
            await self._quiet()
            if not waiting:
                return
            number = waiting.popleft()
            line = await asyncio.to_thread(self._ledger.line, batch.id, number)
            response, code = await self._ask(batch, line)
            if code == "engine_crashed" and crashed is not None:
                crashed.append(number)
                continue
            answer = LineResponse(response.status_code, request_id(), msgspec.Raw(bytes(response.body)))
            result = LineResult(request_id(), line.custom_id, answer, None)
            await asyncio.to_thread(self._ledger.answer, batch.id, line, result)

    async def _ask(self, batch: Batch, line: BatchLine) -> tuple[Response, str | None]:
        """The endpoint's response, and its error's code. Asks again where there was no model to answer."""
        endpoint = self._endpoints[batch.endpoint]
        while True:
            await self._quiet()
            try:
                return await endpoint(_request(batch.endpoint, line.body)), None
            except Exception as error:
                ours = error if isinstance(error, GalagoError) else GalagoError(f"unforeseen: {type(error).__name__}")
            if isinstance(ours, EngineCrashed) or (self._service.ready and not isinstance(ours, NotReady)):
                return errors.response(ours), errors.body(ours).error.code
            await asyncio.sleep(_POLL)

    async def _quiet(self) -> None:
        """Returns when the model can be asked and nobody else asks it."""
        while not self._service.ready:
            await asyncio.sleep(_POLL)
        await self._traffic.quiet()


def _request(path: str, body: bytes) -> Request:
    """A request that did not come over HTTP, from a client that never leaves."""
    left = [body]

    async def receive() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        await asyncio.get_running_loop().create_future()
        raise AssertionError("a future that nobody knows has ended")

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    return Request(scope, receive)
