"""95 % confidence intervals of proportions, means and ratios. Pure functions.

Proportions use Wilson's interval. Ratios use the studentized bootstrap (Efron and Tibshirani 1993, chapter 12), which
covers skewed sums better than the percentile bootstrap does. Measured: with 24 passages the percentile bootstrap
covered the mean divergence of 400 in 58 to 85 % of draws, the studentized one in 83 to 96 %; with 100 passages 79 to
96 % against 93 to 99 %. The wider of the two-sided and the symmetric interval is used, because sums of both signs with
rare large terms need the symmetric one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Z = 1.959964
_DRAWS = 1000
_SEED = 9


def wilson(proportion: float, n: float) -> tuple[float, float]:
    """Returns the interval of a proportion of `n` independent cases (Wilson 1927)."""
    middle = (proportion + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(proportion * (1 - proportion) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def clustered_proportion_interval(hits: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the interval of sum(hits) / sum(counts) for cases in clusters whose members are alike.

    It is Wilson's for the effective number of independent cases: between the number of clusters and the number of
    cases.
    """
    total = counts.sum()
    proportion = float(hits.sum() / total)
    error = _standard_error(hits - proportion * counts, counts)
    effective = proportion * (1 - proportion) / error**2 if error > 0 else 0.0
    return wilson(proportion, min(max(effective, len(hits)), total))


def change_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Returns the interval of (gained - lost) / n for paired cases that changed one way or the other.

    It is Wald's with half a pair added to each kind (Agresti and Min 2005), so that few pairs without a change do not
    look certain.
    """
    n, up, down = n + 2, gained + 0.5, lost + 0.5
    mean = (up - down) / n
    half = Z * math.sqrt((up + down) / n - mean**2) / math.sqrt(n)
    return max(-1.0, mean - half), min(1.0, mean + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns a mean and its interval."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), *ratio_interval(array, np.ones(len(array)))


def ratio_interval(values: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the interval of sum(values) / sum(counts), from 1000 bootstrap samples; of one entry, its value.

    Entries are resampled, not positions, because positions of one passage are alike. The interval never extends beyond
    the ratios of single entries.
    """
    n, middle = len(values), float(values.sum() / counts.sum())
    around = values - middle * counts
    error = _standard_error(around, counts)
    if error == 0:
        return middle, middle
    squares, products, weights = around**2, around * counts, counts**2
    rng = np.random.default_rng(_SEED)
    distances = []
    for _ in range(_DRAWS):
        times = np.bincount(rng.integers(0, n, n), minlength=n)
        total = times @ counts
        if total:
            off = times @ around / total
            left = times @ squares - 2 * off * (times @ products) + off**2 * (times @ weights)
            if left > 1e-12 * (times @ squares):
                distances.append(off * total / math.sqrt(left * n / (n - 1)))
    if not distances:
        return middle, middle
    far = float(np.quantile(np.abs(distances), 0.95))
    low, high = np.quantile(distances, [0.025, 0.975])
    low, high = min(low, -far), max(high, far)
    single = values[counts > 0] / counts[counts > 0]
    return max(middle - high * error, float(single.min())), min(middle - low * error, float(single.max()))


def _standard_error(around: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """Returns the linearized standard error of a ratio, from entries minus their expected values."""
    n = len(around)
    return 0.0 if n < 2 else math.sqrt(n / (n - 1) * float((around**2).sum())) / float(counts.sum())
