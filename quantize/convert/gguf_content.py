"""The tensors and metadata to write to a GGUF file. Knows no model family."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .safetensors import StoredTensor

GGUFValue: TypeAlias = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor to write. `shape` is in PyTorch's order; `read(begin, end)` returns rows.

    Rows are read in multiples of `row_step`. `keep_f32` tensors stay F32, as llama.cpp requires of vectors and small
    tables.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[int, int], NDArray[np.float32]]
    row_step: int = 1
    keep_f32: bool = False


@dataclass(frozen=True, slots=True)
class GGUFContent:
    """The metadata and tensors of a model under llama.cpp's architecture name."""

    architecture: str
    metadata: dict[str, GGUFValue]
    tensors: list[OutputTensor]


def copied(name: str, tensor: StoredTensor, keep_f32: bool = False) -> OutputTensor:
    return OutputTensor(name, tensor.shape, tensor.rows, keep_f32=keep_f32 or len(tensor.shape) < 2)


def scaled(tensor: OutputTensor, factor: float) -> OutputTensor:
    if math.isclose(factor, 1, rel_tol=1e-9):
        return tensor
    return replace(tensor, read=lambda begin, end: tensor.read(begin, end) * np.float32(factor))


def shifted(tensor: OutputTensor, offset: float) -> OutputTensor:
    """Returns a tensor with `offset` added to all its values."""
    if offset == 0:
        return tensor
    return replace(tensor, read=lambda begin, end: tensor.read(begin, end) + np.float32(offset))


def transposed(name: str, tensor: StoredTensor) -> OutputTensor:
    """Returns a matrix with rows and columns exchanged. Each slice reads the whole matrix, which must be small."""
    rows, columns = tensor.shape

    def read(begin: int, end: int) -> NDArray[np.float32]:
        return np.ascontiguousarray(tensor.rows(0, rows)[:, begin:end].T)

    return OutputTensor(name, (columns, rows), read)


def computed(name: str, values: NDArray[np.float32]) -> OutputTensor:
    return OutputTensor(name, values.shape, lambda begin, end: values[begin:end], keep_f32=True)


def rope_interleaved(name: str, tensor: StoredTensor, heads: int) -> OutputTensor:
    """Returns queries or keys with their rows in the order of llama.cpp's rotary embedding.

    Transformers rotates the first half of a head against the second. llama.cpp's llama architecture rotates each even
    row against the odd row after it: row 2i of a head is row i there, row 2i+1 is row i + half.
    """
    head_rows = tensor.shape[0] // heads

    def read(begin: int, end: int) -> NDArray[np.float32]:
        rows = tensor.rows(begin, end)
        halves = rows.reshape((end - begin) // head_rows, 2, head_rows // 2, *rows.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)

    return OutputTensor(name, tensor.shape, read, row_step=head_rows, keep_f32=len(tensor.shape) < 2)
