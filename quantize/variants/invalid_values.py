"""Finds weights that a type cannot represent, and tensors without information because their weights are all equal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from ...models.files import weight_parts
from ...models.gguf.header import GGUFHeader, TensorInfo
from ...models.gguf.reader import read_header

_LARGEST_F16 = 65504.0
_BLOCK_WEIGHTS = 1 << 22
_MIN_COLUMNS = 32
"""Rows of fewer weights, such as those of a small convolution, may well be constant."""
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes per weight of the types whose weights are counted."""


def describe(model: Path, name: str, target_type: str | None) -> str:
    """Says how many weights of a tensor are NaN, infinite or, if it was to become F16, too large; empty for none."""
    nan = infinite = large = total = 0
    for weights in _weights(model, name):
        is_finite = np.isfinite(weights)
        nan += int(np.isnan(weights).sum())
        infinite += int((~is_finite).sum()) - int(np.isnan(weights).sum())
        large += int((np.abs(weights[is_finite]) > _LARGEST_F16).sum()) if target_type == "F16" else 0
        total += weights.size
    kinds = ((nan, "NaN"), (infinite, "infinite"), (large, f"beyond {_LARGEST_F16:.0f}, which is F16's largest"))
    counts = [f"{count} {'is' if count == 1 else 'are'} {kind}" for count, kind in kinds if count]
    return f"of its {total} weights, {' and '.join(counts)}" if counts else ""


def constant_tensors(parts: Sequence[Path]) -> list[str]:
    """Returns the names of matrices in which all weights of each row are equal, such as zeros.

    Reads little more than the first row of a tensor that has other weights.
    """
    names: list[str] = []
    for header in map(read_header, parts):
        for tensor in header.tensors:
            columns = tensor.shape[0]
            is_matrix = math.prod(tensor.shape) > columns >= _MIN_COLUMNS and tensor.name.endswith("weight")
            if not is_matrix or tensor.type_name not in _WIDTHS:
                continue
            rows = (block.reshape(-1, columns) for block in _blocks(header, tensor, columns))
            if all((row == row[:, :1]).all() for row in rows):
                names.append(tensor.name)
    return names


def _weights(model: Path, name: str) -> Iterator[NDArray[np.float32]]:
    """Yields the weights of a tensor in blocks; none if their type is not counted."""
    for header in map(read_header, weight_parts(model)):
        for tensor in header.tensors:
            if tensor.name == name and tensor.type_name in _WIDTHS:
                yield from _blocks(header, tensor, _BLOCK_WEIGHTS)


def _blocks(header: GGUFHeader, tensor: TensorInfo, first: int) -> Iterator[NDArray[np.float32]]:
    """Yields the weights of a tensor: `first` of them, then blocks of multiples of that."""
    width, size = _WIDTHS[tensor.type_name], math.prod(tensor.shape)
    data = np.memmap(header.path, np.uint8, "r", header.data_offset + tensor.offset, (size * width,))
    begin, count = 0, first
    while begin < size:
        block = data[begin * width : (begin + count) * width]
        yield np.asarray(dequantize(block, GGMLQuantizationType(tensor.type)), np.float32).reshape(-1)
        begin, count = begin + count, max(1, _BLOCK_WEIGHTS // first) * first
