"""How many rows of a prompt fit into a step without keeping running answers waiting, and whether what was computed is
kept faster than computed again. Knows only durations."""

from __future__ import annotations

from collections import deque
from statistics import median

from ...models.capacity.throughput import TILE

INTERVALS, READABLE, MOMENT = 2.5, 0.03, 0.2
"""How long a step that also reads a prompt may take: of a long prompt in usual steps of answers alone, or in seconds
where those are faster than anybody reads; of a short one, which is over before anybody minds, in seconds."""

FEW, STANDSTILL = 8, 1.0
"""Where not even so many rows fit into a step, it reads a tile, which behind thousands of tokens hardly takes longer,
if that takes at most so many seconds: a prompt of thousands of tokens would otherwise take minutes."""

FIRST = 32
"""Rows, as long as nothing was measured."""

DEARER = 3.0
"""What a row of a few beside answers is taken to cost, in rows of a prompt read alone, until it was measured."""

NOTHING, RETRY = 0.005, 8
"""Seconds to keep a slot that nobody notices; and one of so many slots is kept although it takes longer than to compute
it again, since it may have become faster: from a GPU llama.cpp fetches each run of neighbouring cells by itself, so
that it depends on how many answers ran side by side."""

_RECENT = 9
"""Measurements that the usual one is the median of: a busy machine makes some steps many times longer."""

_NEW = 0.2
"""Weight of a new measurement in a running average."""


class PrefillBudget:
    """Learns from each step how long a row of a prompt takes, and a step without any."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=_RECENT)
        self._rows: deque[float] = deque(maxlen=_RECENT)
        self._tiles: deque[float] = deque(maxlen=_RECENT)
        self._since = 0
        self._alone: deque[float] = deque(maxlen=_RECENT)
        self._kept: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._left = 0

    def measured(self, answer_rows: int, prompt_rows: int, seconds: float) -> None:
        self._since = 0 if prompt_rows else self._since + 1
        if self._since > 1:  # the prompt is read; the next one begins behind fewer tokens
            self._rows.clear()
            self._tiles.clear()
        if not prompt_rows:
            self._steps.append(seconds)
        elif not answer_rows:
            if prompt_rows >= TILE:  # of fewer each takes longer
                self._alone.append(seconds / prompt_rows)
        elif self._steps:
            rows = self._rows if prompt_rows < TILE else self._tiles
            rows.append(max(seconds - median(self._steps), 0) / prompt_rows)

    def kept(self, cells: int, seconds: float) -> None:
        self._kept.append((seconds, seconds / cells))

    @property
    def keeping(self) -> float | None:
        """Seconds that a cell takes to be kept; `None` before the first."""
        return median(each for _, each in self._kept) if self._kept else None

    def worth_keeping(self) -> bool:
        """Whether to keep the next slot."""
        if self._kept and self._alone:
            seconds, of_a_cell = map(median, zip(*self._kept, strict=True))
            self._left = self._left + 1 if seconds > NOTHING and of_a_cell > median(self._alone) else 0
        return self._left % RETRY == 0

    @property
    def long_prompt_rows(self) -> int:
        return self._worthwhile(READABLE)

    @property
    def short_prompt_rows(self) -> int:
        return self._worthwhile(MOMENT)

    def _worthwhile(self, least: float) -> int:
        """What fits into a step, or a tile."""
        few = self._fitting(least)
        if few >= FEW or not self._rows or not (self._tiles or self._alone):
            return few
        row = median(self._tiles or self._alone)
        return TILE if 2 * row < median(self._rows) and median(self._steps) + TILE * row <= STANDSTILL else few

    def _fitting(self, least: float) -> int:
        if not self._steps or not (self._rows or self._alone):
            return FIRST
        step, row = median(self._steps), median(self._rows) if self._rows else DEARER * median(self._alone)
        return max(1, int((max(INTERVALS * step, least) - step) / max(row, 1e-9)))
