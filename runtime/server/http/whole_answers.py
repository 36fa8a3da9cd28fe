"""Collects the events of answers that are not streamed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from ....models.errors import EngineCrashed, EngineError, InvalidRequest
from ...types.events import Delta, Finished, OutputDelta, Started, TokenLogprob
from .events import Choices, encode

MAX_COLLECTED_LOGPROBS = 400_000
"""Most log-probabilities in an answer that is not streamed: all are in memory until its end, 150 bytes each."""


@dataclass(slots=True)
class CollectedAnswer:
    """A whole answer: its deltas in order, its start and its end."""

    end: Finished
    deltas: list[OutputDelta] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


class AnswerCollector:
    """An encoder that collects whole answers and yields no chunks."""

    def __init__(self) -> None:
        self._started: dict[int, Started] = {}
        self._deltas: dict[int, list[OutputDelta]] = {}
        self._ends: dict[int, Finished] = {}
        self._logprobs = 0

    def start(self, index: int, event: Started) -> Iterable[Struct]:
        self._started[index] = event
        return ()

    def delta(self, index: int, event: OutputDelta) -> Iterable[Struct]:
        if isinstance(event, Delta):
            self._logprobs += sum(1 + len(one.top_logprobs) for one in event.logprobs)
        if self._logprobs > MAX_COLLECTED_LOGPROBS:
            problem = f"the answer has more than {MAX_COLLECTED_LOGPROBS:,} log-probabilities"
            raise InvalidRequest(f"{problem}; stream it, or ask for fewer alternatives, tokens or answers", "logprobs")
        self._deltas.setdefault(index, []).append(event)
        return ()

    def finish(self, index: int, event: Finished) -> Iterable[Struct]:
        self._ends[index] = event
        return ()

    def cancel(self) -> Iterable[Struct]:
        raise EngineError("the answer was stopped before it was finished; send the request again")

    def answers(self) -> list[CollectedAnswer]:
        return [self._answer(index) for index in range(len(self._ends))]

    def _answer(self, index: int) -> CollectedAnswer:
        started = self._started.get(index, Started(0))
        return CollectedAnswer(
            self._ends[index], self._deltas.get(index, []), started.warnings, started.prompt_logprobs
        )


async def collect(choices: Sequence[Choices]) -> list[CollectedAnswer]:
    """Waits for all answers. Raises the error of the first that fails.

    If the model's process crashes, small requests are answered once more, as nothing was sent to the client.
    """
    try:
        return await _collect(choices)
    except EngineCrashed:
        again = [one.again() for one in choices]
        if not all(again):
            raise
    return await _collect([one for one in again if one is not None])


async def _collect(choices: Sequence[Choices]) -> list[CollectedAnswer]:
    collector = AnswerCollector()
    async with contextlib.aclosing(encode(choices, collector)) as chunks:
        async for _ in chunks:
            pass
    return collector.answers()
