"""Answers of one choice, as the dialects beside OpenAI's chats tell them: whole, or in lines of their own making."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from starlette.responses import StreamingResponse

from ....models.errors import EngineError
from ...inference.stream import Stream
from ...types.events import Failed, Finished, OutputDelta, Started


@dataclass(frozen=True)
class WholeAnswer:
    """A whole answer, its pieces in the order they were said."""

    said: tuple[OutputDelta, ...]
    end: Finished
    warnings: tuple[str, ...]


async def collected(stream: Stream) -> WholeAnswer:
    """Raises what ended the answer in place of its last token."""
    said: list[OutputDelta] = []
    warnings: tuple[str, ...] = ()
    async with contextlib.aclosing(aiter(stream)) as events:  # type: ignore[type-var]
        async for event in events:
            match event:
                case Started():
                    warnings = event.warnings
                case Failed(error=error):
                    raise error
                case Finished():
                    return WholeAnswer(tuple(said), event, warnings)
                case _:
                    said.append(event)
    raise EngineError("the answer ended without a reason")


def told(lines: AsyncIterator[bytes], headers: Mapping[str, str], media_type: str) -> StreamingResponse:
    return StreamingResponse(lines, media_type=media_type, headers={"cache-control": "no-cache"} | dict(headers))
