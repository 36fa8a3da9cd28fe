"""Settings as frozen values that check themselves when they are made."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ..models.errors import ConfigError
from .types.load_options import SETTINGS
from .types.request import check_option

DEFAULT_CONTEXT = 8192
"""Tokens of context where the model allows more: enough for a long chat, and a KV cache that fits small machines."""

DEFAULT_SLOTS = 4

KVType: TypeAlias = Literal["f16", "q8_0", "q4_0"]
FlashAttention: TypeAlias = Literal["auto", "on", "off"]


def default_threads() -> int:
    """Physical cores this process may use: llama.cpp's kernels gain nothing from sharing a core."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """How a model is loaded.

    `context_length` counts tokens, shared by all concurrent requests (`None`: what the model was trained for, at most
    `DEFAULT_CONTEXT`); `slots` is how many requests are answered at once (`None`: `DEFAULT_SLOTS`), `queue` how many
    more may wait. Where `memory` says how many bytes the model may take, with its processes, it decides which of the
    two is `None`. `threads` pins their number, which is otherwise chosen from measured steps; `gpu_layers` -1 means all
    that fit on the GPUs there are, 0 keeps everything on the CPU; `kv_type` is how the KV cache is stored. `cache_mib`
    is the memory for what was computed before and may be of use again: conversations set aside, and encoded media.
    `cache_folder` keeps it over restarts, at most `cache_disk_mib` of it; none by default, because it holds what people
    write. A model in a process of its own that gives no sign of life for `hang_limit` seconds is ended and loaded anew.
    """

    context_length: int | None = None
    threads: int | None = None
    slots: int | None = None
    gpu_layers: int = -1
    queue: int = 64
    cache_mib: int = 256
    cache_folder: Path | None = None
    cache_disk_mib: int = 4096
    kv_type: KVType = "f16"
    flash_attention: FlashAttention = "auto"
    hang_limit: float = 30.0
    memory: int | None = None

    def __post_init__(self) -> None:
        for option in SETTINGS:
            value, name = getattr(self, option.name), option.label
            if option.bounds is not None:
                check_option(option, value, name, ConfigError)
            elif option.choices and value not in option.choices:
                raise ConfigError(f"{name} is {value!r}; use {', '.join(option.choices)}", name)
        if self.kv_type != "f16" and self.flash_attention == "off":
            raise ConfigError(f"a KV cache of {self.kv_type} needs flash attention; leave it on", "flash-attention")

    @property
    def certain_flash_attention(self) -> bool:
        """Whether flash attention is used whatever the device; "auto" leaves it to llama.cpp."""
        return self.flash_attention == "on" or self.kv_type != "f16"

    @property
    def media_bytes(self) -> int:
        return self.cache_mib * 2**20 // 4

    @property
    def state_bytes(self) -> int:
        return self.cache_mib * 2**20 - self.media_bytes


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How the HTTP server guards itself. Loopback unless a key protects it.

    Clients may have models downloaded or deleted where `allow_pull` and `allow_rm` say so. What they leave here, files,
    batches and responses, is kept where `store` names a folder.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    strict: bool = False
    max_body_bytes: int = 64 * 1024 * 1024
    allow_pull: bool = False
    allow_rm: bool = False
    store: Path | None = None

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
