"""The few functions of ggml itself that llama-cpp-python does not declare. They are reached through libllama, which
loads the library they are in."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .library import llama


def _declared(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(llama._lib, name)
    function.restype, function.argtypes = result, arguments
    return function


_validate = _declared("ggml_validate_row_data", ctypes.c_bool, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)


def is_valid(kind: int, data: NDArray[np.uint8]) -> bool:
    """Whether the bytes of a tensor of that `enum ggml_type` are whole blocks, without NaN or infinity among their
    numbers; of integers nothing is checked."""
    return bool(_validate(kind, data.ctypes.data, data.nbytes))
