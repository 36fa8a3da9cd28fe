"""Functions of ggml that llama-cpp-python does not declare, reached through libllama, which loads their library."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import EngineError
from .library import llama


def _declared(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(llama._lib, name)
    function.restype, function.argtypes = result, arguments
    return function


_validate = _declared("ggml_validate_row_data", ctypes.c_bool, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)


def is_valid(kind: int, data: NDArray[np.uint8]) -> bool:
    """Whether a tensor's bytes are whole blocks of that `enum ggml_type` without NaN or infinity. Integers are not
    checked."""
    return bool(_validate(kind, data.ctypes.data, data.nbytes))


class GgmlTensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h. `check_layout` verifies its size."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )

    @property
    def operation(self) -> bytes:
        """The operation's name, such as MUL_MAT; numbers change from version to version."""
        return bytes(_op_name(self.op))

    def source(self, index: int) -> GgmlTensor:
        return GgmlTensor.from_address(self.src[index])

    def values(self, dtype: type) -> NDArray[Any]:
        """The tensor's values, slowest dimension first; a copy if they are not in host memory."""
        size = _nbytes(ctypes.byref(self))
        if _is_host(self.buffer):
            memory: Any = (ctypes.c_char * size).from_address(self.data)
        else:
            memory = ctypes.create_string_buffer(size)
            _get(ctypes.byref(self), memory, 0, size)
        return np.ndarray(tuple(self.ne)[::-1], dtype, memory, 0, tuple(self.nb)[::-1])


_op_name = _declared("ggml_op_name", ctypes.c_char_p, ctypes.c_int)
_nbytes = _declared("ggml_nbytes", ctypes.c_size_t, ctypes.c_void_p)
_is_host = _declared("ggml_backend_buffer_is_host", ctypes.c_bool, ctypes.c_void_p)
_get = _declared("ggml_backend_tensor_get", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_overhead = _declared("ggml_tensor_overhead", ctypes.c_size_t)
_OBJECT_BYTES = 32
"""Size of `struct ggml_object`, which `ggml_tensor_overhead` includes."""


def check_layout() -> None:
    """Raises `EngineError` if llama.cpp's tensors are laid out differently from `GgmlTensor`."""
    if _overhead() != ctypes.sizeof(GgmlTensor) + _OBJECT_BYTES:
        raise EngineError("this build of llama.cpp lays out its tensors in a way that Galago does not support")
