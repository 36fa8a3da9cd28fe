"""The rows of one step, laid out as llama.cpp reads them. Knows no sequences beyond their numbers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..types.prompt import BatchToken
from .library import llama


class TokenBatch:
    """A `llama_batch` of token rows over arrays that are allocated once and refilled for every step."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, np.int32)
        self._position = np.zeros(capacity, np.int32)
        self._sequence = np.zeros(capacity, np.int32)
        self._wants_logits = np.zeros(capacity, np.int8)
        self._sequence_count = np.ones(capacity, np.int32)
        first = self._sequence.ctypes.data
        self._sequence_pointer = np.arange(first, first + 4 * capacity, 4, dtype=np.uintp)

    def fill(self, rows: Sequence[BatchToken]) -> Any:
        """The rows as a `llama_batch` by value; valid until the next call."""
        n = len(rows)
        table = np.array(rows, np.int32).reshape(n, 4)
        self._token[:n] = table[:, 0]
        self._position[:n] = table[:, 1]
        self._sequence[:n] = table[:, 2]
        self._wants_logits[:n] = table[:, 3]
        return llama.llama_batch(
            n_tokens=n,
            token=_pointer(self._token, llama.llama_token),
            pos=_pointer(self._position, llama.llama_pos),
            n_seq_id=_pointer(self._sequence_count, ctypes.c_int32),
            seq_id=_pointer(self._sequence_pointer, ctypes.POINTER(llama.llama_seq_id)),
            logits=_pointer(self._wants_logits, ctypes.c_int8),
        )


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
