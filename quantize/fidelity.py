"""How far one model's probabilities are from another's: divergence, agreement, perplexity, and how certain they are.

Pure functions on numpy arrays; knows no model, no file and no text. Rows are positions, columns the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

WINDOW = 32.0
"""Nats below the likeliest token that a packed row tells apart. At a vocabulary of 150,000 what lies lower adds up to
2e-9; llama-perplexity's files keep 16 nats, below which it adds up to 2 %."""

_STEPS = 65535
_DRAWS = 1000
_SEED = 9


def log_probs(logits: Floats) -> Floats:
    """The logarithms of the probabilities that logits stand for, row by row; needs as much memory again."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)
    return np.asarray(shifted - np.log(total), np.float32)


def pack(logp: Floats) -> NDArray[np.uint16]:
    """Rows in two bytes a token: how many steps of `WINDOW` / 65535 below the row's likeliest."""
    below = logp.max(axis=1, keepdims=True) - logp
    codes: NDArray[np.uint16] = np.rint(np.minimum(below, WINDOW) * (_STEPS / WINDOW)).astype(np.uint16)
    return codes


def unpack(codes: NDArray[np.uint16]) -> Floats:
    """Packed rows as logarithms of probabilities again, each off by at most `WINDOW` / 65535 / 2 and what all share."""
    return log_probs(codes * np.float32(-WINDOW / _STEPS))


def divergence(base: Floats, other: Floats) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of `other` from `base` in nats, per row; both are logarithms of probabilities."""
    sums: NDArray[np.float64] = (np.exp(base) * (base - other)).sum(axis=1, dtype=np.float64)
    return np.maximum(sums, 0.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one passage gave, position by position, after the baseline.

    `kl` in nats and `same`, whether both find the same token likeliest, are of each position; `nll` is of those that
    have a right token, minus the logarithm of its probability, and `base_nll` the baseline's.
    """

    kl: tuple[float, ...]
    same: tuple[bool, ...]
    nll: tuple[float, ...]
    base_nll: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Of one variant in one sense. `low` and `high` are 95 % intervals, by resampling passages."""

    passages: int
    positions: int
    kl_mean: float
    kl_low: float
    kl_high: float
    kl_p99: float
    kl_max: float
    top1: float
    top1_low: float
    top1_high: float
    perplexity: float
    perplexity_ratio: float
    ratio_low: float
    ratio_high: float


def summarize(passages: Sequence[Measured]) -> Fidelity:
    """All positions of all passages as one. There must be a passage that has a right token."""
    kl = np.concatenate([p.kl for p in passages])
    sums = np.array([[sum(p.kl), sum(p.same), len(p.kl)] for p in passages], np.float64)
    losses = np.array([[sum(p.nll), sum(p.nll) - sum(p.base_nll), len(p.nll)] for p in passages], np.float64)
    kl_low, kl_high = ratio_interval(sums[:, 0], sums[:, 2])
    top_low, top_high = ratio_interval(sums[:, 1], sums[:, 2])
    ratio_low, ratio_high = ratio_interval(losses[:, 1], losses[:, 2])
    nll, more, count = losses.sum(axis=0)
    return Fidelity(
        passages=len(passages),
        positions=len(kl),
        kl_mean=float(kl.mean()),
        kl_low=kl_low,
        kl_high=kl_high,
        kl_p99=float(np.quantile(kl, 0.99)),
        kl_max=float(kl.max()),
        top1=float(sums[:, 1].sum() / len(kl)),
        top1_low=top_low,
        top1_high=top_high,
        perplexity=float(np.exp(nll / count)),
        perplexity_ratio=float(np.exp(more / count)),
        ratio_low=float(np.exp(ratio_low)),
        ratio_high=float(np.exp(ratio_high)),
    )


def ratio_interval(values: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float]:
    """A 95 % interval for sum(values) / sum(counts), by drawing as many of the entries again a thousand times.

    Entries, not positions, are drawn: positions of one passage are alike (the percentile bootstrap over clusters).
    """
    n = len(values)
    rng = np.random.default_rng(_SEED)
    ratios = np.empty(_DRAWS)
    for i in range(_DRAWS):
        times = np.bincount(rng.integers(0, n, n), minlength=n)
        total = times @ counts
        ratios[i] = times @ values / total if total else np.nan
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """A mean with its 95 % interval."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), *ratio_interval(array, np.ones(len(array)))
