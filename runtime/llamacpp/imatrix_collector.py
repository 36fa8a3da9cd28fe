"""Sums the squared inputs of matrix products by column while llama.cpp computes them: an importance matrix.

The sums are those of llama-imatrix (`IMatrixCollector::collect_imatrix` in tools/imatrix/imatrix.cpp), in float64.
Products of fewer than 16 rows count too, since answers are short. Optionally it also sums products of pairs of columns.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...models.errors import EngineError
from .ggml import GgmlTensor, check_layout
from .library import llama

_F32 = 0
_MIN_GROUP_COLUMNS, _MAX_GROUP_COLUMNS = 256, 2048
"""Columns in a group whose pairwise products are summed; at least as many as the largest quantization block has."""


class ImatrixCollector:
    """Collects, by weight name, the `sums` of squared inputs (experts x columns) and the `counts` of rows.

    If there is room for `max_products` float32 values, it also sums the `products` of pairs of inputs within each group
    of n neighboring columns (columns / n x n x n), except for experts; n is as large as the room allows, at least 256.
    Pass its `callback` to a context, and keep the collector as long as the context. Not for two threads at once.
    """

    def __init__(self, columns: Mapping[str, int], max_products: int = 0) -> None:
        """`columns` has the number of columns of each weight to collect."""
        check_layout()
        self._names = {name.encode() for name in columns}
        group_columns = max_products // max(1, sum(columns.values()))
        self._max_width = max_products and min(_MAX_GROUP_COLUMNS, max(_MIN_GROUP_COLUMNS, group_columns))
        self._error: Exception | None = None
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, NDArray[np.float64]] = {}
        self.products: dict[str, NDArray[np.float32]] = {}
        self.callback = llama.ggml_backend_sched_eval_callback(self._on_tensor)

    def check(self) -> None:
        """Raises the error that occurred inside llama.cpp's callback, if any; there it cannot be raised."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _on_tensor(self, address: int, is_question: bool, _user_data: object) -> bool:
        try:
            tensor = GgmlTensor.from_address(address)
            if is_question:
                return self._is_wanted(tensor)
            self._collect(tensor)
        except Exception as error:
            self._error = error
            return False
        return True

    def _is_wanted(self, tensor: GgmlTensor) -> bool:
        operation = tensor.operation
        if operation not in (b"MUL_MAT", b"MUL_MAT_ID") or _name(tensor.source(0)) not in self._names:
            return False
        return bool(tensor.source(1).type == _F32)

    def _collect(self, tensor: GgmlTensor) -> None:
        weights, inputs = tensor.source(0), tensor.source(1)
        name = _name(weights).decode()
        values = inputs.values(np.float32)
        if tensor.operation == b"MUL_MAT_ID":
            self._collect_experts(name, weights.ne[2], values, tensor.source(2).values(np.int32))
        else:
            rows = values.reshape(-1, values.shape[-1])
            self._add(name, 1, slice(None), np.einsum("ij,ij->j", rows, rows, dtype=np.float64), len(rows))
            if width := _group_width(rows.shape[1], self._max_width):
                columns = rows.T.reshape(-1, width, len(rows))
                products = columns @ columns.transpose(0, 2, 1)
                if name in self.products:
                    self.products[name] += products
                else:
                    self.products[name] = products

    def _collect_experts(self, name: str, experts: int, values: NDArray[np.float32], chosen: NDArray[np.int32]) -> None:
        """`values`: 1 x tokens x (1 or chosen) x columns; `chosen`: 1 x 1 x tokens x chosen."""
        for index in range(chosen.shape[-1]):
            rows = values[0, :, index % values.shape[2]]
            for expert in np.unique(chosen[0, 0, :, index]):
                inputs = rows[chosen[0, 0, :, index] == expert]
                squares = np.einsum("ij,ij->j", inputs, inputs, dtype=np.float64)
                self._add(name, experts, expert, squares, len(inputs))

    def _add(self, name: str, experts: int, expert: int | slice, squares: NDArray[np.float64], rows: int) -> None:
        if not np.isfinite(squares).all():
            raise EngineError(f"the inputs of {name} are infinite or NaN; the model file or its data may be damaged")
        if name not in self.sums:
            self.sums[name] = np.zeros((experts, squares.size))
            self.counts[name] = np.zeros(experts)
        self.sums[name][expert] += squares
        self.counts[name][expert] += rows


def _group_width(columns: int, limit: int) -> int:
    """The largest group of whole blocks of 32 that divides the columns evenly; 0 if there is none."""
    return max((n for n in range(32, limit + 1, 32) if columns % n == 0), default=0)


def _name(weights: GgmlTensor) -> bytes:
    """The weight's name. A copy on another device is called `DEVICE#name#number`."""
    name = bytes(weights.name)
    return name.split(b"#")[1] if name.count(b"#") == 2 else name
