"""Sees the inputs of matrix products while llama.cpp computes them, and adds up their squares by columns.

What it sums is what llama-imatrix does (`IMatrixCollector::collect_imatrix` in tools/imatrix/imatrix.cpp), in float64,
and of products of fewer than 16 rows too, as answers are short; and, where that is wanted, the products of columns with
each other. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...models.errors import EngineError
from .ggml import GgmlTensor, check_layout
from .library import llama

_F32 = 0
_LEAST, _MOST = 256, 2048
"""Columns whose products with each other are added up: at least as many as the largest blocks of weights have."""


class ImatrixCollector:
    """Sums for the weights in `wanted`: of squared inputs (experts x columns) and of rows seen, by the weights' names.

    With room for `products`, float32 in all, also the sums of products of two inputs, within each n neighbouring
    columns (columns / n x n x n): n is what the room allows, and 256 at least. Of experts there are none. Give its
    `callback` to whatever computes, and keep the observer for as long. Not for two threads at once.
    """

    def __init__(self, wanted: Mapping[str, int], products: int = 0) -> None:
        """`wanted` has the columns of each weight."""
        check_layout()
        self._wanted = {name.encode() for name in wanted}
        self._widest = products and min(_MOST, max(_LEAST, products // max(1, sum(wanted.values()))))
        self._error: Exception | None = None
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, NDArray[np.float64]] = {}
        self.products: dict[str, NDArray[np.float32]] = {}
        self.callback = llama.ggml_backend_sched_eval_callback(self._called)

    def check(self) -> None:
        """Raises what went wrong while llama.cpp was computing, where nothing can be raised."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _called(self, address: int, asks: bool, _user_data: object) -> bool:
        try:
            tensor = GgmlTensor.from_address(address)
            if asks:
                return self._wants(tensor)
            self._see(tensor)
        except Exception as error:
            self._error = error
            return False
        return True

    def _wants(self, tensor: GgmlTensor) -> bool:
        operation = tensor.operation
        if operation not in (b"MUL_MAT", b"MUL_MAT_ID") or _name(tensor.source(0)) not in self._wanted:
            return False
        return bool(tensor.source(1).type == _F32)

    def _see(self, tensor: GgmlTensor) -> None:
        weights, inputs = tensor.source(0), tensor.source(1)
        name = _name(weights).decode()
        values = inputs.values(np.float32)
        if tensor.operation == b"MUL_MAT_ID":
            self._see_experts(name, weights.ne[2], values, tensor.source(2).values(np.int32))
        else:
            rows = values.reshape(-1, values.shape[-1])
            self._add(name, 1, slice(None), np.einsum("ij,ij->j", rows, rows, dtype=np.float64), len(rows))
            if width := _width(rows.shape[1], self._widest):
                columns = rows.T.reshape(-1, width, len(rows))
                products = columns @ columns.transpose(0, 2, 1)
                if name in self.products:
                    self.products[name] += products
                else:
                    self.products[name] = products

    def _see_experts(self, name: str, experts: int, values: NDArray[np.float32], chosen: NDArray[np.int32]) -> None:
        """`values`: 1 x tokens x (1 or chosen) x columns; `chosen`: 1 x 1 x tokens x chosen."""
        for index in range(chosen.shape[-1]):
            rows = values[0, :, index % values.shape[2]]
            for expert in np.unique(chosen[0, 0, :, index]):
                its = rows[chosen[0, 0, :, index] == expert]
                self._add(name, experts, expert, np.einsum("ij,ij->j", its, its, dtype=np.float64), len(its))

    def _add(self, name: str, experts: int, expert: int | slice, squares: NDArray[np.float64], rows: int) -> None:
        if not np.isfinite(squares).all():
            raise EngineError(f"the inputs of {name} are infinite or no numbers: the model or its data is damaged")
        if name not in self.sums:
            self.sums[name] = np.zeros((experts, squares.size))
            self.counts[name] = np.zeros(experts)
        self.sums[name][expert] += squares
        self.counts[name][expert] += rows


def _width(columns: int, most: int) -> int:
    """As many as divide the columns evenly and are whole blocks of weights; 0 where none are."""
    return max((n for n in range(32, most + 1, 32) if columns % n == 0), default=0)


def _name(weights: GgmlTensor) -> bytes:
    """The weight's name; a copy on another device is called `DEVICE#name#number`."""
    name = bytes(weights.name)
    return name.split(b"#")[1] if name.count(b"#") == 2 else name
