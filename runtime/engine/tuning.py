"""What the engine learns from the duration of its steps: prefill budget, what to save, threads; and its counters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from statistics import median
from typing import Any, NamedTuple

from ..types.events import Failed, Finished
from ..types.model_info import Stats
from ..types.prompt import AttentionTile, Item

LONG_PROMPT_STEPS, LONG_PROMPT_SECONDS, SHORT_PROMPT_SECONDS = 2.5, 0.03, 0.2
"""How long a step with prompt rows may take while answers wait for it. With rows of a long prompt: 2.5 times a step
without, or 30 ms if that is longer, since people do not read faster. With rows of a short prompt, which is soon over:
200 ms.
"""

MIN_PREFILL_ROWS, MAX_TILE_STEP_SECONDS = 8, 2.0
"""If fewer rows than this fit into a step, it takes a whole attention tile, which takes hardly longer behind thousands
of tokens, unless the step would take more than two seconds. Otherwise a long prompt would take minutes."""

TILE_RETRY_STEPS = 32
"""A tile that took too long is tried again after this many steps with fewer prompt rows: another program may have been
the cause."""

FIRST_PREFILL_ROWS = 32
"""Prompt rows in a step before any step was measured."""

FEW_ROWS_COST = 3.0
"""Assumed cost of a prompt row next to answers, relative to one of a prompt computed alone, until it is measured."""

SAVE_ALWAYS_BELOW_SECONDS = 0.005
"""A slot is always saved if saving takes less than this."""

SAVE_PROBE_INTERVAL = 8
"""If saving is slower than recomputing, every 8th slot is still saved, to measure again. From a GPU, llama.cpp
copies each run of neighboring cells separately, so the time depends on how many answers ran at once."""

_SAMPLES = 9
"""Measurements per median: on a busy machine, single steps take many times longer."""


class PrefillLimits(NamedTuple):
    """Prompt rows that a step may take while answers wait for it."""

    short_prompt_rows: int
    long_prompt_rows: int


class PrefillBudget:
    """Learns how long steps and the prompt rows in them take."""

    def __init__(self, tile: AttentionTile) -> None:
        self._tile = tile
        self._steps: deque[float] = deque(maxlen=_SAMPLES)
        """Durations of steps without prompt rows, in seconds."""
        self._few_rows: deque[float] = deque(maxlen=_SAMPLES)
        """Seconds per prompt row next to answers, in steps with less than a tile of them."""
        self._tile_row_seconds: deque[float] = deque(maxlen=_SAMPLES)
        self._prompt_alone: deque[float] = deque(maxlen=_SAMPLES)
        self._steps_since_prefill = 0
        self._steps_since_tile = 0
        """Steps with prompt rows next to answers since the last one with a whole tile."""

    def record(self, answer_rows: int, prompt_rows: int, seconds: float) -> None:
        """Records how long a step took."""
        if not prompt_rows:
            self._steps_since_prefill += 1
            if self._steps_since_prefill > 1:  # the prompt is complete; the next one starts behind fewer tokens
                self._few_rows.clear()
                self._tile_row_seconds.clear()
            self._steps.append(seconds)
            return
        self._steps_since_prefill = 0
        if not answer_rows:
            if prompt_rows >= self._tile.rows:  # with fewer, each row takes longer
                self._prompt_alone.append(seconds / prompt_rows)
        elif self._steps:
            has_tile = prompt_rows >= self._tile.rows
            self._steps_since_tile = 0 if has_tile else self._steps_since_tile + 1
            if self._steps_since_tile >= TILE_RETRY_STEPS:
                self._steps_since_tile = 0
                self._tile_row_seconds.clear()
            rows = self._tile_row_seconds if has_tile else self._few_rows
            rows.append(max(seconds - median(self._steps), 0) / prompt_rows)

    @property
    def row_seconds(self) -> float | None:
        """Seconds per row of a prompt that is computed alone; `None` if not measured yet."""
        return median(self._prompt_alone) if self._prompt_alone else None

    def limits(self) -> PrefillLimits:
        return PrefillLimits(self._worthwhile_rows(SHORT_PROMPT_SECONDS), self._worthwhile_rows(LONG_PROMPT_SECONDS))

    def _worthwhile_rows(self, seconds: float) -> int:
        """The rows that fit into a step, or a whole tile."""
        rows = self._fitting_rows(seconds)
        if rows >= MIN_PREFILL_ROWS or not self._few_rows:
            return rows
        in_tile = self._tile_row()
        if in_tile is None or 2 * in_tile >= median(self._few_rows):
            return rows
        return self._tile.rows if median(self._steps) + self._tile.rows * in_tile <= MAX_TILE_STEP_SECONDS else rows

    def _tile_row(self) -> float | None:
        """Seconds per row of a tile: measured or, if none was computed yet, estimated from rows outside of tiles."""
        if measured := self._tile_row_seconds or self._prompt_alone:
            return median(measured)
        return median(self._few_rows) / self._tile.speedup if self._tile.cost else None

    def _fitting_rows(self, seconds: float) -> int:
        if not self._steps or not (self._few_rows or self._prompt_alone):
            return FIRST_PREFILL_ROWS
        step = median(self._steps)
        row = median(self._few_rows) if self._few_rows else FEW_ROWS_COST * median(self._prompt_alone)
        return max(1, int((max(LONG_PROMPT_STEPS * step, seconds) - step) / max(row, 1e-9)))


class SavePolicy:
    """Decides whether saving a slot is worthwhile, from measured times of saving and computing."""

    def __init__(self) -> None:
        self.compute_seconds_per_cell: float | None = None
        self._saves: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)
        """Seconds in all, and for each cell."""
        self._skipped = 0

    def record_save(self, cells: int, seconds: float) -> None:
        self._saves.append((seconds, seconds / cells))

    @property
    def seconds_per_cell(self) -> float | None:
        """Seconds to save a cell; `None` if nothing was saved yet."""
        return median(per_cell for _, per_cell in self._saves) if self._saves else None

    def worth_saving(self) -> bool:
        """Whether to save the next slot."""
        if self._saves and self.compute_seconds_per_cell is not None:
            seconds, per_cell = map(median, zip(*self._saves, strict=True))
            is_slow = seconds > SAVE_ALWAYS_BELOW_SECONDS and per_cell > self.compute_seconds_per_cell
            self._skipped = self._skipped + 1 if is_slow else 0
        return self._skipped % SAVE_PROBE_INTERVAL == 0


THREAD_SAMPLES = 4
"""Steps over which a thread count is judged, after one that is ignored because the threads are starting."""

THREAD_GAIN = 0.95
"""A thread count is adopted if its steps take less than this fraction of the time of the current one's."""

