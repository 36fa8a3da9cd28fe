"""What makes tokens less or more likely than the model says, by request. Knows no probabilities and no llama.cpp."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..types.request import Sampling

WINDOW = 64
"""Last tokens that repeat_penalty looks at, those of the prompt included: llama.cpp's own default."""


class Penalties:
    """Changes one sequence's logits, given the tokens that were chosen so far.

    `repeat_penalty` is llama.cpp's: the logit of a token among the last `WINDOW` ones is divided by it where positive,
    else multiplied. `frequency_penalty` and `presence_penalty` are OpenAI's: for a token that the answer holds c times,
    c times the one and, if c > 0, once the other are taken off. `logit_bias` is added.
    """

    def __init__(self, sampling: Sampling, prompt: Iterable[int] = ()) -> None:
        self._repeat = sampling.repeat_penalty or 1.0
        self._recent = deque(prompt, WINDOW)
        self._frequency = sampling.frequency_penalty or 0.0
        self._presence = sampling.presence_penalty or 0.0
        self._said: set[int] = set()
        self._bias = dict(sampling.logit_bias)
        self._offsets: NDArray[np.float32] | None = None
        self.idle = self._repeat == 1 and not (self._frequency or self._presence or self._bias)

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Changes the logits in place. One addition over all of them costs less than looking up those concerned."""
        if self._offsets is None:
            self._offsets = np.zeros_like(logits)
            for token, bias in self._bias.items():
                self._offsets[token] = bias
        if self._repeat != 1 and self._recent:
            recent = np.fromiter(set(self._recent), np.intp)
            found = logits[recent]
            logits[recent] = np.where(found > 0, found / self._repeat, found * self._repeat)
        logits += self._offsets

    def note(self, token: int) -> None:
        """Takes note of the token that was chosen."""
        self._recent.append(token)
        if self._offsets is not None:
            self._offsets[token] -= self._frequency + (0.0 if token in self._said else self._presence)
        self._said.add(token)
