"""How many rows of a prompt fit into a step without keeping running answers waiting. Knows only durations."""

from __future__ import annotations

INTERVALS, MOMENT = 2.5, 0.2
"""How long a step that also reads a prompt may take: of a long prompt in usual steps of answers alone, of a short one,
which is over before anybody minds, in seconds."""

FIRST = 32
"""Rows, as long as nothing was measured."""

_NEW = 0.2
"""Weight of a new measurement in the running averages."""


class Pace:
    """Learns from each step how long a row of a prompt takes, and a step without any."""

    def __init__(self) -> None:
        self._step: float | None = None
        self._row: float | None = None

    def measured(self, answer_rows: int, prompt_rows: int, seconds: float) -> None:
        if not prompt_rows:
            self._step = averaged(self._step, seconds)
        elif not answer_rows:
            self._row = averaged(self._row, seconds / prompt_rows)
        elif self._step is not None:
            self._row = averaged(self._row, max(seconds - self._step, 0) / prompt_rows)

    @property
    def long_prompt_rows(self) -> int:
        return self._rows(0.0)

    @property
    def short_prompt_rows(self) -> int:
        return self._rows(MOMENT)

    def _rows(self, least: float) -> int:
        if self._step is None or self._row is None:
            return FIRST
        return max(1, int((max(INTERVALS * self._step, least) - self._step) / max(self._row, 1e-9)))


def averaged(old: float | None, new: float, weight: float = _NEW) -> float:
    return new if old is None else old + weight * (new - old)
