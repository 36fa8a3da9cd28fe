"""Gathers the texts of several callers into common steps. Knows no model, only how many rows a step should have."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ...models.errors import Cancelled

TokenSequence: TypeAlias = Sequence[int]
ComputeStep: TypeAlias = Callable[[list[TokenSequence]], Iterable[Any]]
"""Computes something for each of some texts, all at once."""


@dataclass(eq=False, slots=True)
class EmbedJob:
    """A caller's texts, which of them nobody has computed yet, and what came of the others."""

    texts: Sequence[TokenSequence]
    left: deque[int] = field(init=False)
    found: dict[int, Any] = field(default_factory=dict)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.left = deque(range(len(self.texts)))

    @property
    def over(self) -> bool:
        return self.error is not None or len(self.found) == len(self.texts)


class EmbedBatcher:
    """At most `rows` tokens and `texts` texts in a step, or one text alone, however long.

    Whichever caller finds nobody computing does so, for all who wait; they have their texts computed in turns, so that
    few texts do not wait for many.
    """

    def __init__(self, step: ComputeStep, rows: int, texts: int) -> None:
        self._step = step
        self._rows = rows
        self._texts = texts
        self._jobs: list[EmbedJob] = []
        self._gate = threading.Lock()
        self._turn = threading.Lock()

    @property
    def waiting(self) -> int:
        """Callers whose texts are not all computed."""
        return len(self._jobs)

    def compute(self, texts: Sequence[TokenSequence], cancelled: Callable[[], bool]) -> list[Any]:
        """What the steps have found for each text. Raises what a step raised, and `Cancelled`, between two of them."""
        job = EmbedJob(texts)
        with self._gate:
            self._jobs.append(job)
        try:
            while not job.over:
                if cancelled():
                    raise Cancelled("nobody waits for these texts any more")
                with self._turn:
                    if not job.over:
                        self._compute()
        finally:
            with self._gate:
                self._jobs.remove(job)
        if job.error is not None:
            raise job.error
        return [job.found[i] for i in range(len(texts))]

    def _compute(self) -> None:
        chosen = self._choose()
        try:
            found = self._step([job.texts[i] for job, i in chosen])
        except Exception as error:  # every caller whose text was in the step hears of it
            for job, _ in chosen:
                job.error = error
            return
        for (job, i), one in zip(chosen, found, strict=True):
            job.found[i] = one

    def _choose(self) -> list[tuple[EmbedJob, int]]:
        """The next text of each caller in turn, as long as they fit into a step."""
        chosen: list[tuple[EmbedJob, int]] = []
        rows = 0
        with self._gate:
            while jobs := [job for job in self._jobs if job.left and job.error is None]:
                for job in jobs:
                    size = len(job.texts[job.left[0]])
                    if chosen and (rows + size > self._rows or len(chosen) == self._texts):
                        return chosen
                    chosen.append((job, job.left.popleft()))
                    rows += size
        return chosen
