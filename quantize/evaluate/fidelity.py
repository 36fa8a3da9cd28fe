"""How far one model's probabilities are from another's: divergence, agreement and perplexity.

Pure functions on numpy arrays; knows no model, no file and no text. Rows are positions, columns the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .intervals import ratio_interval, share_interval

Floats: TypeAlias = NDArray[np.float32]

WINDOW = 32.0
"""Nats below the likeliest token that a packed row tells apart. At a vocabulary of 150,000 what lies lower adds up to
2e-9; llama-perplexity's files keep 16 nats, below which it adds up to 2 %."""

_STEPS = 65535


def log_probs(logits: Floats) -> Floats:
    """The logarithms of the probabilities that logits stand for, row by row; needs as much memory again."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return _normalized(shifted)


def _normalized(shifted: Floats) -> Floats:
    """Of logits whose largest is 0 in each row."""
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def pack(logp: Floats) -> NDArray[np.uint16]:
    """Rows in two bytes a token: how many steps of `WINDOW` / 65535 below the row's likeliest."""
    below = logp.max(axis=1, keepdims=True) - logp
    codes: NDArray[np.uint16] = np.rint(np.minimum(below, WINDOW) * (_STEPS / WINDOW)).astype(np.uint16)
    return codes


def unpack(codes: NDArray[np.uint16]) -> Floats:
    """Packed rows as logarithms of probabilities again, each off by at most `WINDOW` / 65535 / 2 and what all share."""
    return _normalized(codes * np.float32(-WINDOW / _STEPS))


def divergence(base: Floats, other: Floats) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of `other` from `base` in nats, per row; both are logarithms of probabilities."""
    weights = np.exp(base)
    total, other_total = _sums(weights), _sums(np.exp(other))  # 1 but for the 32 bits of a logarithm, which would count
    terms = base - other
    terms *= weights
    found: NDArray[np.float64] = np.maximum(_sums(terms) / total - np.log(total) + np.log(other_total), 0.0)
    return found


def _sums(rows: Floats) -> NDArray[np.float64]:
    """Of each row; numpy adds up pairwise, so that 150,000 terms are off by 1e-7."""
    return np.asarray(rows.sum(axis=1), np.float64)


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
    """Of one variant in one sense. `low` and `high` are 95 % intervals; positions of a passage are not independent."""

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
    top_low, top_high = share_interval(sums[:, 1], sums[:, 2])
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
