"""95 % intervals of shares, means and ratios. Pure functions; knows nothing of what is measured.

Shares have Wilson's interval, ratios that of the studentized bootstrap (Efron and Tibshirani 1993, chapter 12), which
holds skewed sums where the percentile bootstrap does not: of 24 passages the latter held the mean divergence of 400 in
58 to 85 % of draws, this one in 83 to 96 %; of 100 in 79 to 96 % and in 93 to 99 %. The wider of the two-sided and the
symmetric one counts, since sums of both signs with rare large terms need the latter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

Z = 1.959964
_DRAWS = 1000
_SEED = 9


def wilson(share: float, n: float) -> tuple[float, float]:
    """Of a share of `n` independent cases (Wilson 1927)."""
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def share_interval(hits: Array, counts: Array) -> tuple[float, float]:
    """For sum(hits) / sum(counts), whose cases come in clusters that are alike: Wilson's, for as many cases as tell as
    much on their own. That is the clusters at least, and where all cases are hits, or none."""
    total = counts.sum()
    share = float(hits.sum() / total)
    spread = _deviation(hits - share * counts, counts)
    alone = share * (1 - share) / spread**2 if spread > 0 else 0.0
    return wilson(share, min(max(alone, len(hits)), total))


def change_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """For (gained - lost) / n, of pairs that changed one way or the other: Wald's with half a pair more of each kind
    (Agresti and Min 2005), so that no change among few pairs is not taken for certain."""
    n, up, down = n + 2, gained + 0.5, lost + 0.5
    mean = (up - down) / n
    half = Z * math.sqrt((up + down) / n - mean**2) / math.sqrt(n)
    return max(-1.0, mean - half), min(1.0, mean + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """A mean with its interval."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), *ratio_interval(array, np.ones(len(array)))


def ratio_interval(values: Array, counts: Array) -> tuple[float, float]:
    """For sum(values) / sum(counts), by drawing as many of the entries again a thousand times; of one entry, its value.

    Entries, not positions, are drawn: positions of one passage are alike. The interval is no wider than the entries.
    """
    n, middle = len(values), float(values.sum() / counts.sum())
    around = values - middle * counts
    spread = _deviation(around, counts)
    if spread == 0:
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
    return max(middle - high * spread, float(single.min())), min(middle - low * spread, float(single.max()))


def _deviation(around: Array, counts: Array) -> float:
    """The standard error of a ratio, of entries after their expected values are taken away (linearized)."""
    n = len(around)
    return 0.0 if n < 2 else math.sqrt(n / (n - 1) * float((around**2).sum())) / float(counts.sum())
