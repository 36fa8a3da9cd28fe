"""Compares one model's token probabilities with another's: KL divergence, top-1 agreement and perplexity.

Pure functions on numpy arrays. Rows are positions, columns are the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...runtime.sampling.sampler import not_finite
from .intervals import clustered_proportion_interval, ratio_interval

LogProbs: TypeAlias = NDArray[np.float32]

WINDOW_NATS = 32.0
"""How far below the most likely token a packed row reaches. With a vocabulary of 150,000 everything below adds up to
2e-9; llama-perplexity's files keep 16 nats, below which everything adds up to 2 %."""

_STEPS = 65535


def log_probs(logits: NDArray[np.float32]) -> LogProbs:
    """Returns the log-softmax of each row. Allocates as much memory as `logits` take.

    Raises `ModelError` if a row contains NaN or infinity.
    """
    largest = logits.max(axis=1, keepdims=True)
    if not np.isfinite(largest).all():
        raise not_finite("the probabilities of the next token")
    shifted = logits - largest
    return _normalized(shifted)


def _normalized(shifted: NDArray[np.float32]) -> LogProbs:
    """Normalizes in place rows whose largest value is 0."""
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def pack(logp: LogProbs) -> NDArray[np.uint16]:
    """Packs rows into two bytes per token: steps of `WINDOW_NATS` / 65535 below the row's most likely token."""
    below = logp.max(axis=1, keepdims=True) - logp
    codes: NDArray[np.uint16] = np.rint(np.minimum(below, WINDOW_NATS) * (_STEPS / WINDOW_NATS)).astype(np.uint16)
    return codes


def unpack(codes: NDArray[np.uint16]) -> LogProbs:
    """Unpacks rows. Each value is off by at most half a step, besides an offset shared by the row."""
    return _normalized(codes * np.float32(-WINDOW_NATS / _STEPS))


def kl_divergence(base: LogProbs, other: LogProbs) -> NDArray[np.float64]:
    """Returns the Kullback-Leibler divergence of `other` from `base` in nats, per row."""
    weights = np.exp(base)
    # the sums are 1 except for the rounding of 32-bit logarithms, which would matter
    total, other_total = _row_sums(weights), _row_sums(np.exp(other))
    terms = base - other
    terms *= weights
    divergences: NDArray[np.float64] = np.maximum(_row_sums(terms) / total - np.log(total) + np.log(other_total), 0.0)
    return divergences


def _row_sums(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sums each row. numpy adds pairwise, so that sums of 150,000 terms are off by 1e-7."""
    return np.asarray(rows.sum(axis=1), np.float64)


@dataclass(frozen=True, slots=True)
class PassageMeasurement:
    """The comparison of one passage with the baseline, position by position.

    `kl` is in nats. `same_top1` says whether both models find the same token most likely. `nll` and `base_nll` are the
    negative log-likelihoods of the right tokens, at positions that have one.
    """

    kl: tuple[float, ...]
    same_top1: tuple[bool, ...]
    nll: tuple[float, ...]
    base_nll: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How close a variant is to the baseline in one modality. `low` and `high` are 95 % confidence intervals, which
    account for the dependence between positions of one passage."""

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


def summarize(passages: Sequence[PassageMeasurement]) -> Fidelity:
    """Pools the positions of all passages. At least one passage must have a right token."""
    kl = np.concatenate([p.kl for p in passages])
    sums = np.array([[sum(p.kl), sum(p.same_top1), len(p.kl)] for p in passages], np.float64)
    losses = np.array([[sum(p.nll), sum(p.nll) - sum(p.base_nll), len(p.nll)] for p in passages], np.float64)
    kl_low, kl_high = ratio_interval(sums[:, 0], sums[:, 2])
    top1_low, top1_high = clustered_proportion_interval(sums[:, 1], sums[:, 2])
    ratio_low, ratio_high = ratio_interval(losses[:, 1], losses[:, 2])
    nll, extra_nll, count = losses.sum(axis=0)
    return Fidelity(
        passages=len(passages),
        positions=len(kl),
        kl_mean=float(kl.mean()),
        kl_low=kl_low,
        kl_high=kl_high,
        kl_p99=float(np.quantile(kl, 0.99)),
        kl_max=float(kl.max()),
        top1=float(sums[:, 1].sum() / len(kl)),
        top1_low=top1_low,
        top1_high=top1_high,
        perplexity=float(np.exp(nll / count)),
        perplexity_ratio=float(np.exp(extra_nll / count)),
        ratio_low=float(np.exp(ratio_low)),
        ratio_high=float(np.exp(ratio_high)),
    )
