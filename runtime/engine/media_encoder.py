"""A thread that encodes images and audio, so that running answers do not wait for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ..types.prompt import MediaPayload

EncodeFunction = Callable[[list[MediaPayload]], None]
"""Encodes the first item of a list of media, and as many of the following ones as it can in one call."""


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """Media of one sequence, in order. `is_wanted` says whether it is still needed; `done` is called after each call of
    the encoder, with the error if there was one."""

    media: list[MediaPayload]
    is_wanted: Callable[[], bool]
    done: Callable[[BaseException | None], None]


class MediaEncoder:
    """Processes jobs in order of arrival, until `close`."""

    def __init__(self, encode: EncodeFunction) -> None:
        self._encode = encode
        self._jobs: queue.SimpleQueue[EncodeJob | None] = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="galago-encoder", daemon=True)
        self._thread.start()

    def submit(self, job: EncodeJob) -> None:
        self._jobs.put(job)

    def close(self) -> None:
        """Waits for the current encoder call, which cannot be interrupted."""
        self._closing = True
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._process(job)
            except BaseException as error:  # ends the job's sequence; the thread continues
                job.done(error)

    def _process(self, job: EncodeJob) -> None:
        while (missing := [m for m in job.media if not m.ready]) and job.is_wanted() and not self._closing:
            self._encode(missing)
            job.done(None)
