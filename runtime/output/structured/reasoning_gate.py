"""Constraints that start to apply after the reasoning, or after the header that precedes the answer."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from ...sampling.sampler import Constraint
from .grammar import Grammar


class ReasoningGate:
    """Applies another constraint once the reasoning has ended. The answer cannot end within the reasoning.

    The model may open the reasoning with the token `opening` as its first one, unless the prompt has opened it
    (`in_reasoning`).
    """

    def __init__(
        self,
        inner: Constraint,
        closing: str,
        opening: int | None,
        piece: Callable[[int], bytes],
        end_tokens: Collection[int],
        *,
        in_reasoning: bool,
    ) -> None:
        self._inner = inner
        self._closing = closing.encode()
        self._opening = opening
        self._piece = piece
        self._end_tokens = np.fromiter(end_tokens, np.int64)
        self._in_reasoning = in_reasoning
        self._at_first_token = not in_reasoning
        self._recent_bytes = b""

    def mask(self, logits: NDArray[np.float32]) -> None:
        if self._in_reasoning:
            logits[self._end_tokens] = -np.inf
            return
        may_open = self._opening is not None and self._at_first_token
        opening_logit = logits[self._opening] if may_open else None
        self._inner.mask(logits)
        if opening_logit is not None:
            logits[self._opening] = opening_logit

    def accept(self, token: int) -> None:
        if self._in_reasoning:
            self._recent_bytes = (self._recent_bytes + self._piece(token))[-len(self._closing) - 16 :]
            self._in_reasoning = self._closing not in self._recent_bytes
        elif self._at_first_token and token == self._opening:
            self._in_reasoning = True
        else:
            self._inner.accept(token)
        self._at_first_token = False


class HeaderGate:
    """Applies another constraint once a grammar of the text before it has ended."""

    def __init__(self, header: Grammar, inner: Constraint) -> None:
        self._header = header
        self._inner = inner

    def mask(self, logits: NDArray[np.float32]) -> None:
        (self._inner if self._header.ended else self._header).mask(logits)

    def accept(self, token: int) -> None:
        (self._inner if self._header.ended else self._header).accept(token)
