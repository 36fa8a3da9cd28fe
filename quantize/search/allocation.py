"""Chooses one option per group, with the least total cost within a byte budget. Knows nothing about models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...models.errors import ConfigError

_MAX_UNITS = 1 << 15


class Option(NamedTuple):
    """A possible choice for a group. Size in bytes and cost are not negative."""

    size: int
    cost: float


def allocate(groups: Sequence[Sequence[Option]], budget: int) -> list[int]:
    """Returns the index of the chosen option of each group. Raises `ConfigError` if even the smallest do not fit.

    Solves a multiple-choice knapsack by dynamic programming over bytes. It is exact if the budget is at most 32,768
    bytes above the smallest choice. Otherwise bytes are counted in 32,768 units, with sizes rounded up: no better
    choice exists that leaves as many units unused as there are groups, a third of a percent of that span for a hundred
    groups. The bytes that rounding leaves are spent on the best single changes that fit.
    """
    least = [min(option.size for option in options) for options in groups]
    spare = budget - sum(least)
    if spare < 0:
        raise ConfigError(f"{budget} bytes are not enough; the smallest variant needs {sum(least)}", "size")
    unit = max(1, -(-spare // _MAX_UNITS))
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
    return _spend_rest(groups, picks, budget)


def _spend_rest(groups: Sequence[Sequence[Option]], picks: list[int], budget: int) -> list[int]:
    """Changes single options as long as a cheaper one fits."""
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
