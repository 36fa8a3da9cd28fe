"""How far a long run is and how long it will still take. Knows neither what is done nor where it is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_TELLING = 0.2
"""Of a step: what is done first, such as loading, takes longer than the rest."""


@dataclass
class Progress:
    """Steps of several kinds, each kind with a number of equal steps. `tell` hears a line and the share done.

    `weights` say how long a step of a kind that has not begun may take, beside those of others (1).
    """

    steps: dict[str, int]
    tell: Callable[[str, float], None]
    clock: Callable[[], float] = time.monotonic
    weights: Mapping[str, float] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    _since: float = 0.0
    _at: float = 0.0

    def begin(self, kind: str) -> None:
        """A step of this kind begins."""
        self._since, self._at = self.clock(), 0.0

    def skip(self, kind: str) -> None:
        """A step of this kind was done in an earlier run, and tells nothing of the time that others take."""
        self.steps[kind] -= 1

    def advance(self, kind: str, name: str, share: float) -> None:
        """So much of the present step is done."""
        now = self.clock()
        self.done[kind] = self.done.get(kind, 0.0) + share - self._at
        self.spent[kind] = self.spent.get(kind, 0.0) + now - self._since
        self._since, self._at = now, share
        left = self.remaining
        tail = "" if left is None else f", {duration(left)} left"
        self.tell(f"{kind} of {name}: {self.share:.0%}{tail}", self.share)

    @property
    def share(self) -> float:
        """Of all steps, by the time they take as far as that is known."""
        left = self.remaining
        spent = sum(self.spent.values())
        return 0.0 if left is None or spent + left == 0 else spent / (spent + left)

    @property
    def remaining(self) -> float | None:
        """Seconds; a kind that has not begun is reckoned from the others. `None` before enough is done to tell."""
        rates = {kind: self.spent[kind] / done for kind, done in self.done.items() if done >= _TELLING}
        if not rates:
            return None
        usual = sum(rate / self._weight(kind) for kind, rate in rates.items()) / len(rates)
        each = {kind: rates.get(kind, usual * self._weight(kind)) for kind in self.steps}
        return sum((count - self.done.get(kind, 0.0)) * each[kind] for kind, count in self.steps.items())

    def _weight(self, kind: str) -> float:
        return self.weights.get(kind, 1.0)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
