"""Batches the texts of several callers into common steps. Knows no model, only how many tokens a step may have."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ...models.errors import Cancelled

TokenSequence: TypeAlias = Sequence[int]
ComputeStep: TypeAlias = Callable[[list[TokenSequence]], Iterable[Any]]
"""Computes a result for each of several texts at once."""


@dataclass(eq=False, slots=True)
class EmbedJob:
    """A caller's texts. `pending` are the indices of those not computed yet, `results` has the others by index."""

    texts: Sequence[TokenSequence]
    pending: deque[int] = field(init=False)
    results: dict[int, Any] = field(default_factory=dict)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.pending = deque(range(len(self.texts)))

    @property
    def done(self) -> bool:
        return self.error is not None or len(self.results) == len(self.texts)


class EmbedBatcher:
    """A step has at most `max_tokens` tokens and `max_texts` texts; a longer text is a step by itself.

    A caller that finds no step in progress computes one, for all callers. Their texts take turns, so that a caller with
    few texts does not wait for one with many.
    """

    def __init__(self, step: ComputeStep, max_tokens: int, max_texts: int) -> None:
        self._step = step
        self._max_tokens = max_tokens
        self._max_texts = max_texts
        self._jobs: list[EmbedJob] = []
        self._jobs_lock = threading.Lock()
        self._step_lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """The number of callers that wait for results."""
        return len(self._jobs)

    def compute(self, texts: Sequence[TokenSequence], cancelled: Callable[[], bool]) -> list[Any]:
        """Returns a result for each text. Raises what a step raised, and `Cancelled` between two steps."""
        job = EmbedJob(texts)
        with self._jobs_lock:
            self._jobs.append(job)
        try:
            while not job.done:
                if cancelled():
                    raise Cancelled("the caller has left")
                with self._step_lock:
                    if not job.done:
                        self._compute_step()
        finally:
            with self._jobs_lock:
                self._jobs.remove(job)
        if job.error is not None:
            raise job.error
        return [job.results[i] for i in range(len(texts))]

    def _compute_step(self) -> None:
        batch = self._next_batch()
        try:
            results = self._step([job.texts[i] for job, i in batch])
        except Exception as error:  # fails every caller with a text in this step
            for job, _ in batch:
                job.error = error
            return
        for (job, i), result in zip(batch, results, strict=True):
            job.results[i] = result

    def _next_batch(self) -> list[tuple[EmbedJob, int]]:
        """Takes the next text of each caller in turn, as long as they fit into a step."""
        batch: list[tuple[EmbedJob, int]] = []
        tokens = 0
        with self._jobs_lock:
            while jobs := [job for job in self._jobs if job.pending and job.error is None]:
                for job in jobs:
                    size = len(job.texts[job.pending[0]])
                    if batch and (tokens + size > self._max_tokens or len(batch) == self._max_texts):
                        return batch
                    batch.append((job, job.pending.popleft()))
                    tokens += size
        return batch