STARVED_CORES = 0.3
"""The machine counts as busy if other programs took more than this many cores' worth of CPU time from the threads of a
step; the server's own process takes less. Threads spin while they wait for each other, so CPU time that a step's
threads did not use was used by other programs."""

IDLE_CORES = 0.5
"""More threads are only tried if this many cores are idle: on a busy machine, a step with as many threads as cores may
take a hundred times longer, since threads that share a core wait for each other in turn."""

FIRST_PAUSE_STEPS, MAX_PAUSE_STEPS, MAX_REDUCED_PAUSE_STEPS = 32, 2048, 256
"""Steps between two trials; doubled after each trial that changed nothing. The maximum is lower while some threads are
unused, because a single thread does not show when a busy machine becomes quiet."""

CHANGED_RATIO = 1.4
"""If steps take this many times longer or shorter than when they were judged, a trial starts at once."""

MIN_TUNING_ROWS = 16
"""Steps with fewer prompt rows next to answers say little about prompts or answers, and are not measured."""


class ThreadChoice:
    """The number of threads for one kind of step. It changes when a neighboring number is measured to be faster.

    `idle_cores` returns how many cores were idle recently.
    """

    def __init__(self, max_threads: int, idle_cores: Callable[[], float] = lambda: inf) -> None:
        self._idle_cores = idle_cores
        self._ladder = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128) if n < max_threads]
        self._ladder.append(max_threads)
        self._chosen = len(self._ladder) - 1
        self._trial: int | None = None
        self._untried: list[int] = []
        self._costs: list[float] = []
        self._ignored_steps = 1
        self._usual_cost: float | None = None
        self._pause_steps = FIRST_PAUSE_STEPS
        self._remaining_pause = 0

    @property
    def threads(self) -> int:
        """The number for the next step; it may be on trial."""
        return self._ladder[self._chosen if self._trial is None else self._trial]

    @property
    def settled(self) -> int:
        """The best number found so far."""
        return self._ladder[self._chosen]

    def record(self, cost: float, is_starved: bool = False) -> None:
        """Records the cost of a step. `is_starved`: other programs took cores from some of its threads."""
        usual, trial = self._usual_cost, self._trial
        if is_starved and trial is not None and trial > self._chosen:
            self._costs = []
            self._try(self._untried)
            return
        is_slow = usual is None or cost > CHANGED_RATIO * usual
        must_act = is_starved and is_slow and trial is None
        if self._ignored_steps and not must_act:
            self._ignored_steps -= 1
            return
        self._costs.append(cost)
        is_hopeless = is_slow and trial is not None
        if len(self._costs) < THREAD_SAMPLES and not is_hopeless and not must_act:
            return
        now, self._costs = median(self._costs), []
        if trial is not None:
            self._judge(now)
        elif usual is None or not 1 / CHANGED_RATIO < now / usual < CHANGED_RATIO:
            self._usual_cost, self._pause_steps = now, FIRST_PAUSE_STEPS
            self._try([self._chosen - 1, self._chosen + 1, 0, len(self._ladder) - 1])
        elif self._remaining_pause <= 0:
            self._usual_cost = now
            self._try([self._chosen - 1, self._chosen + 1])
        else:
            self._remaining_pause -= THREAD_SAMPLES

    def _try(self, indices: list[int]) -> None:
        """Starts a trial of the first of these ladder indices, with the others to follow; pauses if there is none."""
        possible = [i for i in dict.fromkeys(indices) if 0 <= i < len(self._ladder) and i != self._chosen]
        fewer = [i for i in possible if i < self._chosen]
        is_busy = len(fewer) < len(possible) and self._idle_cores() < IDLE_CORES
        if is_busy:
            possible = fewer
        self._ignored_steps = 1
        if possible:
            self._trial, self._untried = possible[0], possible[1:]
        elif is_busy:
            self._trial, self._remaining_pause = None, 2 * THREAD_SAMPLES
        else:
            self._trial, self._remaining_pause = None, self._pause_steps
            is_max = self._chosen == len(self._ladder) - 1
            self._pause_steps = min(2 * self._pause_steps, MAX_PAUSE_STEPS if is_max else MAX_REDUCED_PAUSE_STEPS)

    def _judge(self, cost: float) -> None:
        assert self._trial is not None and self._usual_cost is not None
        if cost < THREAD_GAIN * self._usual_cost:
            beyond = 2 * self._trial - self._chosen
            self._chosen, self._usual_cost = self._trial, cost
            self._try([beyond, *self._untried])
        else:
            self._try(self._untried)


