"""What the engine learns from durations, on simulated machines that are a table of durations."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galago.runtime.engine.tuning import (
    FIRST_PREFILL_ROWS,
    LONG_PROMPT_SECONDS,
    LONG_PROMPT_STEPS,
    MIN_PREFILL_ROWS,
    SAVE_PROBE_INTERVAL,
    SHORT_PROMPT_SECONDS,
    TILE_RETRY_STEPS,
    PrefillBudget,
    SavePolicy,
    ThreadTuner,
)
from galago.runtime.types.prompt import AttentionTile

TILE_ROWS = 64
TILE = AttentionTile(TILE_ROWS, speedup=8, cost=0.001)


def long_prompt_rows(budget: PrefillBudget) -> int:
    return budget.limits().long_prompt_rows


def trained_budget(step: float, row: float) -> PrefillBudget:
    """A budget that has seen steps of `step` seconds and prompt rows of `row` seconds."""
    budget = PrefillBudget(TILE)
    for _ in range(50):
        budget.record(2, 0, step)
        budget.record(2, 10, step + 10 * row)
    return budget


def test_a_long_prompt_makes_steps_at_most_2_5_times_longer() -> None:
    budget = trained_budget(step=0.02, row=0.0014)
    assert 0.9 < (0.02 + long_prompt_rows(budget) * 0.0014) / (LONG_PROMPT_STEPS * 0.02) <= 1


def test_a_long_prompt_slows_a_fast_model_down_to_reading_speed() -> None:
    budget = trained_budget(step=0.005, row=0.001)
    assert 0.9 < (0.005 + long_prompt_rows(budget) * 0.001) / LONG_PROMPT_SECONDS < 1.001


def test_a_short_prompt_may_take_longer() -> None:
    budget = trained_budget(step=0.012, row=0.0014)
    assert 0.9 < (0.012 + budget.limits().short_prompt_rows * 0.0014) / SHORT_PROMPT_SECONDS <= 1
    slow = trained_budget(step=0.2, row=0.02).limits()
    assert slow.short_prompt_rows == slow.long_prompt_rows


def test_rows_beside_answers_are_assumed_to_cost_more_until_measured() -> None:
    budget = PrefillBudget(TILE)
    budget.record(1, 0, 0.02)
    budget.record(0, 512, 512 * 0.001)
    assert 0.02 + 3 * 0.001 * long_prompt_rows(budget) <= LONG_PROMPT_STEPS * 0.02
    budget.record(1, 5, 0.02 + 5 * 0.002)
    assert long_prompt_rows(budget) == 15


def test_a_prompt_always_makes_progress() -> None:
    assert long_prompt_rows(PrefillBudget(TILE)) == FIRST_PREFILL_ROWS
    assert long_prompt_rows(trained_budget(step=0.01, row=10.0)) == 1


def test_single_slow_steps_change_nothing() -> None:
    budget = trained_budget(step=0.012, row=0.0014)
    before = long_prompt_rows(budget)
    for rows in (0, 10, 0, 10):
        budget.record(2, rows, 0.9)
    assert long_prompt_rows(budget) == before


def test_on_a_machine_that_becomes_busy_prefill_keeps_its_share() -> None:
    budget, slowdown = trained_budget(step=0.02, row=0.0014), 5
    before = long_prompt_rows(budget)
    for _ in range(20):
        budget.record(2, 0, slowdown * 0.02)
        budget.record(2, before, slowdown * (0.02 + before * 0.0014))
    assert long_prompt_rows(budget) == before


def deep_budget(step: float, row: float, tile_row: float) -> PrefillBudget:
    """Behind many tokens, where a row takes `row` among a few and `tile_row` in a tile."""
    budget = PrefillBudget(TILE)
    budget.record(0, 512, 512 * tile_row)
    for _ in range(9):
        budget.record(1, 0, step)
        rows = long_prompt_rows(budget)
        budget.record(1, rows, step + rows * (tile_row if rows >= TILE_ROWS else row))
    return budget


def test_if_hardly_a_row_fits_a_long_prompt_is_computed_in_tiles() -> None:
    assert long_prompt_rows(deep_budget(step=0.008, row=0.011, tile_row=0.002)) == TILE_ROWS
    assert MIN_PREFILL_ROWS <= long_prompt_rows(deep_budget(step=0.008, row=0.002, tile_row=0.0015)) < TILE_ROWS


def test_no_tile_is_computed_that_gains_nothing_or_takes_too_long() -> None:
    assert long_prompt_rows(deep_budget(step=0.008, row=0.011, tile_row=0.009)) == 2
    assert long_prompt_rows(deep_budget(step=0.15, row=0.125, tile_row=0.05)) == 1


def test_a_tile_is_tried_before_any_was_measured() -> None:
    assert long_prompt_rows(trained_budget(step=0.016, row=0.06)) == TILE_ROWS
    assert long_prompt_rows(trained_budget(step=0.016, row=0.3)) == 1  # it would take 2.4 s
    without_tiles = PrefillBudget(AttentionTile(TILE_ROWS, speedup=8, cost=0))
    for rows in (0, 10):
        without_tiles.record(1, rows, 0.016 + rows * 0.06)
    assert long_prompt_rows(without_tiles) == 1


def test_a_tile_that_took_too_long_is_tried_again() -> None:
    budget = trained_budget(step=0.016, row=0.06)
    budget.record(1, TILE_ROWS, 4.0)
    rows = []
    for _ in range(2 * TILE_RETRY_STEPS):
        rows.append(long_prompt_rows(budget))
        budget.record(1, rows[-1], 0.016 + rows[-1] * (0.008 if rows[-1] >= TILE_ROWS else 0.06))
    assert rows[:TILE_RETRY_STEPS] == [1] * TILE_RETRY_STEPS and set(rows[TILE_RETRY_STEPS:]) == {TILE_ROWS}


def test_the_next_long_prompt_starts_with_few_rows_again() -> None:
    budget = deep_budget(step=0.008, row=0.011, tile_row=0.002)
    for _ in range(2):
        budget.record(1, 0, 0.008)
    assert long_prompt_rows(budget) < MIN_PREFILL_ROWS
    budget.record(1, 3, 0.008 + 3 * 0.0014)
    assert MIN_PREFILL_ROWS <= long_prompt_rows(budget) < TILE_ROWS


def decisions_to_save(save_seconds: float, compute_seconds: float) -> list[bool]:
    """Whether each of 16 slots of 200 cells is saved, by the seconds that saving and computing a cell take."""
    policy, decisions = SavePolicy(), []
    policy.compute_seconds_per_cell = compute_seconds
    for _ in range(2 * SAVE_PROBE_INTERVAL):
        decisions.append(policy.worth_saving())
        if decisions[-1]:
            policy.record_save(200, 200 * save_seconds)
    return decisions


def test_slots_that_are_slower_to_save_than_to_compute_are_saved_rarely() -> None:
    assert all(decisions_to_save(0.00002, 0.001)), "as on a CPU"
    assert all(decisions_to_save(0.00002, 0.00001)), "too short to notice"
    assert 2 <= sum(decisions_to_save(0.0002, 0.00005)) <= 3, "as on a GPU after answers side by side"


def test_saving_resumes_when_it_becomes_faster() -> None:
    policy = SavePolicy()
    policy.compute_seconds_per_cell = 0.00005
    for seconds in (0.0002, *[0.00001] * 9):
        policy.record_save(200, 200 * seconds)
    assert policy.worth_saving() and policy.worth_saving()


Machine = Callable[[int], float]
QUIET: Machine = lambda threads: 1 / threads  # noqa: E731
BUSY: Machine = lambda threads: 1.0 if threads == 1 else 10.0  # noqa: E731


def run(tuner: ThreadTuner, machine: Machine, steps: int, noise: float = 0.0, seed: int = 1) -> float:
    """Seconds that this many steps of one answer take."""
    rng, total = Random(seed), 0.0
    for _ in range(steps):
        seconds = machine(tuner.threads(1, 0)) * (1 + noise * rng.uniform(-1, 1))
        tuner.record(1, 0, seconds)
        total += seconds
    return total


@pytest.mark.parametrize("max_threads", [1, 2, 4, 6, 16])
def test_a_quiet_machine_gets_all_its_threads_at_little_cost(max_threads: int) -> None:
    tuner = ThreadTuner(max_threads)
    assert run(tuner, QUIET, 2000, noise=0.1) < 1.03 * 2000 / max_threads
    assert tuner.threads(1, 0) == max_threads


@pytest.mark.parametrize("max_threads", [2, 4, 16])
def test_a_busy_machine_soon_gets_fewer_threads(max_threads: int) -> None:
    tuner = ThreadTuner(max_threads)
    run(tuner, BUSY, 60)
    assert run(tuner, BUSY, 1000, noise=0.1) < 1.1 * 1000


def test_it_follows_a_machine_that_becomes_busy_and_quiet_again() -> None:
    tuner = ThreadTuner(4)
    run(tuner, QUIET, 3000)
    run(tuner, BUSY, 60)
    assert run(tuner, BUSY, 500) < 1.15 * 500
    run(tuner, QUIET, 600)
    assert run(tuner, QUIET, 500) < 1.15 * 500 / 4


def run_spinning(tuner: ThreadTuner, steps: int, free_cores: float) -> list[int]:
    """The threads of steps on a machine whose other cores are taken: threads wait for those without a core."""
    used = []
    for _ in range(steps):
        threads = tuner.threads(1, 0)
        used.append(threads)
        seconds = 1 / threads if threads <= free_cores else 100.0
        tuner.record(1, 0, seconds, seconds * min(threads, free_cores))
    return used


def test_threads_that_spin_are_fewer_at_once_on_a_busy_machine() -> None:
    idle_cores = 0.0
    tuner = ThreadTuner(2, True, lambda: idle_cores)
    assert run_spinning(tuner, 100, free_cores=2).count(2) > 90
    assert run_spinning(tuner, 1000, free_cores=1) == [2] + [1] * 999
    idle_cores = 1.0
    assert run_spinning(tuner, 100, free_cores=2).count(2) > 75


def test_a_trial_of_more_threads_ends_after_a_step_without_cores() -> None:
    tuner = ThreadTuner(2, True, lambda: 1.0)  # idle, but not for this process: a control group allows it one core
    used = run_spinning(tuner, 2000, free_cores=1)
    assert used.count(2) < 15
    assert (2, 2) not in zip(used, used[1:], strict=False)


def test_a_slower_machine_alone_is_not_a_busy_one() -> None:
    tuner = ThreadTuner(2, True, lambda: 0.0)
    run_spinning(tuner, 100, free_cores=2)
    for _ in range(100):
        tuner.record(1, 0, 3.0, 6.0)
    assert tuner.threads(1, 0) == 2


def test_the_best_number_in_between_is_found() -> None:
    tuner = ThreadTuner(16)
    run(tuner, lambda threads: abs(threads - 6) / 10 + 1, 300)
    assert tuner.threads(1, 0) == 6


def test_trials_become_rare() -> None:
    tuner = ThreadTuner(8)
    run(tuner, QUIET, 5000, noise=0.1)
    chosen = [tuner.threads(1, 0)]
    for _ in range(1000):
        tuner.record(1, 0, QUIET(tuner.threads(1, 0)))
        chosen.append(tuner.threads(1, 0))
    assert sum(n != 8 for n in chosen) < 20


def test_prompts_and_answers_are_judged_separately() -> None:
    tuner = ThreadTuner(4)
    for _ in range(300):
        tuner.record(1, 0, BUSY(tuner.threads(1, 0)))
        tuner.record(0, 128, 128 * QUIET(tuner.threads(0, 128)))
    assert (tuner.threads(1, 0), tuner.threads(0, 128)) == (1, 4)


@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 512), st.floats(1e-6, 10)), max_size=400))
def test_the_number_of_threads_is_always_possible(steps: list[tuple[int, int, float]]) -> None:
    tuner = ThreadTuner(6)
    for answers, prompts, seconds in steps:
        if answers + prompts:
            assert 1 <= tuner.threads(answers, prompts) <= 6
            tuner.record(answers, prompts, seconds)


def test_settled_steps_take_no_part_in_trials() -> None:
    tuner = ThreadTuner(4)
    for _ in range(200):
        assert tuner.threads(1, 0, settled=True) == 4
        tuner.record(1, 0, QUIET(tuner.threads(1, 0)))
