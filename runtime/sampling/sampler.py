"""Samples the next token from logits: penalties, grammar mask, top_k, top_p, min_p and temperature, in numpy.

llama.cpp's own samplers leave the same tokens to choose from (tested), but they sort the whole vocabulary. With 128,000
tokens and a peaked distribution, top_p takes them 1.2 ms and temperature alone 1.1 ms; here each takes 0.2 ms. With a
flat distribution top_p takes them 8 ms, more than a small model's step; here 3 to 4 ms.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...models.errors import EngineError, ModelError
from ..types.prompt import SampledToken
from ..types.request import Sampling

Logits = NDArray[np.float32]
Tokens = NDArray[np.intp]

MIN_TEMPERATURE = 1e-4
"""Below this temperature the most probable token is taken: dividing by much less overflows."""

REPEAT_WINDOW_TOKENS = 64
"""Last tokens that repeat_penalty looks at, those of the prompt included: llama.cpp's own default."""

_FIRST_GAP, _MAX_GAP = 1.0, 64.0
"""First and largest distance from the best logit within which the most probable tokens are searched."""

_BLOCK = 512
"""Weights that are summed at a time; also the most tokens that are sorted directly."""

_ROWS = 64
"""Rows that the logits are arranged in, to find the most probable ones by the best of each column."""

_PROPOSALS = 64
"""Random tokens that are tried first if all tokens are possible. With an average weight of 0.1, one of them is accepted
in 999 of 1,000 steps."""

_NEAR_DEPTH = 16.0
"""Distance from the best logit, in units of temperature, within which tokens count as near it. Others weigh less than
1e-7 each."""

_BANDS_PER_LOGIT, _LAST_BAND = 32, 2047
"""Bands of distance from the best logit. The last one is open-ended."""


class Constraint(Protocol):
    """Restricts an answer token by token, as a grammar does."""

    def mask(self, logits: Logits) -> None:
        """Sets the logits of every token that must not come next to minus infinity."""

    def accept(self, token: int) -> None:
        """Records the token that was sampled."""


class Penalties:
    """Changes one sequence's logits, depending on the tokens sampled so far.

    `repeat_penalty` is llama.cpp's: the logit of a token among the last `REPEAT_WINDOW_TOKENS` is divided by it if
    positive, else multiplied. `frequency_penalty` and `presence_penalty` are OpenAI's: for a token that occurs c times
    in the answer, c times the former is subtracted and, if c > 0, the latter once. `logit_bias` is added.
    """

    def __init__(self, sampling: Sampling, prompt: Iterable[int] = ()) -> None:
        self._repeat = sampling.repeat_penalty or 1.0
        self._recent = deque(prompt, REPEAT_WINDOW_TOKENS)
        self._frequency = sampling.frequency_penalty or 0.0
        self._presence = sampling.presence_penalty or 0.0
        self._sampled: set[int] = set()
        self._bias = dict(sampling.logit_bias)
        self._offsets: Logits | None = None
        self.are_neutral = self._repeat == 1 and not (self._frequency or self._presence or self._bias)

    def apply(self, logits: Logits) -> None:
        """Changes the logits in place. One addition to all of them costs less than looking up the affected ones."""
        if self._offsets is None:
            self._offsets = np.zeros_like(logits)
            for token, bias in self._bias.items():
                self._offsets[token] = bias
        if self._repeat != 1 and self._recent:
            recent = np.fromiter(set(self._recent), np.intp)
            values = logits[recent]
            logits[recent] = np.where(values > 0, values / self._repeat, values * self._repeat)
        logits += self._offsets

    def record(self, token: int) -> None:
        """Records the token that was sampled."""
        self._recent.append(token)
        if self._offsets is not None:
            self._offsets[token] -= self._frequency + (0.0 if token in self._sampled else self._presence)
        self._sampled.add(token)