class ThreadTuner:
    """Chooses how many threads compute a step, at most `max_threads`.

    No fixed number is right. With another busy process, as many threads as cores wait for each other at every barrier
    and are many times slower than one thread. On a quiet machine they are much faster. Steps with prompt rows
    are judged separately, other steps by how many answers run together.

    If the threads `spin` while they wait, the CPU time of a step shows at once whether other programs need cores.
    `idle_cores` returns how many cores were idle recently.
    """

    def __init__(self, max_threads: int, spin: bool = False, idle_cores: Callable[[], float] = lambda: inf) -> None:
        self._max_threads = max_threads
        self._spin = spin
        self._idle_cores = idle_cores
        self._choices: dict[object, ThreadChoice] = {}

    def threads(self, answer_rows: int, prompt_rows: int, settled: bool = False) -> int:
        """The number for such a step: it may be on trial, unless `settled`."""
        choice = self._choice(answer_rows, prompt_rows)
        return choice.settled if settled else choice.threads

    def record(self, answer_rows: int, prompt_rows: int, seconds: float, cpu_seconds: float = inf) -> None:
        """Records the duration of a step and its CPU time."""
        if 0 < prompt_rows < MIN_TUNING_ROWS:
            return
        choice = self._choice(answer_rows, prompt_rows)
        is_starved = self._spin and cpu_seconds < (choice.threads - STARVED_CORES) * seconds
        choice.record(seconds / (answer_rows + prompt_rows if prompt_rows else 1), is_starved)

    def _choice(self, answer_rows: int, prompt_rows: int) -> ThreadChoice:
        kind = "prompt" if prompt_rows else answer_rows.bit_length()
        return self._choices.setdefault(kind, ThreadChoice(self._max_threads, self._idle_cores))


class CacheForecast(NamedTuple):
    """The state of the cache for a prompt submitted now.

    `cached_cells` of it need not be computed; `idle_cells` of other prompts may have to be saved first. `peak_cells` is
    the most in use at once so far, `saved_bytes` the size of the prefix cache. `save_seconds_per_cell` is `None` if
    nothing was saved yet.
    """

    cached_cells: int
    idle_cells: int
    peak_cells: int
    saved_bytes: int
    save_seconds_per_cell: float | None


class EngineMetrics:
    """Counts what an engine has done. Written by the engine's thread, read by any."""

    def __init__(self) -> None:
        self._finished = self._failed = self._cancelled = 0
        self._prompt_tokens = self._cached_tokens = self._completion_tokens = 0
        self._first_token_seconds = self._busy_seconds = 0.0

    def record_step(self, seconds: float) -> None:
        self._busy_seconds += seconds

    def record_end(self, event: Finished | Failed | None) -> None:
        """Counts a request by its last event; `None` if it was cancelled."""
        if event is None:
            self._cancelled += 1
        elif isinstance(event, Failed):
            self._failed += 1
        else:
            self._finished += 1
            self._prompt_tokens += event.usage.prompt_tokens
            self._cached_tokens += event.usage.cached_tokens
            self._completion_tokens += event.usage.completion_tokens
            self._first_token_seconds += event.timings.first_token_seconds

    def stats(self, **current: Any) -> Stats:
        """The counters, with `current` values that only the engine knows."""
        return Stats(
            finished=self._finished,
            failed=self._failed,
            cancelled=self._cancelled,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            completion_tokens=self._completion_tokens,
            first_token_seconds=self._first_token_seconds,
            busy_seconds=self._busy_seconds,
            **current,
        )


def reuse_before_tile(items: list[Item], shared: int, tile: AttentionTile) -> int:
    """How many of the `shared` items to reuse: if few others follow them, computing a whole tile may be faster."""
    few, rest = len(items) - shared, items[-tile.rows :]
    if few >= tile.rows or len(rest) < tile.rows or not all(isinstance(item, int) for item in rest):
        return shared
    attention = tile.cost * shared
    is_slower = few * (1 + attention) > tile.rows * (1 + attention / tile.speedup)
    return len(items) - tile.rows if is_slower else shared
