"""The engine: one thread that owns a backend and answers all requests, step by step."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from ...models.errors import EngineError, GalagoError, NotReady
from ..values import (
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    MediaSpan,
    Prompt,
    Row,
    Sink,
    Started,
    Timings,
    Usage,
)
from .scheduler import MediaStep, Scheduler
from .sequence import Sequence
from .text import AnswerText


class Backend(Protocol):
    """What the engine needs of a model."""

    def use_adapters(self, scales: tuple[float, ...]) -> None: ...
    def decode(self, rows: list[Row]) -> None: ...
    def decode_media(self, media: MediaSpan, position: int, sequence: int) -> None: ...
    def choose(self, row: int, sampler: Any) -> int: ...
    def forget(self, sequence: int) -> None: ...
    def piece(self, token: int) -> bytes: ...
    def close(self) -> None: ...


class Engine:
    """`submit` from any thread; events reach the request's sink on the engine's, a `Finished` or `Failed` last.

    `slots` requests run at once, `queue` more may wait, and all share `cells` tokens of context.
    """

    def __init__(self, backend: Backend, slots: int, cells: int, batch: int, queue_length: int = 64) -> None:
        self._backend = backend
        self._scheduler = Scheduler(slots, cells, batch)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._admitted = threading.Semaphore(slots + queue_length)
        self._gate = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="galago-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt: Prompt,
        *,
        sampler: Any,
        max_tokens: int,
        ends_at: frozenset[int],
        stop: tuple[str, ...],
        sink: Sink,
        arrived: float,
        adapters: tuple[float, ...] = (),
    ) -> Callable[[], None]:
        """Queues a prompt and returns the function that cancels it: within one step, without a further event.

        `arrived` is the request's arrival on `time.perf_counter`'s clock. Raises `NotReady` when the queue is full.
        """
        if not self._admitted.acquire(blocking=False):
            raise NotReady("too many requests are waiting already; try again in a moment")
        sequence = Sequence(
            prompt=prompt,
            sampler=sampler,
            max_tokens=max_tokens,
            ends_at=ends_at,
            text=AnswerText(stop),
            sink=sink,
            arrived=arrived,
            adapters=adapters,
            prepared=time.perf_counter(),
        )
        self._command(lambda: self._start(sequence))
        return lambda: self._commands.put(lambda: self._end(sequence, None))

    def close(self) -> None:
        """Fails what is still running, stops the thread and closes the backend."""
        with self._gate:
            self._closing = True
            self._commands.put(lambda: None)
        self._thread.join()

    def _command(self, command: Callable[[], None]) -> None:
        """Hands a command over unless the engine is closing, so that none is left unread."""
        with self._gate:
            if self._closing:
                self._admitted.release()
                raise EngineError("the model is closed")
            self._commands.put(command)

    def _run(self) -> None:
        while not self._closing:
            if self._scheduler.idle:
                self._commands.get()()
            self._take_commands()
            try:
                self.step()
            except Exception as error:  # whatever it was, every caller hears of it and the thread lives on
                self._fail_all(error)
        self._take_commands()
        self._fail_all(EngineError("the model was closed"))
        self._backend.close()

    def _take_commands(self) -> None:
        while not self._commands.empty():
            self._commands.get()()

    def step(self) -> None:
        """Admits, plans, computes, and hands out what came of it."""
        self._scheduler.admit()
        for slot in self._scheduler.make_room():
            self._backend.forget(slot)
        step = self._scheduler.plan()
        if step is None:
            return
        self._backend.use_adapters(step.adapters)
        if isinstance(step, MediaStep):
            assert step.sequence.slot is not None
            self._backend.decode_media(step.media, step.position, step.sequence.slot)
            return
        self._backend.decode(step.rows)
        for row, sequence in step.answers:
            try:
                self._advance(sequence, self._backend.choose(row, sequence.sampler))
            except GalagoError as error:
                self._end(sequence, Failed(error))

    def _advance(self, sequence: Sequence, token: int) -> None:
        if sequence.first_token is None:
            sequence.first_token = time.perf_counter()
        sequence.answered(token)
        ended = token in sequence.ends_at
        text = "" if ended else sequence.text.feed(self._backend.piece(token))
        reason: FinishReason | None = None
        if ended or sequence.text.stopped:
            reason = "stop"
        elif len(sequence.answer) >= sequence.max_tokens:
            reason = "length"
        if reason is not None:
            text += sequence.text.finish()
        if text:
            sequence.sink(Delta(text))
        if reason is not None:
            self._end(sequence, self._finished(sequence, "stop" if sequence.text.stopped else reason))

    def _finished(self, sequence: Sequence, reason: FinishReason) -> Finished:
        prompt, arrived = sequence.prompt, sequence.arrived
        assert sequence.first_token is not None
        usage = Usage(
            prompt_tokens=prompt.cells,
            completion_tokens=len(sequence.answer),
            image_tokens=prompt.media_cells("image"),
            audio_tokens=prompt.media_cells("audio"),
        )
        timings = Timings(
            prepared=sequence.prepared - arrived,
            first_token=sequence.first_token - arrived,
            total=time.perf_counter() - arrived,
        )
        return Finished(reason, usage, timings)

    def _start(self, sequence: Sequence) -> None:
        self._scheduler.add(sequence)
        sequence.sink(Started(sequence.prompt.cells, sequence.prompt.warnings))

    def _end(self, sequence: Sequence, event: Event | None) -> None:
        if sequence not in self._scheduler.sequences:
            return
        slot = self._scheduler.remove(sequence)
        if slot is not None:
            self._backend.forget(slot)
        self._admitted.release()
        if event is not None:
            sequence.sink(event)

    def _fail_all(self, error: Exception) -> None:
        failure = error if isinstance(error, GalagoError) else EngineError(f"the engine failed: {error!r}")
        for sequence in self._scheduler.sequences:
            self._end(sequence, Failed(failure))
