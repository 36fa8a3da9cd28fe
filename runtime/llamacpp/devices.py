"""The backends that llama.cpp was built with, and the devices it finds on this machine."""

from __future__ import annotations

import ctypes
from typing import Any

from llama_cpp._ggml import libggml

from ..types.placement import Device, LlamaBuild
from . import library  # loading it also prepares the environment, and starts llama.cpp's backends

_KINDS = {0: "CPU", 1: "GPU", 2: "integrated GPU", 3: "accelerator"}  # enum ggml_backend_dev_type in ggml-backend.h

_CPU_BACKENDS = ("CPU", "BLAS", "ZenDNN", "RPC")


def describe_build() -> LlamaBuild:
    """Returns what the loaded build of llama.cpp can do here."""
    return LlamaBuild(library.features(), tuple(gpu_backends()), tuple(gpus()))


def gpu_backends() -> list[str]:
    """Names of the GPU backends compiled in, even without a GPU (`llama_supports_gpu_offload` requires one)."""
    return [name for name in backends() if name not in _CPU_BACKENDS]


def backends() -> list[str]:
    """Names of the backends compiled in or loaded."""
    count = _function("ggml_backend_reg_count", ctypes.c_size_t)()
    get = _function("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    name = _function("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    return [name(get(i)).decode() for i in range(count)]


def devices() -> list[Device]:
    """Every device ggml finds, the CPU included."""
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)()
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return [_device(get(i)) for i in range(count)]


def gpus() -> list[Device]:
    """The devices llama.cpp puts layers on, in its order: graphics cards, or integrated GPUs if there are none."""
    every = devices()
    return [d for d in every if d.kind == _KINDS[1]] or [d for d in every if d.kind == _KINDS[2]]


def _device(handle: int) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    size = ctypes.POINTER(ctypes.c_size_t)
    _function("ggml_backend_dev_memory", None, ctypes.c_void_p, size, size)(handle, free, total)
    text = ctypes.c_char_p
    return Device(
        name=_function("ggml_backend_dev_name", text, ctypes.c_void_p)(handle).decode(),
        description=_function("ggml_backend_dev_description", text, ctypes.c_void_p)(handle).decode().strip(),
        kind=_KINDS.get(_function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)(handle), "unknown"),
        free_memory=free.value,
        total_memory=total.value,
    )


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(libggml, name)
    function.restype, function.argtypes = result, list(arguments)
    return function
