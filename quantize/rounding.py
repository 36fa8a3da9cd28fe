"""Rounds weights so that each makes up for the errors of those before it: GPTQ (Frantar et al., arXiv 2210.17323).

llama.cpp rounds every weight by itself, to what is nearest under the importance of its column. What a product loses
also depends on how the columns go together: where two inputs rise and fall as one, what one weight is too large the
other can be too small. Here llama.cpp's scales stay, and the codes are chosen anew, column by column, the most
important first; each error is spread over the columns that are still to come, by the second moments of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from ..models.gguf import read_header
from ..models.header import Header, Tensor
from ..models.pairing import parts_beside
from .codes import LAYOUTS, Layout
from .schemes import BLOCKS

Floats = NDArray[np.float32]

ROUNDING = "GPTQ within 256 columns, llama.cpp's scales"
DAMPING = 0.1
"""Of the mean square of all inputs, added to each: so that what was seldom seen is not taken for certain."""
_TOGETHER = 16
"""Columns after which their errors are carried on to all others."""
_ROWS = 1024
"""Of a tensor, rounded at once by a thread."""


def round_anew(
    source: Path, target: Path, moments: Mapping[str, Floats], threads: int, started: Callable[[str], None]
) -> None:
    """Changes the codes in `target`, which llama.cpp has made of the model in `source`, where it has other types.

    `moments` are, by the name of a tensor, the mean products of its inputs within every so many columns: columns / n x
    n x n. Tensors that have none, or a type without codes of its own, stay as they are. `started` is called with the
    name of each before work on it begins.
    """
    parts = map(source.with_name, parts_beside(source.name, [path.name for path in source.parent.iterdir()]))
    originals = {tensor.name: (header, tensor) for header in map(read_header, parts) for tensor in header.tensors}
    header = read_header(target)
    with ThreadPoolExecutor(threads) as pool:
        for tensor in header.tensors:
            if not _is_coarser(tensor, originals[tensor.name][1], moments):
                continue
            started(tensor.name)
            factors = [factor(block) for block in moments[tensor.name]]
            layout, original = LAYOUTS[tensor.type_name], originals[tensor.name]
            blocks, weights = _rows(header, tensor, "r+"), _rows(*original, "r")

            def round_rows(at: int) -> None:
                exact = _exact(weights[at : at + _ROWS], original[1])  # noqa: B023
                blocks[at : at + _ROWS] = rounded(layout, np.array(blocks[at : at + _ROWS]), exact, factors)  # noqa: B023

            list(pool.map(round_rows, range(0, len(blocks), _ROWS)))
            blocks.flush()


def _is_coarser(tensor: Tensor, original: Tensor, moments: Mapping[str, Floats]) -> bool:
    return tensor.name in moments and tensor.type_name in LAYOUTS and tensor.type != original.type


def _rows(header: Header, tensor: Tensor, mode: str) -> np.memmap[tuple[int, int], np.dtype[np.uint8]]:
    weights, size = BLOCKS[tensor.type_name]
    width = tensor.shape[0] // weights * size
    begin = header.data_offset + tensor.offset
    return np.memmap(header.path, np.uint8, mode, begin, ((tensor.nbytes or 0) // width, width))  # type: ignore[call-overload, no-any-return]


def _exact(rows: NDArray[np.uint8], tensor: Tensor) -> Floats:
    return np.array(dequantize(rows, GGMLQuantizationType(tensor.type)), np.float32)


def factor(moments: Floats) -> tuple[NDArray[np.intp], Floats]:
    """An order of the columns, the largest inputs first, and the upper Cholesky factor of the inverse of the damped
    moments in that order."""
    damped = moments.astype(np.float64)
    mean = float(np.trace(damped)) / len(damped)
    damped[np.diag_indices(len(damped))] += DAMPING * mean if mean > 0 else 1.0
    order = np.argsort(-np.diag(damped), kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    return order, np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)


def rounded(
    layout: Layout, blocks: NDArray[np.uint8], weights: Floats, factors: Sequence[tuple[NDArray[np.intp], Floats]]
) -> NDArray[np.uint8]:
    """The blocks with codes chosen anew for the exact weights; `factors` are those of the parts of the columns."""
    least, scales = layout.grid(blocks)
    codes = np.zeros(weights.shape, np.uint8)
    width = weights.shape[1] // len(factors)
    for at, (order, factor) in zip(range(0, weights.shape[1], width), factors, strict=True):
        columns = at + order
        codes[:, columns] = _swept(layout, weights[:, columns], least[:, columns], scales[:, columns], factor)
    layout.pack(blocks, codes)
    return blocks


def _swept(layout: Layout, weights: Floats, least: Floats, scales: Floats, factor: Floats) -> NDArray[np.uint8]:
    """The codes, column by column; arrays have a column in each row, as it is one column that is worked on."""
    left = np.ascontiguousarray(weights.T)
    least, scales = np.ascontiguousarray(least.T), np.ascontiguousarray(scales.T)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    codes = np.zeros(left.shape, np.uint8)
    for begin, end in _spans(len(left)):
        errors = np.zeros((end - begin, left.shape[1]), np.float32)
        for i in range(begin, end):
            codes[i] = layout.nearest((left[i] - least[i]) * inverse[i])
            value = least[i] + scales[i] * (layout.values[codes[i]] - layout.values[0])
            errors[i - begin] = (left[i] - value) / factor[i, i]
            left[i + 1 : end] -= factor[i, i + 1 : end, None] * errors[i - begin]
        left[end:] -= factor[begin:end, end:].T @ errors
    return codes.T


def _spans(count: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(count, begin + _TOGETHER)) for begin in range(0, count, _TOGETHER))
