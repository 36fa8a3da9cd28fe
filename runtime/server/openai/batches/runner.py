"""Answers the lines of batches, one batch after another, while no other requests are computed."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from .....models.errors import EngineCrashed, GalagoError, NotReady, RateLimited
from ....config import DEFAULT_SLOTS
from ....log import log
from ...accounts.record import recorded
from ...http.errors import ErrorResponses, code
from ...resource import RequestFunction, ServerContext
from ...storage.batch_store import BatchLine, BatchStore, new_request_id
from .schema import Batch, LineResponse, LineResult, Status

_MAX_ATTEMPTS = 3
_PAUSE_SECONDS = 10
"""Pause after an unexpected error."""
_POLL_SECONDS = 0.05
"""Interval of checks whether the model is ready and idle."""


class BatchRunner:
    """Sends as many lines at once as the service has slots, while no other requests are computed.

    A line that was in progress when the model's process crashed is retried alone at the end of its batch, so that the
    line that causes the crash is identified. A line that was in progress when the server was killed has no answer; the
    next server answers it.
    """

    def __init__(
        self,
        batches: BatchStore,
        endpoints: Mapping[str, RequestFunction],
        context: ServerContext,
        error_responses: ErrorResponses,
    ) -> None:
        self._batches = batches
        self._endpoints = endpoints
        self._budget = context.budget
        self._foreground = context.foreground
        self._service = context.service
        self._accounts = context.accounts
        self._shutdown = context.shutdown
        self._error_responses = error_responses
        self._new_batch = asyncio.Event()
        self._cancelled: set[str] = set()
        self._current: tuple[str, asyncio.Task[None]] | None = None

    def wake(self) -> None:
        """Called when a batch has been added."""
        self._new_batch.set()

    def cancel(self, batch_id: str) -> None:
        """Stops the work on a batch, which is already marked as cancelled in the store."""
        self._cancelled.add(batch_id)
        if self._current is not None and self._current[0] == batch_id:
            self._current[1].cancel()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            self._new_batch.clear()
            try:
                batch = await asyncio.to_thread(self._batches.next_open)
                if batch is None:
                    await self._new_batch.wait()
                else:
                    await self._run(batch)
            except Exception as error:  # for example a full disk, which may have space again later
                log(f"batches pause for {_PAUSE_SECONDS} s: {error}")
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _run(self, batch: Batch) -> None:
        work = asyncio.create_task(self._answer_lines(batch))
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
            self._shutdown.batch_lines.clear()
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error
        status: Status = "completed"
        if work.cancelled():
            status = "expired" if expired else "cancelled"
        await asyncio.to_thread(self._batches.end, batch, status)

    async def _answer_lines(self, batch: Batch) -> None:
        waiting = deque(await asyncio.to_thread(self._batches.unanswered, batch.id))
        crashed: deque[int] = deque()
        await self._wait_until_idle()
        slots = sum(stats.slots for _, stats in self._service.stats()) or DEFAULT_SLOTS
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(slots):
                    group.create_task(self._answer_waiting(batch, waiting, crashed))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the others are alike, such as that of a full disk
        attempts = 1
        while crashed:
            attempts += 1
            retried, crashed = crashed, deque()
            await self._answer_waiting(batch, retried, crashed if attempts < _MAX_ATTEMPTS else None)

    async def _answer_waiting(self, batch: Batch, waiting: deque[int], crashed: deque[int] | None) -> None:
        """Answers one line after another. Lines during which the model crashed are added to `crashed`, if given."""
        while waiting:
            await self._wait_until_idle()
            if not waiting:
                return
            number = waiting.popleft()
            line = await asyncio.to_thread(self._batches.line, batch.id, number)
            response, error_code = await self._answer(batch, line)
            if error_code == "engine_crashed" and crashed is not None:
                self._shutdown.batch_lines.discard((batch.id, number))
                crashed.append(number)
                continue
            answer = LineResponse(response.status_code, new_request_id(), msgspec.Raw(bytes(response.body)))
            result = LineResult(new_request_id(), line.custom_id, answer, None)
            await asyncio.to_thread(self._batches.answer, batch.id, line, result)
            self._shutdown.batch_lines.discard((batch.id, number))

    async def _answer(self, batch: Batch, line: BatchLine) -> tuple[Response, str | None]:
        """The endpoint's response, and the code of its error. Retries while the model is not ready.

        If the batch's key is over its limit, the line waits.
        """
        endpoint = self._endpoints[batch.endpoint]
        owner = await asyncio.to_thread(self._batches.owner, batch.id)
        while True:
            await self._wait_until_idle()
            self._shutdown.batch_lines.add((batch.id, line.number))
            try:
                record = self._accounts.batch_record(batch.endpoint, owner)
                with recorded(record), self._budget.request(record=record):
                    return await endpoint(_request(batch.endpoint, line.body)), None
            except RateLimited as limited:
                self._shutdown.batch_lines.discard((batch.id, line.number))
                await asyncio.sleep(limited.retry_after_seconds)
                continue
            except GalagoError as error:  # not kept: its traceback holds the line's files
                failure = self._failure(error, batch.endpoint)
            except Exception as unexpected:
                failure = self._failure(GalagoError(f"internal error: {type(unexpected).__name__}"), batch.endpoint)
            if failure is not None:
                return failure
            self._shutdown.batch_lines.discard((batch.id, line.number))
            await asyncio.sleep(_POLL_SECONDS)

    def _failure(self, error: GalagoError, path: str) -> tuple[Response, str] | None:
        """The response for an error, and its code; `None` if the line is to be tried again."""
        if isinstance(error, EngineCrashed) or (self._service.ready and not isinstance(error, NotReady)):
            return self._error_responses.response(error, path), code(error)
        return None

    async def _wait_until_idle(self) -> None:
        """Returns when the model is ready and no other requests are computed. Never returns during the shutdown."""
        while self._foreground or self._shutdown.has_begun or not self._service.ready:
            await asyncio.sleep(_POLL_SECONDS)


def _request(path: str, body: bytes) -> Request:
    """A request that did not arrive over HTTP and whose client never disconnects."""
    unread = [body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable: the future is never completed")

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    return Request(scope, receive)
