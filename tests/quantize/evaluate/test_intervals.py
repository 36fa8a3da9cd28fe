"""Confidence intervals have their nominal coverage and stay within possible values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from galago.quantize.evaluate.intervals import (
    change_interval,
    clustered_proportion_interval,
    mean_interval,
    ratio_interval,
    wilson,
)

Array = NDArray[np.float64]
RNG = np.random.default_rng(4)
COUNTS = RNG.integers(1, 9, 4000).astype(float)
KINDS: dict[str, tuple[Callable[[Array, Array], tuple[float, float]], Array]] = {
    "even": (ratio_interval, COUNTS * RNG.normal(1, 0.2, 4000)),
    "skewed": (ratio_interval, COUNTS * RNG.exponential(size=4000) ** 2),
    "common": (clustered_proportion_interval, RNG.binomial(COUNTS.astype(int), RNG.beta(8, 2, 4000)).astype(float)),
    "rarely missed": (clustered_proportion_interval, RNG.binomial(COUNTS.astype(int), 0.998).astype(float)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drawn", [50, 200])
def test_intervals_cover_the_population_value_nine_times_of_ten(kind: str, drawn: int) -> None:
    interval, values = KINDS[kind]
    whole, held, rng = values.sum() / COUNTS.sum(), 0, np.random.default_rng(7)
    for _ in range(40):
        chosen = rng.choice(4000, drawn, replace=False)
        low, high = interval(values[chosen], COUNTS[chosen])
        held += low <= whole <= high
    assert held >= 36


def test_changes_in_few_pairs_are_uncertain() -> None:
    assert change_interval(0, 0, 12)[0] < -0.1 < 0.1 < change_interval(0, 0, 12)[1]
    low, high = change_interval(2, 40, 400)
    assert low < -38 / 400 < high < 0
    held, rng = 0, np.random.default_rng(3)
    for _ in range(40):
        gained, lost, _same = rng.multinomial(100, [0.01, 0.04, 0.95])
        low, high = change_interval(int(gained), int(lost), 100)
        held += low <= -0.03 <= high
    assert held >= 36


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(1, 9)), min_size=1, max_size=30))
def test_an_interval_contains_its_ratio_and_stays_within_the_entries(pairs: list[tuple[float, int]]) -> None:
    values, counts = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    low, high = ratio_interval(values, counts)
    middle = values.sum() / counts.sum()
    single = values / counts
    assert single.min() - 1e-9 <= low <= middle + 1e-6 and middle - 1e-6 <= high <= single.max() + 1e-9


@given(st.floats(0, 1), st.integers(1, 1000))
def test_an_interval_of_a_proportion_stays_within_0_and_1(share: float, n: int) -> None:
    low, high = wilson(share, n)
    assert 0 <= low <= share + 1e-9 and share - 1e-9 <= high <= 1


def test_equal_values_give_an_interval_without_width() -> None:
    assert mean_interval([1.0, 1.0]) == (1.0, 1.0, 1.0)
    assert clustered_proportion_interval(np.full(400, 3.0), np.full(400, 3.0))[0] == pytest.approx(0.99, abs=0.002)
