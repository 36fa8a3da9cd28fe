"""The governor of threads, on machines that are only a table of durations."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galago.runtime.engine.thread_tuner import ThreadTuner

Machine = Callable[[int], float]
QUIET: Machine = lambda threads: 1 / threads  # noqa: E731
BUSY: Machine = lambda threads: 1.0 if threads == 1 else 10.0  # noqa: E731


def run(governor: ThreadTuner, machine: Machine, steps: int, noise: float = 0.0, seed: int = 1) -> float:
    """Seconds that so many steps of one answer take."""
    rng, total = Random(seed), 0.0
    for _ in range(steps):
        seconds = machine(governor.threads(1, 0)) * (1 + noise * rng.uniform(-1, 1))
        governor.measured(1, 0, seconds)
        total += seconds
    return total


@pytest.mark.parametrize("most", [1, 2, 4, 6, 16])
def test_a_quiet_machine_gets_all_its_threads_at_little_cost(most: int) -> None:
    governor = ThreadTuner(most)
    assert run(governor, QUIET, 2000, noise=0.1) < 1.03 * 2000 / most
    assert governor.threads(1, 0) == most


@pytest.mark.parametrize("most", [2, 4, 16])
def test_a_busy_machine_is_soon_given_fewer(most: int) -> None:
    governor = ThreadTuner(most)
    run(governor, BUSY, 60)
    assert run(governor, BUSY, 1000, noise=0.1) < 1.1 * 1000


def test_it_follows_a_machine_that_becomes_busy_and_quiet_again() -> None:
    governor = ThreadTuner(4)
    run(governor, QUIET, 3000)
    run(governor, BUSY, 60)
    assert run(governor, BUSY, 500) < 1.15 * 500
    run(governor, QUIET, 600)
    assert run(governor, QUIET, 500) < 1.15 * 500 / 4


def test_the_best_number_between_is_found() -> None:
    governor = ThreadTuner(16)
    run(governor, lambda threads: abs(threads - 6) / 10 + 1, 300)
    assert governor.threads(1, 0) == 6


def test_it_settles() -> None:
    governor = ThreadTuner(8)
    run(governor, QUIET, 5000, noise=0.1)
    chosen = [governor.threads(1, 0)]
    for _ in range(1000):
        governor.measured(1, 0, QUIET(governor.threads(1, 0)))
        chosen.append(governor.threads(1, 0))
    assert sum(n != 8 for n in chosen) < 20


def test_prompts_and_answers_are_judged_apart() -> None:
    governor = ThreadTuner(4)
    for _ in range(300):
        governor.measured(1, 0, BUSY(governor.threads(1, 0)))
        governor.measured(0, 128, 128 * QUIET(governor.threads(0, 128)))
    assert (governor.threads(1, 0), governor.threads(0, 128)) == (1, 4)


@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 512), st.floats(1e-6, 10)), max_size=400))
def test_the_number_is_always_possible(steps: list[tuple[int, int, float]]) -> None:
    governor = ThreadTuner(6)
    for answers, prompts, seconds in steps:
        if answers + prompts:
            assert 1 <= governor.threads(answers, prompts) <= 6
            governor.measured(answers, prompts, seconds)


def test_a_trial_touches_no_step_that_is_not_judged() -> None:
    governor = ThreadTuner(4)
    for _ in range(200):
        assert governor.threads(1, 0, settled=True) == 4
        governor.measured(1, 0, QUIET(governor.threads(1, 0)))
