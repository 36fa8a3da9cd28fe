"""The best choice under a budget: one option of each group, the least cost that so many bytes have room for.

Knows no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...models.errors import ConfigError

_UNITS = 1 << 15


class Option(NamedTuple):
    """What a group may become: bytes it takes, and what it costs, none of it negative."""

    size: int
    cost: float


def allocate(groups: Sequence[Sequence[Option]], budget: int) -> list[int]:
    """The index of the chosen option of each group. Raises `ConfigError` where not even the smallest ones fit.

    A multiple-choice knapsack by dynamic programming over bytes. Exact where the budget is at most 32,768 bytes above
    the smallest choice. Else bytes are counted in 32,768 units, sizes rounded up: no choice is better that leaves as
    many units unused as there are groups, a third of a percent of that span for a hundred groups. What rounding leaves
    is spent on the best single change that fits.
    """
    least = [min(option.size for option in options) for options in groups]
    spare = budget - sum(least)
    if spare < 0:
        raise ConfigError(f"{budget} bytes do not suffice; the smallest variant takes {sum(least)}", "size")
    unit = max(1, -(-spare // _UNITS))
    room = spare // unit + 1
    best = np.zeros(room)
    chosen = np.zeros((len(groups), room), np.int16)
    for i, options in enumerate(groups):
        total = np.full((len(options), room), np.inf)
        for j, option in enumerate(options):
            extra = -(-(option.size - least[i]) // unit)
            if extra < room:
                total[j, extra:] = best[: room - extra] + option.cost
        chosen[i] = total.argmin(axis=0)
        best = total.min(axis=0)
    picks, left = [0] * len(groups), room - 1
    for i in reversed(range(len(groups))):
        picks[i] = int(chosen[i, left])
        left -= -(-(groups[i][picks[i]].size - least[i]) // unit)
    return _filled(groups, picks, budget)


def _filled(groups: Sequence[Sequence[Option]], picks: list[int], budget: int) -> list[int]:
    """Changes single options as long as one fits that costs less."""
    while True:
        left = budget - sum(options[pick].size for options, pick in zip(groups, picks, strict=True))
        gains = [
            (options[pick].cost - option.cost, i, j)
            for i, (options, pick) in enumerate(zip(groups, picks, strict=True))
            for j, option in enumerate(options)
            if option.size - options[pick].size <= left and option.cost < options[pick].cost
        ]
        if not gains:
            return picks
        _, i, j = max(gains)
        picks[i] = j
