"""Estimates how much of a long run is complete and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..progress import Progress

_MINIMUM_STEP_FRACTION = 0.2
"""The fraction of a step that must be complete before its speed is known: loading at its start distorts it."""


@dataclass
class ProgressEstimator:
    """Counts steps of several kinds; all steps of a kind are assumed to take equally long.

    `report` receives a line of text and the completed fraction. `weights` are the relative durations of kinds that
    have not begun (1 by default).
    """

    steps: dict[str, int]
    report: Progress
    clock: Callable[[], float] = time.monotonic
    weights: Mapping[str, float] = field(default_factory=dict)
    done_steps: dict[str, float] = field(default_factory=dict)
    spent_seconds: dict[str, float] = field(default_factory=dict)
    _last_time: float = 0.0
    _step_fraction: float = 0.0

    def begin(self, kind: str) -> None:
        """Starts a step of this kind."""
        self._last_time, self._step_fraction = self.clock(), 0.0

    def skip(self, kind: str) -> None:
        """Removes a step that an earlier run completed: it says nothing about how long the others take."""
        self.steps[kind] -= 1

    def advance(self, kind: str, name: str, fraction: float) -> None:
        """Records the completed fraction of the current step."""
        now = self.clock()
        self.done_steps[kind] = self.done_steps.get(kind, 0.0) + fraction - self._step_fraction
        self.spent_seconds[kind] = self.spent_seconds.get(kind, 0.0) + now - self._last_time
        self._last_time, self._step_fraction = now, fraction
        remaining = self.remaining_seconds
        suffix = "" if remaining is None else f", {format_duration(remaining)} left"
        self.report(f"{kind} of {name}: {self.fraction:.0%}{suffix}", self.fraction)

    @property
    def fraction(self) -> float:
        """The completed fraction of all steps, weighted by their known or estimated durations."""
        remaining = self.remaining_seconds
        spent = sum(self.spent_seconds.values())
        return 0.0 if remaining is None or spent + remaining == 0 else spent / (spent + remaining)

    @property
    def remaining_seconds(self) -> float | None:
        """The estimated rest, or `None` before enough is complete. Kinds that have not begun are extrapolated."""
        step_seconds = {
            kind: self.spent_seconds[kind] / done
            for kind, done in self.done_steps.items()
            if done >= _MINIMUM_STEP_FRACTION
        }
        if not step_seconds:
            return None
        usual = sum(seconds / self._weight(kind) for kind, seconds in step_seconds.items()) / len(step_seconds)
        estimates = {kind: step_seconds.get(kind, usual * self._weight(kind)) for kind in self.steps}
        return sum((count - self.done_steps.get(kind, 0.0)) * estimates[kind] for kind, count in self.steps.items())

    def _weight(self, kind: str) -> float:
        return self.weights.get(kind, 1.0)


def format_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
