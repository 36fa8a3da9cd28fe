"""Rounds weights so that each makes up for the errors of others: GPTQ (Frantar et al., arXiv 2210.17323).

llama.cpp rounds every weight by itself, to what is nearest under the importance of its column. What a product loses
also depends on how the columns go together: where two inputs rise and fall as one, what one weight is too large the
other can be too small. Here llama.cpp's scales stay, and the codes are chosen anew, column by column, the most
important first; each error is spread over the columns that are still to come, by the second moments of the inputs. Then
every column is settled among all others, twice (as QuantEase does, arXiv 2309.01885).
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

from ...models.gguf.header import GGUFHeader, TensorInfo
from ...models.gguf.reader import read_header
from ...models.registry.pairing import sibling_parts
from .block_layout import LAYOUTS, BlockLayout
from .schemes import BLOCKS

Floats = NDArray[np.float32]

DAMPING = 0.1
"""Of the mean square of all inputs, added to each: so that what was seldom seen is not taken for certain."""
_TOGETHER = 16
"""Columns after which their errors are carried on to all others."""
_SETTLED = 2
"""How often every column is settled among all others. More gains little."""
ROUNDING = f"GPTQ, damped by {DAMPING:g}, settled {_SETTLED} times, llama.cpp's scales"
_AT_ONCE = 1 << 21
"""Weights that a thread rounds at once: about 100 MB."""


def round_anew(
    source: Path, target: Path, moments: Mapping[str, Floats], threads: int, started: Callable[[str], None]
) -> None:
    """Changes the codes in `target`, which llama.cpp has made of the model in `source`, where it has other types.

    `moments` are, by the name of a tensor, the mean products of its inputs within every so many columns: columns / n x
    n x n. Tensors that have none, or a type without codes of its own, stay as they are. `started` is called with the
    name of each before work on it begins.
    """
    files = map(source.with_name, sibling_parts(source.name, [path.name for path in source.parent.iterdir()]))
    originals = {tensor.name: (header, tensor) for header in map(read_header, files) for tensor in header.tensors}
    header = read_header(target)
    with ThreadPoolExecutor(threads) as pool:
        for tensor in header.tensors:
            original = originals[tensor.name]
            if _is_coarser(tensor, original[1], moments):
                started(tensor.name)
                _round_anew(pool, (header, tensor), original, moments[tensor.name])


def _round_anew(
    pool: ThreadPoolExecutor,
    made: tuple[GGUFHeader, TensorInfo],
    original: tuple[GGUFHeader, TensorInfo],
    moments: Floats,
) -> None:
    layout, parts = LAYOUTS[made[1].type_name], list(map(part, moments))
    blocks, weights = _rows(*made, "r+"), _rows(*original, "r")
    step = max(1, _AT_ONCE // made[1].shape[0])

    def round_rows(at: int) -> None:
        exact = _exact(weights[at : at + step], original[1])
        blocks[at : at + step] = rounded(layout, np.array(blocks[at : at + step]), exact, parts)

    list(pool.map(round_rows, range(0, len(blocks), step)))
    blocks.flush()


def _is_coarser(tensor: TensorInfo, original: TensorInfo, moments: Mapping[str, Floats]) -> bool:
    return tensor.name in moments and tensor.type_name in LAYOUTS and tensor.type != original.type


def _rows(header: GGUFHeader, tensor: TensorInfo, mode: str) -> np.memmap[tuple[int, int], np.dtype[np.uint8]]:
    weights, size = BLOCKS[tensor.type_name]
    width = tensor.shape[0] // weights * size
    begin = header.data_offset + tensor.offset
    return np.memmap(header.path, np.uint8, mode, begin, ((tensor.nbytes or 0) // width, width))  # type: ignore[call-overload, no-any-return]


def _exact(rows: NDArray[np.uint8], tensor: TensorInfo) -> Floats:
    return np.array(dequantize(rows, GGMLQuantizationType(tensor.type)), np.float32)


class Part(NamedTuple):
    """Neighbouring columns: their damped moments, an order, the largest inputs first, and in that order the upper
    Cholesky factor of the inverse of the moments."""

    moments: Floats
    order: NDArray[np.intp]
    factor: Floats


def part(moments: Floats) -> Part:
    damped = moments.astype(np.float64)
    mean = float(np.trace(damped)) / len(damped)
    damped[np.diag_indices(len(damped))] += DAMPING * mean if mean > 0 else 1.0
    order = np.argsort(-np.diag(damped), kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return Part(damped.astype(np.float32), order, factor.astype(np.float32))


def rounded(
    layout: BlockLayout, blocks: NDArray[np.uint8], weights: Floats, parts: Sequence[Part]
) -> NDArray[np.uint8]:
    """The blocks with codes chosen anew for the exact weights; `parts` are those of the columns."""
    grid = layout.grid(blocks)
    codes = np.zeros(weights.shape, np.uint8)
    width = weights.shape[1] // len(parts)
    for at, one in zip(range(0, weights.shape[1], width), parts, strict=True):
        columns = slice(at, at + width)
        exact, least, scales = (np.ascontiguousarray(rows[:, columns].T) for rows in (weights, *grid))
        codes[:, columns] = _settled(_Grid(layout, least, scales), exact, one).T
    layout.pack(blocks, codes)
    return blocks


class _Grid:
    """What codes stand for: arrays have a column in each row, as it is one column that is worked on."""

    def __init__(self, layout: BlockLayout, least: Floats, scales: Floats) -> None:
        self._layout, self._least, self._scales = layout, least, scales
        self._inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)

    def nearest(self, column: int, wanted: Floats) -> tuple[NDArray[np.uint8], Floats]:
        """The codes that stand for what is nearest, and what they stand for."""
        layout, least = self._layout, self._least[column]
        codes = layout.nearest((wanted - least) * self._inverse[column])
        return codes, least + self._scales[column] * (layout.values[codes] - layout.values[0])


def _settled(grid: _Grid, exact: Floats, one: Part) -> NDArray[np.uint8]:
    """The codes: each column's error is spread over those behind it, and then each is settled among all others."""
    codes, values = np.zeros(exact.shape, np.uint8), np.zeros_like(exact)
    left, factor = exact[one.order], one.factor
    for begin in range(0, len(left), _TOGETHER):
        end = min(len(left), begin + _TOGETHER)
        errors = np.zeros((end - begin, left.shape[1]), np.float32)
        for i in range(begin, end):
            column = one.order[i]
            codes[column], values[column] = grid.nearest(column, left[i])
            errors[i - begin] = (left[i] - values[column]) / factor[i, i]
            left[i + 1 : end] -= factor[i, i + 1 : end, None] * errors[i - begin]
        left[end:] -= factor[begin:end, end:].T @ errors
    for _ in range(_SETTLED):
        _settle(grid, exact, one.moments, codes, values)
    return codes


def _settle(grid: _Grid, exact: Floats, moments: Floats, codes: NDArray[np.uint8], values: Floats) -> None:
    """Gives each column the codes that are best beside all others as they are: coordinate descent on what is lost."""
    slope = moments @ (exact - values)
    for begin in range(0, len(exact), _TOGETHER):
        end = min(len(exact), begin + _TOGETHER)
        changes = np.zeros((end - begin, exact.shape[1]), np.float32)
        for i in range(begin, end):
            codes[i], value = grid.nearest(i, values[i] + slope[i] / moments[i, i])
            changes[i - begin] = value - values[i]
            values[i] = value
            slope[i + 1 : end] -= moments[i, i + 1 : end, None] * changes[i - begin]
        slope[end:] -= moments[begin:end, end:].T @ changes
