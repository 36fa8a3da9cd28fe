"""What every endpoint does alike: reads a body, prepares its work on a thread, and ends it when the client hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from ...models.errors import Cancelled, EngineError
from ..stream import Stream
from ..values import Delta, Failed, Finished, Said, Started, TokenLogprob
from . import wire

T = TypeVar("T")


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)
Gone: TypeAlias = Callable[[], bool]
"""Says whether the client has hung up."""


async def body_of(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect:
        raise Cancelled("the client went away while it sent the request") from None


async def prepared(request: Request, prepare: Callable[[Gone], C]) -> C:
    """What `prepare` makes on a thread, because that may take seconds; closed where the client has left meanwhile."""
    gone = threading.Event()
    work = asyncio.ensure_future(asyncio.to_thread(prepare, gone.is_set))
    try:
        return await unless_gone(request, asyncio.shield(work))
    except (asyncio.CancelledError, Cancelled):
        gone.set()
        work.add_done_callback(_close_result)
        raise


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


def _close_result(work: asyncio.Future[C]) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result().close()


@dataclass(frozen=True)
class Answer:
    """A whole answer, its pieces in the order they were said."""

    said: tuple[Said, ...]
    end: Finished
    warnings: tuple[str, ...]

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [token for piece in self.said if isinstance(piece, Delta) for token in piece.logprobs]


async def whole(stream: Stream) -> Answer:
    """Raises what ended the answer in place of its last token."""
    said: list[Said] = []
    warnings: tuple[str, ...] = ()
    async with contextlib.aclosing(aiter(stream)) as events:  # type: ignore[type-var]
        async for event in events:
            match event:
                case Started():
                    warnings = event.warnings
                case Failed(error=error):
                    raise error
                case Finished():
                    return Answer(tuple(said), event, warnings)
                case _:
                    said.append(event)
    raise EngineError("the answer ended without a reason")


def reply(answer: Struct | dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(wire.encode(answer), headers=headers, media_type="application/json")


def streamed(lines: AsyncIterator[bytes], headers: Mapping[str, str], media_type: str) -> StreamingResponse:
    return StreamingResponse(lines, media_type=media_type, headers={"cache-control": "no-cache"} | dict(headers))
