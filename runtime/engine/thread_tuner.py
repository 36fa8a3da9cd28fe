"""Chooses how many threads compute a step, from how long steps take. Knows only counts and durations.

No fixed number is right: with another busy process beside it, as many threads as cores wait for each other at every
barrier and are many times slower than one thread; on a quiet machine they are as many times faster.
"""

from __future__ import annotations

from statistics import median

SAMPLES = 4
"""Steps that a number of threads is judged by; one before them is not counted, while the threads start."""

BETTER = 0.95
"""A number of threads is taken up when its steps take less than this share of the present one's."""

FIRST_REST, LONGEST_REST, LONGEST_BELOW = 32, 2048, 512
"""Steps between two trials: twice as many after each that changed nothing. Fewer while threads lie idle, because one
thread does not feel it when a busy machine becomes quiet."""

CHANGED = 1.4
"""Steps that take so many times longer, or shorter, than when they were judged, call for a trial at once."""

SMALLEST_PROMPT = 16
"""Rows: steps with fewer prompt rows beside answers say little of either."""


class ThreadChoice:
    """The number of threads for one kind of step, kept while no other that is tried is better."""

    def __init__(self, most: int) -> None:
        self._ladder = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128) if n < most] + [most]
        self._at = len(self._ladder) - 1
        self._trial: int | None = None
        self._untried: list[int] = []
        self._costs: list[float] = []
        self._skip = 1
        self._usual: float | None = None
        self._rest = FIRST_REST
        self._resting = 0

    @property
    def threads(self) -> int:
        return self._ladder[self._at if self._trial is None else self._trial]

    @property
    def settled(self) -> int:
        return self._ladder[self._at]

    def measured(self, cost: float) -> None:
        if self._skip:
            self._skip -= 1
            return
        self._costs.append(cost)
        hopeless = self._trial is not None and self._usual is not None and cost > CHANGED * self._usual
        if len(self._costs) < SAMPLES and not hopeless:
            return
        now, self._costs = median(self._costs), []
        if self._trial is not None:
            self._judge(now)
        elif self._usual is None or not 1 / CHANGED < now / self._usual < CHANGED:
            self._usual, self._rest = now, FIRST_REST
            self._try([self._at - 1, self._at + 1, 0, len(self._ladder) - 1])
        elif self._resting <= 0:
            self._usual = now
            self._try([self._at - 1, self._at + 1])
        else:
            self._resting -= SAMPLES

    def _try(self, places: list[int]) -> None:
        """Tries the first of these places on the ladder, the others later; rests where there is none."""
        possible = [p for p in dict.fromkeys(places) if 0 <= p < len(self._ladder) and p != self._at]
        self._skip = 1
        if possible:
            self._trial, self._untried = possible[0], possible[1:]
        else:
            self._trial, self._resting = None, self._rest
            top = self._at == len(self._ladder) - 1
            self._rest = min(2 * self._rest, LONGEST_REST if top else LONGEST_BELOW)

    def _judge(self, now: float) -> None:
        assert self._trial is not None and self._usual is not None
        if now < BETTER * self._usual:
            beyond = 2 * self._trial - self._at
            self._at, self._usual = self._trial, now
            self._try([beyond, *self._untried])
        else:
            self._try(self._untried)


class ThreadTuner:
    """At most `most` threads, chosen for answers (by how many run together) and for prompts apart."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._dials: dict[object, ThreadChoice] = {}

    def threads(self, answer_rows: int, prompt_rows: int, settled: bool = False) -> int:
        """The number for such a step: one that is on trial, or, `settled`, the one in use meanwhile."""
        dial = self._dial(answer_rows, prompt_rows)
        return dial.settled if settled else dial.threads

    def measured(self, answer_rows: int, prompt_rows: int, seconds: float) -> None:
        if not prompt_rows:
            self._dial(answer_rows, 0).measured(seconds)
        elif prompt_rows >= SMALLEST_PROMPT:
            self._dial(answer_rows, prompt_rows).measured(seconds / (answer_rows + prompt_rows))

    def _dial(self, answer_rows: int, prompt_rows: int) -> ThreadChoice:
        kind = "prompt" if prompt_rows else answer_rows.bit_length()
        return self._dials.setdefault(kind, ThreadChoice(self._most))
