"""Counts the weights of a tensor that a type cannot represent, to explain why it could not be quantized."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from ...models.files import weight_parts
from ...models.gguf.reader import read_header

_LARGEST_F16 = 65504.0
_BLOCK_WEIGHTS = 1 << 22
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a weight, by the types of which weights are counted."""


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
    counts = [f"{count} are {kind}" for count, kind in kinds if count]
    return f"of its {total} weights, {' and '.join(counts)}" if counts else ""


def _weights(model: Path, name: str) -> Iterator[NDArray[np.float32]]:
    """Yields the weights of a tensor in blocks; none if their type is not counted."""
    for header in map(read_header, weight_parts(model)):
        for tensor in header.tensors:
            width = _WIDTHS.get(tensor.type_name)
            if tensor.name != name or width is None:
                continue
            begin, size = header.data_offset + tensor.offset, math.prod(tensor.shape) * width
            data = np.memmap(header.path, np.uint8, "r", begin, (size,))
            for at in range(0, size, _BLOCK_WEIGHTS * width):
                block = data[at : at + _BLOCK_WEIGHTS * width]
                yield np.asarray(dequantize(block, GGMLQuantizationType(tensor.type)), np.float32).reshape(-1)
