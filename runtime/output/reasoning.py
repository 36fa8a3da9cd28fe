"""Thoughts before an answer: a constraint that waits until they are over."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from ..native.sampler import Constraint


class AfterThinking:
    """A constraint that another takes over from once a thought has ended; the answer cannot end before that.

    The model may begin a thought by the token `opening`, first of all, unless the prompt has begun one: `thinking`.
    """

    def __init__(
        self,
        inner: Constraint,
        closing: str,
        opening: int | None,
        piece: Callable[[int], bytes],
        ends: Collection[int],
        *,
        thinking: bool,
    ) -> None:
        self._inner = inner
        self._closing = closing.encode()
        self._opening = opening
        self._piece = piece
        self._ends = np.fromiter(ends, np.int64)
        self._thinking = thinking
        self._first = not thinking
        self._tail = b""

    def mask(self, logits: NDArray[np.float32]) -> None:
        if self._thinking:
            logits[self._ends] = -np.inf
            return
        think = None if self._opening is None or not self._first else logits[self._opening]
        self._inner.mask(logits)
        if think is not None:
            logits[self._opening] = think

    def accept(self, token: int) -> None:
        if self._thinking:
            self._tail = (self._tail + self._piece(token))[-len(self._closing) - 16 :]
            self._thinking = self._closing not in self._tail
        elif self._first and token == self._opening:
            self._thinking = True
        else:
            self._inner.accept(token)
        self._first = False
