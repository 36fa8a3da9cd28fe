"""A thread that encodes pictures and sounds, so that nobody's answer waits for them. Knows no context and no text."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ..types.prompt import MediaPayload

EncodeFunction = Callable[[list[MediaPayload]], None]
"""Encodes the first of some media, or several of them at once where it can."""


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """Media of one sequence, in order. `wanted` says whether anybody still waits; `done` hears of each result."""

    media: list[MediaPayload]
    wanted: Callable[[], bool]
    done: Callable[[Exception | None], None]


class MediaEncoder:
    """Works off jobs in order of arrival, until `close`."""

    def __init__(self, encode: EncodeFunction) -> None:
        self._encode = encode
        self._jobs: queue.SimpleQueue[EncodeJob | None] = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="galago-encoder", daemon=True)
        self._thread.start()

    def submit(self, job: EncodeJob) -> None:
        self._jobs.put(job)

    def close(self) -> None:
        """Waits for the encode in progress, which nothing can interrupt."""
        self._closing = True
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            while (left := [m for m in job.media if not m.ready]) and job.wanted() and not self._closing:
                try:
                    self._encode(left)
                except Exception as error:  # its sequence hears of it; the thread lives on
                    job.done(error)
                    break
                job.done(None)
