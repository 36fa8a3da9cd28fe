"""Contexts compute on the threads of a pool, which several may share, and which end with the pool."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from galago.models.registry.resolve import resolve
from galago.runtime.llamacpp.context import Context
from galago.runtime.llamacpp.library import features
from galago.runtime.llamacpp.thread_pool import ThreadPool
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.types.prompt import BatchToken

ROWS = [BatchToken(token, position, 0, position == 7) for position, token in enumerate(range(300, 308))]
has_own_threads = pytest.mark.skipif("OPENMP" in features(), reason="this build of llama.cpp computes with OpenMP")


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    loaded = Weights(resolve("builtin").weights)
    yield loaded
    loaded.close()


def logits(context: Context) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    context.decode(ROWS)
    found = context.logits(7).copy()
    context.truncate(0, 0)
    return found


def test_a_pool_computes_what_one_thread_does(weights: Weights) -> None:
    one, three = Context(weights, 256, 1, 1), Context(weights, 256, 1, 3)
    try:
        expected = logits(one)
        assert np.isfinite(expected).all()
        for threads in (3, 1, 2, 3):
            three.use_threads(threads)
            np.testing.assert_allclose(logits(three), expected, atol=1e-3)
    finally:
        one.close()
        three.close()


def test_contexts_share_a_pool(weights: Weights) -> None:
    pool = ThreadPool(2)
    contexts = [Context(weights, 256, 1, 2, pool=pool) for _ in range(2)]
    first, second = map(logits, contexts)
    for context in contexts:
        context.close()
    pool.close()
    np.testing.assert_array_equal(first, second)


@has_own_threads
def test_the_threads_of_a_context_end_with_it(weights: Weights) -> None:
    before = psutil.Process().num_threads()
    context = Context(weights, 256, 1, 4)
    assert psutil.Process().num_threads() == before + 3
    logits(context)
    context.close()
    assert psutil.Process().num_threads() == before


@has_own_threads
def test_a_step_starts_no_threads(weights: Weights) -> None:
    context = Context(weights, 256, 1, 4)
    try:
        logits(context)
        threads = {thread.id for thread in psutil.Process().threads()}
        logits(context)
        assert {thread.id for thread in psutil.Process().threads()} == threads
    finally:
        context.close()
