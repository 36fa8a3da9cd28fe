"""The few functions of ggml itself that llama-cpp-python does not declare. They are reached through libllama, which
loads the library they are in."""

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
    """Whether the bytes of a tensor of that `enum ggml_type` are whole blocks, without NaN or infinity among their
    numbers; of integers nothing is checked."""
    return bool(_validate(kind, data.ctypes.data, data.nbytes))


class GgmlTensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h, as far as it is read here; its size is checked when it is first used."""

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
        """By its name, since numbers change from version to version: MUL_MAT."""
        return bytes(_op_name(self.op))

    def source(self, index: int) -> GgmlTensor:
        return GgmlTensor.from_address(self.src[index])

    def values(self, dtype: type) -> NDArray[Any]:
        """What it holds, slowest dimension first; a copy where it is not in this computer's memory."""
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
_OBJECT = 32
"""Bytes of `struct ggml_object`, which `ggml_tensor_overhead` counts too."""


def check_layout() -> None:
    """Raises `EngineError` where llama.cpp's tensors are not what `Tensor` says."""
    if _overhead() != ctypes.sizeof(GgmlTensor) + _OBJECT:
        raise EngineError("this build of llama.cpp lays out its tensors in another way than Galago knows")
