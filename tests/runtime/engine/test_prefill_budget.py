"""The pace of prompts beside running answers, on a machine that is two durations."""

from __future__ import annotations

from galago.models.capacity.throughput import TILE
from galago.runtime.engine.prefill_budget import FEW, FIRST, INTERVALS, MOMENT, READABLE, RETRY, PrefillBudget


def learned(step: float, row: float) -> PrefillBudget:
    pace = PrefillBudget()
    for _ in range(50):
        pace.measured(2, 0, step)
        pace.measured(2, 10, step + 10 * row)
    return pace


def test_a_long_prompt_keeps_a_step_within_so_many_usual_ones() -> None:
    pace = learned(step=0.02, row=0.0014)
    assert 0.9 < (0.02 + pace.long_prompt_rows * 0.0014) / (INTERVALS * 0.02) <= 1


def test_a_long_prompt_slows_a_fast_model_to_what_anybody_reads() -> None:
    pace = learned(step=0.005, row=0.001)
    assert 0.9 < (0.005 + pace.long_prompt_rows * 0.001) / READABLE < 1.001


def test_a_short_prompt_may_take_a_moment() -> None:
    pace = learned(step=0.012, row=0.0014)
    assert 0.9 < (0.012 + pace.short_prompt_rows * 0.0014) / MOMENT <= 1
    slow = learned(step=0.2, row=0.02)
    assert slow.short_prompt_rows == slow.long_prompt_rows


def test_a_prompt_read_alone_tells_little_of_few_rows_beside_answers() -> None:
    pace = PrefillBudget()
    pace.measured(1, 0, 0.02)
    pace.measured(0, 512, 512 * 0.001)
    assert 0.02 + 3 * 0.001 * pace.long_prompt_rows <= INTERVALS * 0.02
    pace.measured(1, 5, 0.02 + 5 * 0.002)
    assert pace.long_prompt_rows == 15


def test_a_prompt_always_gets_on() -> None:
    assert PrefillBudget().long_prompt_rows == FIRST
    assert learned(step=0.01, row=10.0).long_prompt_rows == 1


def test_single_steps_that_took_much_longer_do_not_count() -> None:
    pace = learned(step=0.012, row=0.0014)
    before = pace.long_prompt_rows
    for rows in (0, 10, 0, 10):
        pace.measured(2, rows, 0.9)
    assert pace.long_prompt_rows == before


def test_on_a_machine_that_became_busy_a_prompt_gets_on_as_before() -> None:
    pace, busy = learned(step=0.02, row=0.0014), 5
    before = pace.long_prompt_rows
    for _ in range(20):
        pace.measured(2, 0, busy * 0.02)
        pace.measured(2, before, busy * (0.02 + before * 0.0014))
    assert pace.long_prompt_rows == before


def deep(step: float, row: float, tiled: float) -> PrefillBudget:
    """Behind so many tokens that a row of a few takes `row`, and one of a tile `tiled`."""
    pace = PrefillBudget()
    pace.measured(0, 512, 512 * tiled)
    for _ in range(9):
        pace.measured(1, 0, step)
        rows = pace.long_prompt_rows
        pace.measured(1, rows, step + rows * (tiled if rows >= TILE else row))
    return pace


def test_where_hardly_a_row_fits_a_long_prompt_is_read_in_tiles() -> None:
    assert deep(step=0.008, row=0.011, tiled=0.002).long_prompt_rows == TILE
    assert FEW <= deep(step=0.008, row=0.002, tiled=0.0015).long_prompt_rows < TILE


def test_no_tile_is_read_that_gains_nothing_or_stops_everybody() -> None:
    assert deep(step=0.008, row=0.011, tiled=0.009).long_prompt_rows == 2
    assert deep(step=0.15, row=0.125, tiled=0.05).long_prompt_rows == 1


def test_the_next_long_prompt_begins_with_few_rows_again() -> None:
    pace = deep(step=0.008, row=0.011, tiled=0.002)
    for _ in range(2):
        pace.measured(1, 0, 0.008)
    assert pace.long_prompt_rows < FEW
    pace.measured(1, 3, 0.008 + 3 * 0.0014)
    assert FEW <= pace.long_prompt_rows < TILE


def keeping(saving: float, row: float) -> list[bool]:
    """Whether each of so many slots of 200 cells is kept."""
    pace, kept = PrefillBudget(), []
    for _ in range(2 * RETRY):
        pace.measured(0, 200, 200 * row)
        kept.append(pace.worth_keeping())
        if kept[-1]:
            pace.kept(200, 200 * saving)
    return kept


def test_what_is_computed_again_sooner_than_kept_is_kept_only_now_and_then() -> None:
    assert all(keeping(saving=0.00002, row=0.001)), "as on a CPU"
    assert all(keeping(saving=0.00002, row=0.00001)), "nobody notices it"
    assert 2 <= sum(keeping(saving=0.0002, row=0.00005)) <= 3, "as on a GPU after answers side by side"


def test_keeping_begins_again_when_it_pays() -> None:
    pace = PrefillBudget()
    pace.measured(0, 200, 200 * 0.00005)
    for saving in (0.0002, *[0.00001] * 9):
        pace.kept(200, 200 * saving)
    assert pace.worth_keeping() and pace.worth_keeping()
