"""Reads and writes the process environment. No other module does."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLES = {
    "GALAGO_API_KEY": "The key that clients of `galago serve` must send; or give it with `--api-key-file`",
    "GALAGO_NATIVE_LOG": "`1` shows llama.cpp's own log on standard error",
    "HF_HOME": "Where the Hugging Face cache is (read by huggingface-hub)",
    "HF_TOKEN": "Your Hugging Face token, for gated and private repositories (read by huggingface-hub)",
    "HF_ENDPOINT": "A mirror of the Hub (read by huggingface-hub)",
    "HF_HUB_OFFLINE": "`1` forbids all network access (read by huggingface-hub)",
    "HTTPS_PROXY": "The proxy for https addresses such as the Hub's; `HTTP_PROXY` for http, `ALL_PROXY` for all others",
    "NO_PROXY": "Hosts that are reached without a proxy",
    "OLLAMA_MODELS": "Where Ollama keeps its models, for `galago import` (default: `~/.ollama/models`)",
    "OMP_WAIT_POLICY": "How OpenMP's threads wait. If it is unset, Galago's workers spin only briefly",
    "GOMP_SPINCOUNT": "How long GNU OpenMP's threads spin; workers use 1000 unless it is set",
    "KMP_BLOCKTIME": "How many milliseconds LLVM OpenMP's threads spin; workers use 1 unless it is set",
    "MALLOC_ARENA_MAX": "How many heaps GNU malloc has; workers use 2 unless it is set",
    "MALLOC_MMAP_THRESHOLD_": "Size from which GNU malloc maps memory; workers use 4 MiB unless it is set",
    "XDG_CACHE_HOME": "Where Galago keeps its cache on Linux (default: `~/.cache`)",
    "XDG_CONFIG_HOME": "Where Galago reads your catalog on Linux (default: `~/.config`)",
    "XDG_STATE_HOME": "Where Galago keeps the log of its service on Linux (default: `~/.local/state`)",
    "XDG_DATA_HOME": "Where Galago keeps the list of imported models on Linux (default: `~/.local/share`)",
}
"""The variables for users, with what they do. `docs/reference/environment.md` is generated from them. The variables of
limits are in `docs/reference/limits.md`."""

_CHILD_NAMES = frozenset(
    # where things are, and the language
    "PATH HOME USERPROFILE TMPDIR TEMP TMP LANG LANGUAGE TZ "
    "XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_CONFIG_DIRS XDG_DATA_DIRS APPDATA LOCALAPPDATA PROGRAMDATA "
    "HF_HOME HF_HUB_CACHE HUGGINGFACE_HUB_CACHE HF_HUB_OFFLINE "
    # what Windows programs need to start
    "SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT NUMBER_OF_PROCESSORS "
    # libraries and GPU drivers
    "LD_LIBRARY_PATH LD_PRELOAD DYLD_LIBRARY_PATH DYLD_FALLBACK_LIBRARY_PATH DYLD_INSERT_LIBRARIES LLAMA_CPP_LIB_PATH "
    "GLIBC_TUNABLES NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES GPU_DEVICE_ORDINAL VK_DRIVER_FILES "
    "VK_ADD_DRIVER_FILES VK_ICD_FILENAMES VK_LAYER_PATH "
    # Galago's own
    "GALAGO_NATIVE_LOG".split()
)
_CHILD_PREFIXES = tuple(
    "LC_ PYTHON OMP_ GOMP_ KMP_ OPENBLAS_ MKL_ MALLOC_ GGML_ CUDA_ HIP_ HSA_ ROCM_ ROCR_ VK_LOADER_ RADV_ SYCL_ "
    "ONEAPI_ ZE_ MTL_ GALAGO_LIMIT_ GALAGO_TEST_".split()
)
"""The variables that a child gets, if they are set. No others: they may hold keys and tokens, and a child that opens
untrusted files may be taken over."""


_PLACES = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
)
_SESSION_NAMES = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")


def api_key_from_environment() -> str | None:
    return os.environ.get("GALAGO_API_KEY")


def ollama_folder() -> Path | None:
    """Returns the folder of Ollama's models that `OLLAMA_MODELS` names."""
    text = os.environ.get("OLLAMA_MODELS")
    return Path(text) if text else None


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


def service_environment() -> dict[str, str]:
    """Returns the variables that say where things are, for the file of a service. No keys and tokens."""
    return {name: os.environ[name] for name in _PLACES if os.environ.get(name)}


def session_environment() -> dict[str, str]:
    """Returns the environment for a program that talks to the user's own services."""
    return program_environment() | {name: os.environ[name] for name in _SESSION_NAMES if name in os.environ}


def program_environment() -> dict[str, str]:
    """Returns the environment for any child: this process's variables that are on the list."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _CHILD_NAMES or name.upper().startswith(_CHILD_PREFIXES)
    }


def worker_environment() -> dict[str, str]:
    """Returns the environment for a child that only runs llama.cpp. Variables that the user has set win.

    OpenMP's threads wait for each other by spinning. If another program takes their cores, unbounded spinning makes
    decoding 15 times slower; with a bound, decoding is a tenth slower. GNU's OpenMP counts turns, LLVM's milliseconds.
    OpenBLAS comes with numpy, computes nothing here, and would start one thread per core.

    GNU's malloc has one heap for every two threads, and serves images and audio from it once the first of them was
    freed: 30 MB of fragmentation after some hundred requests. Two heaps are enough. Blocks larger than a row of logits
    are mapped, so that they are returned to the system when freed.
    """
    heap = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(4 << 20)}
    spin = {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
    return {"GGML_NO_BACKTRACE": "1", "OPENBLAS_NUM_THREADS": "1"} | heap | spin | program_environment()


def cpu_environment() -> dict[str, str]:
    """Returns `worker_environment` with CUDA's GPUs hidden, so that the driver takes no memory."""
    return worker_environment() | {"CUDA_VISIBLE_DEVICES": ""}
