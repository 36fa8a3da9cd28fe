"""Reads and writes the process environment. No other module does."""

from __future__ import annotations

import os

VARIABLES = {
    "GALAGO_API_KEY": "The key that clients of `galago serve` must send; `--api-key` shows in process lists",
    "GALAGO_NATIVE_LOG": "`1` shows llama.cpp's own log on standard error",
    "HF_HOME": "Where the Hugging Face cache is (read by huggingface-hub)",
    "HF_TOKEN": "Your Hugging Face token, for gated and private repositories (read by huggingface-hub)",
    "HF_ENDPOINT": "A mirror of the Hub (read by huggingface-hub)",
    "HF_HUB_OFFLINE": "`1` forbids all network access (read by huggingface-hub)",
    "OMP_WAIT_POLICY": "How OpenMP's threads wait. If it is unset, Galago's workers spin only briefly",
    "GOMP_SPINCOUNT": "How long GNU OpenMP's threads spin; workers use 1000 unless it is set",
    "KMP_BLOCKTIME": "How many milliseconds LLVM OpenMP's threads spin; workers use 1 unless it is set",
    "MALLOC_ARENA_MAX": "How many heaps GNU malloc has; workers use 2 unless it is set",
    "MALLOC_MMAP_THRESHOLD_": "From which size GNU malloc maps memory; workers use 4 MiB unless it is set",
    "XDG_CACHE_HOME": "Where Galago keeps its cache on Linux (default: `~/.cache`)",
    "XDG_CONFIG_HOME": "Where Galago reads your catalog on Linux (default: `~/.config`)",
    "XDG_DATA_HOME": "Where Galago keeps the list of imported models on Linux (default: `~/.local/share`)",
}
"""The variables that matter to users, with what they do. `docs/reference/environment.md` is made of them. The variables
of limits are in `docs/reference/limits.md`."""


def api_key_from_environment() -> str | None:
    return os.environ.get("GALAGO_API_KEY")


def limit_from_environment(name: str) -> str | None:
    """Returns the value of a limit's variable; `runtime/types/limits.py` has the names."""
    return os.environ.get(limit_variable(name))


def set_limit_in_environment(name: str, text: str) -> None:
    """Sets a limit for this process and the children that it starts from now on."""
    os.environ[limit_variable(name)] = text


def limit_variable(name: str) -> str:
    return f"GALAGO_LIMIT_{name.upper()}"


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
