"""GPTQ: rounds weights so that their errors compensate each other (Frantar et al., arXiv 2210.17323).

llama.cpp rounds every weight on its own, to the nearest code under the importance of its column. The error of a product
also depends on the correlation of columns: if two inputs rise and fall together, one weight may be too small by what
the other is too large. Here llama.cpp's scales are kept, and the codes are chosen again, column by column, the most
important first. Each error is spread over the remaining columns by the second moments of the inputs. Then every column
is optimized given all others, twice (as in QuantEase, arXiv 2309.01885).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from ...models.files import weight_parts
from ...models.gguf.header import GGUFHeader, TensorInfo
from ...models.gguf.reader import read_header
from .block_layout import LAYOUTS, BlockLayout, FloatArray
from .schemes import BLOCKS

DAMPING = 0.1
"""The fraction of the mean square of all inputs that is added to each, so that rare inputs are not overrated."""
_BATCH_COLUMNS = 16
"""Columns whose errors are propagated to all others at once."""
_DESCENT_PASSES = 2
"""How often every column is optimized given all others. More passes gain little."""
ROUNDING = f"GPTQ, damped by {DAMPING:g}, settled {_DESCENT_PASSES} times, llama.cpp's scales"
_WEIGHTS_PER_TASK = 1 << 21
"""Weights that a thread rounds at once: about 100 MB."""


def round_with_gptq(
    source: Path, target: Path, moments: Mapping[str, FloatArray], threads: int, started: Callable[[str], None]
) -> None:
    """Changes the codes in `target`, which llama.cpp quantized from `source`.

    `moments` are, by tensor name, the mean products of its inputs within blocks of n columns: columns / n x n x n.
    Tensors without moments, or whose type has no known layout, stay unchanged. `started` is called with each tensor's
    name before it is rounded.
    """
    headers = map(read_header, weight_parts(source))
    originals = {tensor.name: (header, tensor) for header in headers for tensor in header.tensors}
    header = read_header(target)
    with ThreadPoolExecutor(threads) as pool:
        for tensor in header.tensors:
            original = originals[tensor.name]
            if _can_round(tensor, original[1], moments):
                started(tensor.name)
                _round_tensor(pool, (header, tensor), original, moments[tensor.name])


def _round_tensor(
    pool: ThreadPoolExecutor,
    quantized: tuple[GGUFHeader, TensorInfo],
    original: tuple[GGUFHeader, TensorInfo],
    moments: FloatArray,
) -> None:
    layout, column_blocks = LAYOUTS[quantized[1].type_name], list(map(column_block, moments))
    blocks, weights = _rows(*quantized, "r+"), _rows(*original, "r")
    step = max(1, _WEIGHTS_PER_TASK // quantized[1].shape[0])

    def round_rows(at: int) -> None:
        exact = _dequantize(weights[at : at + step], original[1])
        blocks[at : at + step] = rounded(layout, np.array(blocks[at : at + step]), exact, column_blocks)

    list(pool.map(round_rows, range(0, len(blocks), step)))
    blocks.flush()


def _can_round(tensor: TensorInfo, original: TensorInfo, moments: Mapping[str, FloatArray]) -> bool:
    return tensor.name in moments and tensor.type_name in LAYOUTS and tensor.type != original.type


def _rows(header: GGUFHeader, tensor: TensorInfo, mode: str) -> np.memmap[tuple[int, int], np.dtype[np.uint8]]:
    weights, size = BLOCKS[tensor.type_name]
    width = tensor.shape[0] // weights * size
    begin = header.data_offset + tensor.offset
    return np.memmap(header.path, np.uint8, mode, begin, ((tensor.nbytes or 0) // width, width))  # type: ignore[call-overload, no-any-return]


def _dequantize(rows: NDArray[np.uint8], tensor: TensorInfo) -> FloatArray:
    return np.array(dequantize(rows, GGMLQuantizationType(tensor.type)), np.float32)


class ColumnBlock(NamedTuple):
    """Neighboring columns.

    `moments` are damped; `order` sorts the columns by their inputs, the largest first; `factor` is the upper Cholesky
    factor of the inverse of the moments, in that order.
    """

    moments: FloatArray
    order: NDArray[np.intp]
    factor: FloatArray


def column_block(moments: FloatArray) -> ColumnBlock:
    damped = moments.astype(np.float64)
    mean = float(np.trace(damped)) / len(damped)
    damped[np.diag_indices(len(damped))] += DAMPING * mean if mean > 0 else 1.0
    order = np.argsort(-np.diag(damped), kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return ColumnBlock(damped.astype(np.float32), order, factor.astype(np.float32))


def rounded(
    layout: BlockLayout, blocks: NDArray[np.uint8], weights: FloatArray, column_blocks: Sequence[ColumnBlock]
) -> NDArray[np.uint8]:
    """Returns the blocks with codes chosen again for the exact weights."""
    grid = layout.grid(blocks)
    codes = np.zeros(weights.shape, np.uint8)
    width = weights.shape[1] // len(column_blocks)
    for at, block in zip(range(0, weights.shape[1], width), column_blocks, strict=True):
        columns = slice(at, at + width)
        exact, least, scales = (np.ascontiguousarray(rows[:, columns].T) for rows in (weights, *grid))
        codes[:, columns] = _choose_codes(_Grid(layout, least, scales), exact, block).T
    layout.pack(blocks, codes)
    return blocks


class _Grid:
    """The values of codes. Arrays are transposed: each row is a column of weights, which are rounded together."""

    def __init__(self, layout: BlockLayout, least: FloatArray, scales: FloatArray) -> None:
        self._layout, self._least, self._scales = layout, least, scales
        self._inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)

    def nearest(self, column: int, target: FloatArray) -> tuple[NDArray[np.uint8], FloatArray]:
        """Returns the codes nearest to `target`, and their values."""
        layout, least = self._layout, self._least[column]
        codes = layout.nearest((target - least) * self._inverse[column])
        return codes, least + self._scales[column] * (layout.values[codes] - layout.values[0])


def _choose_codes(grid: _Grid, exact: FloatArray, block: ColumnBlock) -> NDArray[np.uint8]:
    """Rounds column by column, spreading each error over the remaining ones, then optimizes each given all others."""
    codes, values = np.zeros(exact.shape, np.uint8), np.zeros_like(exact)
    left, factor = exact[block.order], block.factor
    for begin in range(0, len(left), _BATCH_COLUMNS):
        end = min(len(left), begin + _BATCH_COLUMNS)
        errors = np.zeros((end - begin, left.shape[1]), np.float32)
        for i in range(begin, end):
            column = block.order[i]
            codes[column], values[column] = grid.nearest(column, left[i])
            errors[i - begin] = (left[i] - values[column]) / factor[i, i]
            left[i + 1 : end] -= factor[i, i + 1 : end, None] * errors[i - begin]
        left[end:] -= factor[begin:end, end:].T @ errors
    for _ in range(_DESCENT_PASSES):
        _descend(grid, exact, block.moments, codes, values)
    return codes


def _descend(grid: _Grid, exact: FloatArray, moments: FloatArray, codes: NDArray[np.uint8], values: FloatArray) -> None:
    """Gives each column its best codes given all others: coordinate descent on the error of the products."""
    slope = moments @ (exact - values)
    for begin in range(0, len(exact), _BATCH_COLUMNS):
        end = min(len(exact), begin + _BATCH_COLUMNS)
        changes = np.zeros((end - begin, exact.shape[1]), np.float32)
        for i in range(begin, end):
            codes[i], value = grid.nearest(i, values[i] + slope[i] / moments[i, i])
            changes[i - begin] = value - values[i]
            values[i] = value
            slope[i + 1 : end] -= moments[i, i + 1 : end, None] * changes[i - begin]
        slope[end:] -= moments[begin:end, end:].T @ changes
