"""Several answers to one request, as one stream of numbered events. Knows no wire format.

The first answer is asked for at once, the others when it has begun: they then find its prompt computed, and the engine
copies that for each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from ....models.errors import GalagoError
from ...inference.stream import Stream
from ...types.events import Event, Failed, Finished, Started
from ...types.request import Request

GenerateFunction: TypeAlias = Callable[[Request, Callable[[], bool]], Stream]
NumberedEvent: TypeAlias = tuple[int, Event]

MOST = 32
"""Answers to one request."""


class Choices:
    """`count` answers by `generate`, the first of which is prepared at once; raises what is wrong with the request.

    With a seed, the answers have it and the numbers after it for their seeds.
    """

    def __init__(
        self,
        generate: GenerateFunction,
        request: Request,
        count: int = 1,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._generate = generate
        self._request = request
        self.count = count
        self._begin = time.perf_counter()
        self._closed = threading.Event()
        self._streams = [generate(request, cancelled)]

    async def events(self) -> AsyncGenerator[NumberedEvent, None]:
        """Until each answer has ended with a `Finished`, or one with `Failed`. Its end closes all of them."""
        if self.count == 1:
            async for event in self._streams[0]:
                yield 0, event
            return
        arrived: asyncio.Queue[NumberedEvent] = asyncio.Queue()
        readers = [asyncio.create_task(self._read(0, arrived))]
        left = self.count
        try:
            while left:
                index, event = await arrived.get()
                if len(readers) == 1 and not isinstance(event, Started | Failed):
                    readers += [asyncio.create_task(self._read(i, arrived)) for i in range(1, self.count)]
                left -= isinstance(event, Finished)
                yield index, event
                if isinstance(event, Failed):
                    return
        finally:
            self.close()
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    def close(self) -> None:
        """Ends the work on all answers. May be called from any thread, and twice."""
        self._closed.set()
        for stream in list(self._streams):
            stream.close()

    async def _read(self, index: int, arrived: asyncio.Queue[NumberedEvent]) -> None:
        late = time.perf_counter() - self._begin if index else 0.0
        try:
            stream = await asyncio.to_thread(self._another, index, late) if index else self._streams[0]
            async with contextlib.aclosing(aiter(stream)) as events:  # type: ignore[type-var]
                async for event in events:
                    arrived.put_nowait((index, _delayed(event, late)))
        except GalagoError as error:
            arrived.put_nowait((index, Failed(error)))

    def _another(self, index: int, late: float) -> Stream:
        """Asks for a further answer, so many seconds after the first one. `close` may come meanwhile."""
        asked = self._request
        seed = asked.sampling.seed
        if seed is not None:
            seed = (seed + index + 2**63) % 2**64 - 2**63
        timeout = None if asked.timeout is None else max(asked.timeout - late, 0.0)
        request = replace(asked, sampling=replace(asked.sampling, seed=seed), timeout=timeout)
        stream = self._generate(request, self._closed.is_set)
        self._streams.append(stream)
        if self._closed.is_set():
            stream.close()
        return stream


async def side_by_side(several: Sequence[Choices]) -> AsyncGenerator[NumberedEvent, None]:
    """The events of answers to several prompts, numbered on from one prompt to the next. Its end closes all of them."""
    if len(several) == 1:
        async with contextlib.aclosing(several[0].events()) as events:
            async for numbered in events:
                yield numbered
        return
    arrived: asyncio.Queue[NumberedEvent | None] = asyncio.Queue()

    async def read(choices: Choices, first: int) -> None:
        try:
            async with contextlib.aclosing(choices.events()) as events:
                async for index, event in events:
                    arrived.put_nowait((first + index, event))
        finally:
            arrived.put_nowait(None)

    numbers = itertools.accumulate((choices.count for choices in several), initial=0)
    readers = [asyncio.create_task(read(*pair)) for pair in zip(several, numbers, strict=False)]
    left = len(readers)
    try:
        while left:
            next_one = await arrived.get()
            left -= next_one is None
            if next_one is not None:
                yield next_one
    finally:
        for choices in several:
            choices.close()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


def _delayed(event: Event, late: float) -> Event:
    """The event, with the times counted from when the first answer was asked for."""
    if not late or not isinstance(event, Finished):
        return event
    times = event.timings
    return replace(event, timings=replace(times, **{name: getattr(times, name) + late for name in times.__slots__}))
