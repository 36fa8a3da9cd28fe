"""Reads and writes the process environment. No other module does."""

from __future__ import annotations

import os


def api_key_from_environment() -> str | None:
    return os.environ.get("GALAGO_API_KEY")


def wants_native_log() -> bool:
    """Returns whether `GALAGO_NATIVE_LOG=1` asks for llama.cpp's own log on standard error."""
    return os.environ.get("GALAGO_NATIVE_LOG") == "1"


def prepare_native_environment() -> None:
    """Sets what llama.cpp reads from the environment while it is loaded.

    Without GGML_NO_BACKTRACE a failed assertion starts gdb where it is installed, and the process hangs instead of
    dying.
    """
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")


def worker_environment() -> dict[str, str]:
    """Returns the environment for a child that only runs llama.cpp. Variables that the user has set win.

    OpenMP's threads wait for each other by spinning. If another program takes their cores, unbounded spinning makes
    decoding 15 times slower; with a bound, decoding is a tenth slower. GNU's OpenMP counts turns, LLVM's milliseconds.
    OpenBLAS comes with numpy, computes nothing here, and would start one thread per core.

    GNU's malloc has one heap for every two threads, and serves images and audio from it once the first of them was
    freed: 30 MB of fragmentation after some hundred requests. Two heaps are enough. Blocks larger than a row of logits
    are mapped, so that they go back to the system.
    """
    heap = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(4 << 20)}
    spin = {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
    return {"GGML_NO_BACKTRACE": "1", "OPENBLAS_NUM_THREADS": "1"} | heap | spin | dict(os.environ)


def cpu_environment() -> dict[str, str]:
    """Returns `worker_environment` with CUDA's GPUs hidden, so that the driver takes no memory."""
    return worker_environment() | {"CUDA_VISIBLE_DEVICES": ""}
