"""Chooses the next token from logits. Knows no grammar beyond a mask it is given, and no llama.cpp.

llama.cpp's own samplers leave the same tokens to choose from (tested) but order the whole vocabulary to find them. At
128,000 tokens of a peaked distribution top_p takes them 1.2 ms and temperature alone 1.1 ms, here 0.2 each; at a flat
one top_p takes them 8 ms, more than a small model's step, here 3 to 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...models.errors import EngineError
from ..types.prompt import SampledToken
from ..types.request import Sampling
from .penalties import Penalties

Logits = NDArray[np.float32]
Tokens = NDArray[np.intp]

COLDEST = 1e-4
"""Below this temperature the likeliest token is taken: dividing by much less overflows."""

_NARROWEST, _WIDEST = 1.0, 64.0
"""Distances from the best logit between which the likeliest tokens are looked for."""
_BLOCK = 512
"""Weights summed up at a time; so few tokens are ordered whole."""
_ROWS = 64
"""Rows that the logits are laid out in, to find the likeliest by the best of each column."""
_BANDS, _LAST_BAND = 32, 2047
"""Bands of depth for each unit of logits below the best one, and the number of the last, which has no lower end."""


class Constraint(Protocol):
    """What an answer must look like, token by token."""

    def mask(self, logits: Logits) -> None:
        """Sets the logits of every token that must not come next to minus infinity."""

    def accept(self, token: int) -> None:
        """Takes note of the token that was chosen."""


class Sampler:
    """The choices of one sequence, whose prompt ends in the tokens `prompt`. `banned` tokens are never chosen.

    With `likeliest` it tells how probable the model held each token, and so many of the likeliest ones in its place.
    """

    def __init__(
        self,
        sampling: Sampling,
        banned: frozenset[int] = frozenset(),
        constraint: Constraint | None = None,
        prompt: Iterable[int] = (),
        likeliest: int | None = None,
    ) -> None:
        self._sampling = sampling
        self._temperature = sampling.temperature or 0.0
        self._banned = np.fromiter(banned, np.int64)
        self._constraint = constraint
        self._penalties = Penalties(sampling, prompt)
        self._likeliest = likeliest
        self._random = np.random.default_rng(None if sampling.seed is None else sampling.seed % 2**64)

    def choose(self, logits: Logits) -> SampledToken:
        """The next token. Writes into `logits`."""
        if self._likeliest is None:
            return SampledToken(self._choose(logits))
        best = likeliest(logits, self._likeliest)
        told = log_probabilities(logits)
        return _with(self._choose(logits), told, best)

    def tell(self, logits: Logits, token: int) -> SampledToken:
        """A token that was not chosen but given, as if it had been."""
        return _with(token, log_probabilities(logits), likeliest(logits, self._likeliest or 0))

    def _choose(self, logits: Logits) -> int:
        if not self._penalties.idle:
            self._penalties.apply(logits)
        logits[self._banned] = -np.inf
        if self._constraint is not None:
            self._constraint.mask(logits)
        token = int(logits.argmax())
        if logits[token] == -np.inf:
            raise EngineError("no token may come next: everything is forbidden")
        if self._temperature >= COLDEST:
            token = self._draw(logits)
        if self._constraint is not None:
            self._constraint.accept(token)
        self._penalties.note(token)
        return token

    def _draw(self, logits: Logits) -> int:
        tokens = survivors(logits, self._sampling)
        kept = logits if tokens is None else logits[tokens]
        weights = np.exp((kept - kept.max()) / np.float32(self._temperature))
        place = _place(weights, self._random.random())
        return place if tokens is None else int(tokens[place])


def _with(token: int, told: Logits, best: Tokens) -> SampledToken:
    return SampledToken(token, float(told[token]), tuple((int(t), float(told[t])) for t in best))


def _place(weights: Logits, chance: float) -> int:
    """An index drawn by weight, for a `chance` from 0 to 1. Sums blocks first: one long running sum takes 1.2 ms."""
    if weights.size <= _BLOCK:
        sums = weights.cumsum(dtype=np.float64)
        return _reached(weights, sums, chance * sums[-1])
    blocks = np.add.reduceat(weights, np.arange(0, weights.size, _BLOCK)).cumsum(dtype=np.float64)
    target = chance * blocks[-1]
    block = min(int(blocks.searchsorted(target, side="right")), blocks.size - 1)
    inside = weights[block * _BLOCK : (block + 1) * _BLOCK]
    before = blocks[block - 1] if block else 0.0
    return block * _BLOCK + _reached(inside, inside.cumsum(dtype=np.float64), target - before)


def _reached(weights: Logits, sums: NDArray[np.float64], target: float) -> int:
    place = int(sums.searchsorted(target, side="right"))
    return place if place < sums.size else int(weights.argmax())  # rounding


def survivors(logits: Logits, sampling: Sampling) -> Tokens | None:
    """The tokens that top_k, then top_p, then min_p leave, in no order; `None` where none of them is set."""
    top_k, share, min_p = sampling.top_k or 0, sampling.top_p, sampling.min_p or 0.0
    best = float(logits.max())
    tokens = None
    if top_k:
        tokens = _top(logits, top_k)
    if share is not None and share < 1:
        if tokens is not None:
            mass = share * _mass(logits[tokens] - best)
        else:
            mass = share * _mass(logits - best)
            tokens = _near(logits, best, lambda near: _mass(logits[near] - best) >= mass)
        tokens = _heaviest(tokens, logits[tokens] - best, mass)
    if min_p:
        lowest = best + np.log(min_p)
        tokens = np.flatnonzero(logits >= lowest) if tokens is None else tokens[logits[tokens] >= lowest]
    return tokens


def log_probabilities(logits: Logits) -> Logits:
    """Of all tokens, as the model gives them."""
    depths: Logits = logits - logits.max()
    depths -= np.float32(np.log(_mass(depths)))
    return depths


def likeliest(logits: Logits, count: int) -> Tokens:
    """The `count` likeliest tokens, the best first, of equal ones the lower first."""
    if not count:
        return np.empty(0, np.intp)
    tokens = np.sort(_top(logits, count))
    return tokens[np.argsort(-logits[tokens], kind="stable")]


def _top(logits: Logits, count: int) -> Tokens:
    """The `count` likeliest tokens, in no order, or all that are possible.

    No column of the logits can hold one of them whose best is below the `count`-th best of a column.
    """
    width = logits.size // _ROWS
    body, rest = logits[: width * _ROWS].reshape(_ROWS, width), logits[width * _ROWS :]
    best = np.concatenate((body.max(axis=0), rest)) if width else rest
    least = np.partition(best, -count)[-count] if count < best.size else -np.inf
    if least == -np.inf:
        tokens = np.flatnonzero(logits > -np.inf)
    else:
        columns = np.flatnonzero(best[:width] >= least)
        rows, places = np.nonzero(body[:, columns] >= least)
        tokens = np.concatenate((rows * width + columns[places], width * _ROWS + np.flatnonzero(rest >= least)))
    if tokens.size > count:
        tokens = tokens[np.argpartition(-logits[tokens], count - 1)[:count]]
    return tokens


def _near(logits: Logits, best: float, enough: Callable[[Tokens], bool]) -> Tokens:
    """The tokens within a distance of the best one that is doubled until they are enough, at last all of them."""
    gap = _NARROWEST
    while gap < _WIDEST:
        tokens = np.flatnonzero(logits >= best - gap)
        if enough(tokens):
            return tokens
        gap *= 2
    return np.flatnonzero(logits > -np.inf)


def _mass(depths: Logits) -> float:
    return float(np.exp(depths).sum(dtype=np.float64))


def _heaviest(tokens: Tokens, depths: Logits, mass: float) -> Tokens:
    """The fewest likeliest tokens that weigh `mass` together; a token weighs exp of its logit below the best one's.

    Of many, only the tokens in one band of depth, in which the mass is reached, have to be ordered.
    """
    weights = np.exp(depths, dtype=np.float64)
    if tokens.size <= _BLOCK:
        order = np.argsort(-depths, kind="stable")
        return tokens[order[: int(weights[order].cumsum().searchsorted(mass)) + 1]]
    bands = np.minimum(depths * -_BANDS, _LAST_BAND).astype(np.intp)
    masses = np.bincount(bands, weights).cumsum()
    band = min(int(masses.searchsorted(mass)), masses.size - 1)
    above, edge = bands < band, np.flatnonzero(bands == band)
    edge = edge[np.argsort(depths[edge])[::-1]]
    before = masses[band - 1] if band else 0.0
    reached = int(weights[edge].cumsum().searchsorted(mass - before))
    return np.concatenate((tokens[above], tokens[edge[: reached + 1]]))
