"""Settings as frozen values, checked when made; the only file that reads or writes the process environment."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import psutil

from ..models.errors import ConfigError

DEFAULT_CONTEXT = 8192
"""Tokens of context where the model allows more: enough for a long chat, and a KV cache that fits small machines."""


def default_threads() -> int:
    """Physical cores this process may use: llama.cpp's kernels gain nothing from sharing a core."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """How a model is loaded.

    `context_length` counts tokens, shared by all concurrent requests (`None`: what the model was trained for, at most
    `DEFAULT_CONTEXT`); `slots` is how many requests are answered at once, `queue` how many more may wait; `gpu_layers`
    -1 means all that a compiled-in GPU backend takes, 0 keeps everything on the CPU. A model in a process of its own
    that gives no sign of life for `hang_limit` seconds is ended and loaded again.
    """

    context_length: int | None = None
    threads: int | None = None
    slots: int = 4
    gpu_layers: int = -1
    queue: int = 64
    hang_limit: float = 30.0

    def __post_init__(self) -> None:
        if self.context_length is not None and self.context_length < 64:
            raise ConfigError(f"a context of {self.context_length} tokens is too small; use 64 or more", "ctx")
        if self.threads is not None and not 1 <= self.threads <= 512:
            raise ConfigError(f"{self.threads} threads is not possible; use 1 to 512", "threads")
        if not 1 <= self.slots <= 64:
            raise ConfigError(f"{self.slots} slots is not possible; use 1 to 64", "slots")
        if self.gpu_layers < -1:
            raise ConfigError(f"{self.gpu_layers} layers on the GPU is not possible; -1 means all", "gpu-layers")
        if not 2 <= self.hang_limit <= 86400:
            raise ConfigError(f"a hang limit of {self.hang_limit:g} s is not possible; use 2 to 86400", "hang-limit")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How the HTTP server guards itself. Loopback unless a key protects it."""

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    strict: bool = False
    max_body_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} does not exist; use 0 to 65535", "port")
        if self.api_key is not None and not self.api_key.isprintable() or self.api_key == "":
            raise ConfigError("the API key is empty or holds unprintable characters", "api-key")
        if not self.loopback and self.api_key is None:
            raise ConfigError(
                f"{self.host} can be reached from other machines; set an API key (GALAGO_API_KEY or --api-key), "
                "or listen on 127.0.0.1",
                "host",
            )

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without port or brackets, can only mean this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def api_key_from_environment() -> str | None:
    return os.environ.get("GALAGO_API_KEY")


def cache_folder() -> Path:
    """Where Galago keeps what it can do without."""
    return platformdirs.user_cache_path("galago", appauthor=False)


def wants_native_log() -> bool:
    """`GALAGO_NATIVE_LOG=1` lets llama.cpp's own messages through to standard error."""
    return os.environ.get("GALAGO_NATIVE_LOG") == "1"


def prepare_native_environment() -> None:
    """What must stand in the environment before llama.cpp is loaded.

    Without GGML_NO_BACKTRACE an assertion starts gdb where it is installed, and the process hangs instead of dying.
    """
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")


def worker_environment() -> dict[str, str]:
    """The environment of a process that does nothing but run llama.cpp; what the user has set stays.

    OpenMP's threads wait for each other by spinning. Where another program takes their cores, spinning without bound
    makes decoding fifteen times slower; with a bound it is a tenth slower where none does. GNU's runtime counts turns,
    LLVM's milliseconds.
    """
    spin = {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
    return {"GGML_NO_BACKTRACE": "1"} | spin | dict(os.environ)