class Sampler:
    """Samples the tokens of one sequence, whose prompt ends in the tokens `prompt`. Never samples `banned` tokens.

    With `top_logprobs` it returns each token's log-probability and those of that many most probable tokens.
    The first `min_tokens` tokens are not among `end_tokens`.
    """

    def __init__(
        self,
        sampling: Sampling,
        banned: frozenset[int] = frozenset(),
        constraint: Constraint | None = None,
        prompt: Iterable[int] = (),
        top_logprobs: int | None = None,
        end_tokens: frozenset[int] = frozenset(),
        min_tokens: int = 0,
    ) -> None:
        self._sampling = sampling
        self._end_tokens = np.fromiter(end_tokens, np.int64)
        self._min_tokens_left = min_tokens
        self._temperature = sampling.temperature or 0.0
        self._banned = np.fromiter(banned, np.int64)
        self._constraint = constraint
        self._penalties = Penalties(sampling, prompt)
        self._top_logprobs = top_logprobs
        self._random = np.random.default_rng(None if sampling.seed is None else sampling.seed % 2**64)

    def sample(self, logits: Logits) -> SampledToken:
        """The next token. Writes into `logits`."""
        if self._top_logprobs is None:
            return SampledToken(self._sample(logits))
        check_finite(logits)
        top = top_tokens(logits, self._top_logprobs)
        logprobs = log_probabilities(logits)
        return _with_logprobs(self._sample(logits), logprobs, top)

    def score(self, logits: Logits, token: int) -> SampledToken:
        """A given token with its log-probability, as if it had been sampled."""
        check_finite(logits)
        return _with_logprobs(token, log_probabilities(logits), top_tokens(logits, self._top_logprobs or 0))

    def _sample(self, logits: Logits) -> int:
        if not self._penalties.are_neutral:
            self._penalties.apply(logits)
        logits[self._banned] = -np.inf
        if self._min_tokens_left > 0:
            self._min_tokens_left -= 1
            logits[self._end_tokens] = -np.inf
        if self._constraint is not None:
            self._constraint.mask(logits)
        token = best_token(logits) if self._temperature < MIN_TEMPERATURE else self._draw(logits)
        if self._constraint is not None:
            self._constraint.accept(token)
        self._penalties.record(token)
        return token

    def _draw(self, logits: Logits) -> int:
        best = _best_logit(logits)
        tokens = candidates(logits, self._sampling)
        if tokens is None:
            return _draw_from_all(logits, best, self._temperature, self._random)
        weights = _weights(logits[tokens], best, self._temperature)
        return int(tokens[_weighted_index(weights, self._random.random())])


def _weights(logits: Logits, best: np.float32, temperature: float) -> Logits:
    weights: Logits = np.exp((logits - best) / np.float32(temperature))
    return weights


def _draw_from_all(logits: Logits, best: np.float32, temperature: float, random: np.random.Generator) -> int:
    """A token drawn from the whole distribution, without the weights of all tokens where possible: they take longer
    than everything else between two steps.

    If the distribution is flat, one of a few random tokens is accepted (rejection sampling: each with its weight as the
    probability, that of the best being 1). If it is peaked, the tokens near the best have nearly all the weight: they
    are summed, and the others only if the draw falls beyond what those could weigh at most.
    """
    proposals = random.integers(logits.size, size=_PROPOSALS)
    accepted = random.random(_PROPOSALS) < _weights(logits[proposals], best, temperature)
    if accepted.any():
        return int(proposals[accepted.argmax()])
    near = np.flatnonzero(logits >= best - np.float32(_NEAR_DEPTH * temperature))
    weights = _weights(logits[near], best, temperature)
    near_mass = float(weights.sum(dtype=np.float64))
    most_others = (logits.size - near.size) * math.exp(-_NEAR_DEPTH)
    point = random.random()
    if point * (near_mass + most_others) >= near_mass:
        others = _weights(logits, best, temperature)
        others[near] = 0
        if point * (near_mass + float(others.sum(dtype=np.float64))) >= near_mass:
            return _weighted_index(others, random.random())
    return int(near[_weighted_index(weights, random.random())])


def best_token(logits: Logits) -> int:
    """The most probable token. Raises `ModelError` if the model computed NaN, which `argmax` takes for the largest."""
    token = int(logits.argmax())
    _check_best(logits[token])
    return token


def _best_logit(logits: Logits) -> np.float32:
    best: np.float32 = logits.max()
    _check_best(best)
    return best


def _check_best(logit: np.float32) -> None:
    if not math.isfinite(logit):
        if logit == -np.inf:
            raise EngineError("no token is allowed to come next")
        raise not_finite("the probabilities of the next token")


def check_finite(logits: Logits) -> None:
    """Raises `ModelError` if the model computed NaN or infinity."""
    if not math.isfinite(logits.max()):
        raise not_finite("the probabilities of the next token")


def not_finite(wanted: str) -> ModelError:
    """The error of a model that computes NaN or infinity instead of what is wanted."""
    return ModelError(
        f"the model computes NaN or infinity instead of {wanted}: its weights are damaged, or too large for their "
        "type; download it again, or use another quantization",
        "model",
    )


def _with_logprobs(token: int, logprobs: Logits, top: Tokens) -> SampledToken:
    return SampledToken(token, float(logprobs[token]), tuple((int(t), float(logprobs[t])) for t in top))


