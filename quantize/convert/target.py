"""What is to stand in a GGUF file: tensors made from those of a checkpoint, and metadata. Knows no family of models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .safetensors import StoredTensor

Rows = NDArray[np.float32]
Value: TypeAlias = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor to write: `shape` as PyTorch counts it, `read(begin, end)` gives its rows.

    Rows are read in multiples of `step`. An `exact` one stays F32, as llama.cpp wants vectors and small tables.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[int, int], Rows]
    step: int = 1
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """A model for a GGUF file: its architecture as llama.cpp calls it, metadata and tensors.

    `notes` say what the file does otherwise than the checkpoint.
    """

    architecture: str
    metadata: dict[str, Value]
    targets: list[Target]
    notes: list[str] = field(default_factory=list)


def copied(name: str, tensor: StoredTensor, exact: bool = False) -> Target:
    return Target(name, tensor.shape, tensor.rows, exact=exact or len(tensor.shape) < 2)


def computed(name: str, values: Rows) -> Target:
    return Target(name, values.shape, lambda begin, end: values[begin:end], exact=True)


def interleaved(name: str, tensor: StoredTensor, heads: int) -> Target:
    """Queries or keys whose rows come in the order of llama.cpp's rotation.

    Transformers rotates the first half of a head against the second, llama.cpp's llama architecture each even row
    against the odd one behind it: row 2i of a head is row i there, row 2i+1 is row i + half.
    """
    head = tensor.shape[0] // heads

    def read(begin: int, end: int) -> Rows:
        rows = tensor.rows(begin, end)
        split = rows.reshape((end - begin) // head, 2, head // 2, *rows.shape[1:])
        return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)

    return Target(name, tensor.shape, read, step=head, exact=len(tensor.shape) < 2)


def weights(targets: Sequence[Target]) -> int:
    return sum(math.prod(target.shape) for target in targets)
