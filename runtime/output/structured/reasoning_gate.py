"""What stands before an answer, such as thoughts: constraints that wait until that is over."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from ...sampling.sampler import Constraint
from .grammar import Grammar


class ReasoningGate:
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


class PrefaceGate:
    """A constraint that another takes over from once a grammar, of what stands before it, has come to its end."""

    def __init__(self, before: Grammar, inner: Constraint) -> None:
        self._before = before
        self._inner = inner

    def mask(self, logits: NDArray[np.float32]) -> None:
        (self._inner if self._before.ended else self._before).mask(logits)

    def accept(self, token: int) -> None:
        (self._inner if self._before.ended else self._before).accept(token)