def _weighted_index(weights: Logits, fraction: float) -> int:
    """The index where the running sum reaches a `fraction` of all weights.

    Sums blocks first: one long running sum takes 1.2 ms.
    """
    if weights.size <= _BLOCK:
        sums = weights.cumsum(dtype=np.float64)
        return _index_at(weights, sums, fraction * sums[-1])
    rest = weights.size % _BLOCK
    sums = weights[: weights.size - rest].reshape(-1, _BLOCK).sum(axis=1)
    blocks = (np.append(sums, weights[-rest:].sum()) if rest else sums).cumsum(dtype=np.float64)
    target = fraction * blocks[-1]
    block = min(int(blocks.searchsorted(target, side="right")), blocks.size - 1)
    inside = weights[block * _BLOCK : (block + 1) * _BLOCK]
    before = float(blocks[block - 1]) if block else 0.0
    return block * _BLOCK + _index_at(inside, inside.cumsum(dtype=np.float64), target - before)


def _index_at(weights: Logits, sums: NDArray[np.float64], target: float) -> int:
    index = int(sums.searchsorted(target, side="right"))
    return index if index < sums.size else int(weights.argmax())  # rounding


def candidates(logits: Logits, sampling: Sampling) -> Tokens | None:
    """The tokens that top_k, then top_p, then min_p leave, in any order; `None` if none of them is set."""
    top_k, top_p, min_p = sampling.top_k or 0, sampling.top_p, sampling.min_p or 0.0
    best = float(logits.max())
    tokens = None
    if top_k:
        tokens = _top_unordered(logits, top_k)
    if top_p is not None and top_p < 1:
        if tokens is not None:
            mass = top_p * _mass(logits[tokens] - best)
        else:
            mass = top_p * _mass(logits - best)
            tokens = _near_best(logits, best, lambda near: _mass(logits[near] - best) >= mass)
        tokens = _top_mass(tokens, logits[tokens] - best, mass)
    if min_p:
        lowest = best + np.log(min_p)
        tokens = np.flatnonzero(logits >= lowest) if tokens is None else tokens[logits[tokens] >= lowest]
    return tokens


def log_probabilities(logits: Logits) -> Logits:
    """The log-probabilities of all tokens, as the model gives them."""
    depths: Logits = logits - logits.max()
    depths -= np.float32(np.log(_mass(depths)))
    return depths


def top_tokens(logits: Logits, count: int) -> Tokens:
    """The `count` most probable tokens, the best first; of equal ones, the lower id first."""
    if not count:
        return np.empty(0, np.intp)
    tokens = np.sort(_top_unordered(logits, count))
    return tokens[np.argsort(-logits[tokens], kind="stable")]


def _top_unordered(logits: Logits, count: int) -> Tokens:
    """The `count` most probable tokens in any order, or all that are possible.

    Arranges the logits in columns. A column whose best is below the `count`-th best of all columns holds none of them.
    """
    width = logits.size // _ROWS
    body, rest = logits[: width * _ROWS].reshape(_ROWS, width), logits[width * _ROWS :]
    best = np.concatenate((body.max(axis=0), rest)) if width else rest
    least = np.partition(best, -count)[-count] if count < best.size else -np.inf
    if least == -np.inf:
        tokens = np.flatnonzero(logits > -np.inf)
    else:
        columns = np.flatnonzero(best[:width] >= least)
        rows, offsets = np.nonzero(body[:, columns] >= least)
        tokens = np.concatenate((rows * width + columns[offsets], width * _ROWS + np.flatnonzero(rest >= least)))
    if tokens.size > count:
        tokens = tokens[np.argpartition(-logits[tokens], count - 1)[:count]]
    return tokens


def _near_best(logits: Logits, best: float, enough: Callable[[Tokens], bool]) -> Tokens:
    """The tokens within a distance of the best one. The distance is doubled until they are enough."""
    gap = _FIRST_GAP
    while gap < _MAX_GAP:
        tokens = np.flatnonzero(logits >= best - gap)
        if enough(tokens):
            return tokens
        gap *= 2
    return np.flatnonzero(logits > -np.inf)


def _mass(depths: Logits) -> float:
    return float(np.exp(depths).sum(dtype=np.float64))


def _top_mass(tokens: Tokens, depths: Logits, mass: float) -> Tokens:
    """The smallest set of most probable tokens with a total weight of `mass`; a token's weight is exp of its depth, its
    logit minus the best one.

    If there are many, only those in the band of depths where the mass is reached have to be sorted.
    """
    weights = np.exp(depths, dtype=np.float64)
    if tokens.size <= _BLOCK:
        order = np.argsort(-depths, kind="stable")
        return tokens[order[: int(weights[order].cumsum().searchsorted(mass)) + 1]]
    bands = np.minimum(depths * -_BANDS_PER_LOGIT, _LAST_BAND).astype(np.intp)
    masses = np.bincount(bands, weights).cumsum()
    band = min(int(masses.searchsorted(mass)), masses.size - 1)
    above, edge = bands < band, np.flatnonzero(bands == band)
    edge = edge[np.argsort(depths[edge])[::-1]]
    before = masses[band - 1] if band else 0.0
    reached = int(weights[edge].cumsum().searchsorted(mass - before))
    return np.concatenate((tokens[above], tokens[edge[: reached + 1]]))
