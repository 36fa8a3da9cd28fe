"""Chooses the next token from logits, with llama.cpp's own samplers. Knows no grammar beyond a mask it is given."""

from __future__ import annotations

import ctypes
import secrets
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...models.errors import EngineError
from ..values import Sampling
from .library import llama

Logits = NDArray[np.float32]
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # struct llama_token_data


COLDEST = 1e-4
"""Below this temperature the likeliest token is taken: dividing by much less overflows a 32-bit float."""


class Constraint(Protocol):
    """What an answer must look like, token by token."""

    def mask(self, logits: Logits) -> None:
        """Sets the logits of every token that must not come next to minus infinity."""

    def accept(self, token: int) -> None:
        """Takes note of the token that was chosen."""


class Sampler:
    """The sampler chain of one sequence. `banned` tokens are never chosen."""

    def __init__(
        self,
        vocab_size: int,
        sampling: Sampling,
        banned: frozenset[int] = frozenset(),
        constraint: Constraint | None = None,
    ) -> None:
        self._banned = np.fromiter(banned, np.int64)
        self._constraint = constraint
        greedy = (sampling.temperature or 0) < COLDEST
        self._chain = None if greedy else _chain(sampling)
        if self._chain is not None:
            self._ids = np.arange(vocab_size, dtype=np.int32)
            self._candidates = np.zeros(vocab_size, _CANDIDATE)

    def close(self) -> None:
        if self._chain is not None:
            llama.llama_sampler_free(self._chain)
            self._chain = None

    def choose(self, logits: Logits) -> int:
        """The next token. Writes into `logits`."""
        logits[self._banned] = -np.inf
        if self._constraint is not None:
            self._constraint.mask(logits)
        token = int(logits.argmax()) if self._chain is None else self._draw(logits)
        if logits[token] == -np.inf:
            raise EngineError("no token may come next: everything is forbidden")
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

    def _draw(self, logits: Logits) -> int:
        candidates = self._candidates
        candidates["id"] = self._ids
        candidates["logit"] = logits
        array = llama.llama_token_data_array(
            data=candidates.ctypes.data_as(ctypes.POINTER(llama.llama_token_data)),
            size=candidates.size,
            selected=-1,
            sorted=False,
        )
        llama.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)


def _chain(sampling: Sampling) -> object:
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    if sampling.top_k:
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p is not None and sampling.top_p < 1:
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p:
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_min_p(sampling.min_p, 1))
    llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_temp(sampling.temperature))
    seed = sampling.seed if sampling.seed is not None else secrets.randbits(32)
    # 2**32 - 1 asks llama.cpp for a random seed (LLAMA_DEFAULT_SEED)
    llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_dist(seed % (2**32 - 1)))
    return chain
