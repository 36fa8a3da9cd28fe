"""What all endpoints do with a request and its client: read the body, work while the client waits, stream the answer.

Knows no resource.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeAlias, TypeVar

from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from ....models.errors import Cancelled, GalagoError, InvalidRequest
from ..openai import schema
from ..openai.convert import warning_headers
from . import errors

T = TypeVar("T")
Gone: TypeAlias = Callable[[], bool]
"""Whether the client has left."""


async def read_body(request: Request) -> bytes:
    coding = request.headers.get("content-encoding", "")
    if coding.strip().lower() not in ("", "identity"):
        raise InvalidRequest(
            f"bodies are not read in the encoding {coding!r}; send them as they are", "Content-Encoding"
        )
    try:
        return await request.body()
    except ClientDisconnect:
        raise Cancelled("the client went away while it sent the request") from None


async def on_thread(
    request: Request, work: Callable[[Callable[[], bool]], T], undo: Callable[[T], None] = lambda _result: None
) -> T:
    """Does `work` on a thread; it is told by its argument whether the client has left. Then `undo` ends what it made,
    and `Cancelled` is raised."""
    gone = threading.Event()
    working = asyncio.ensure_future(asyncio.to_thread(work, gone.is_set))
    try:
        return await unless_gone(request, asyncio.shield(working))
    except (asyncio.CancelledError, Cancelled):
        gone.set()
        working.add_done_callback(lambda done: _undo(done, undo))
        raise


def _undo(done: asyncio.Future[T], undo: Callable[[T], None]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Awaits `work`; cancels it and raises `Cancelled` when the client hangs up first."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the client went away")
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def answered(request: Request, work: Callable[[bytes, Gone], tuple[Struct, list[str]]]) -> Response:
    """The answer that `work` makes of the body, on a thread, with its warnings as a header."""
    body = await read_body(request)
    answer, warnings = await on_thread(request, partial(work, body))
    return whole(answer, warning_headers(warnings))


def whole(answer: Struct, headers: dict[str, str] | None = None) -> Response:
    return Response(schema.encode(answer), headers=headers, media_type="application/json")


def streamed(
    chunks: AsyncGenerator[Struct, None], close: Callable[[], None], headers: dict[str, str]
) -> StreamingResponse:
    """Sends chunks as events as they come, and closes their source at the end, or when the client leaves."""

    async def body() -> AsyncIterator[bytes]:
        try:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    yield b"data: " + schema.encode(chunk) + b"\n\n"
            yield b"data: [DONE]\n\n"
        except GalagoError as error:  # the status line is out already, so the error travels as an event
            yield b"data: " + schema.encode(errors.body(error)) + b"\n\n"
        finally:
            close()

    headers = {"cache-control": "no-cache"} | headers
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)
