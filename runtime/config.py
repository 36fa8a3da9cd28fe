"""Settings as frozen values that check themselves when they are made."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ..models.errors import ConfigError
from .types.load_options import SETTINGS
from .types.messages import Role
from .types.request import Sampling, check_option

DEFAULT_CONTEXT = 8192
"""The default context in tokens, if the model allows it: enough for a long chat, with a KV cache for small machines."""

DEFAULT_SLOTS = 4

MAX_GRACE_SECONDS = 86_400

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*://)([^/?#@\s]*)")
_WEB_SCHEMES = ("http://", "https://")

KVType: TypeAlias = Literal["f16", "q8_0", "q4_0"]
FlashAttention: TypeAlias = Literal["auto", "on", "off"]


def default_threads() -> int:
    """Returns the number of physical cores that this process may use: two threads on a core compute no faster."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


@dataclass(frozen=True, slots=True)
class RequestDefaults:
    """What a preset gives to requests that do not say it themselves.

    - `system`: the system message of chats that have none.
    - `messages`: roles and texts, which precede the messages of every chat.
    - `sampling`: its fields that are not `None` take precedence over what the model's file recommends.
    - `max_tokens`, `stop`: as in `Request`.
    """

    system: str | None = None
    messages: tuple[tuple[Role, str], ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


NO_DEFAULTS = RequestDefaults()


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """How a model is loaded.

    - `context_length`: tokens, shared by all concurrent requests. `None`: what the model was trained for, at most
      `DEFAULT_CONTEXT`.
    - `slots`: requests that are answered at once. `None`: `DEFAULT_SLOTS`.
    - `queue`: requests that may wait for a slot.
    - `memory`: bytes that the model and its processes may take. Determines `context_length` and `slots` if `None`.
    - `threads`: a fixed number. `None`: chosen by measuring steps.
    - `gpu_layers`: -1 puts on the GPUs what fits, 0 nothing.
    - `kv_type`: the type in which the KV cache is stored.
    - `cache_mib`: memory for the prefix cache and for encoded media.
    - `cache_folder`: keeps both over restarts, at most `cache_disk_mib`. `None`, the default, writes nothing, because
      they may hold private texts.
    - `chat_template`: the Jinja source of a chat template to use in place of the file's.
    - `hang_limit`: seconds without a sign of life from a worker, or in one step of its engine, until it is restarted.
    - `request_defaults`: what the model's preset gives to requests.
    """

    context_length: int | None = None
    threads: int | None = None
    slots: int | None = None
    gpu_layers: int = -1
    queue: int = 512
    cache_mib: int = 256
    cache_folder: Path | None = None
    cache_disk_mib: int = 4096
    kv_type: KVType = "f16"
    flash_attention: FlashAttention = "auto"
    hang_limit: float = 30.0
    memory: int | None = None
    chat_template: str | None = None
    request_defaults: RequestDefaults = NO_DEFAULTS

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
        """Whether flash attention is used on any device. "auto" leaves the choice to llama.cpp."""
        return self.flash_attention == "on" or self.kv_type != "f16"

    @property
    def media_bytes(self) -> int:
        return self.cache_mib * 2**20 // 4

    @property
    def state_bytes(self) -> int:
        return self.cache_mib * 2**20 - self.media_bytes


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where the HTTP server listens and what it allows. Without an API key it listens on loopback only.

    `allowed_origins` are origins of other pages that may send requests, or schemes, such as `tauri://`, to allow all.
    `api_keys_file` has several keys, with limits. `audit_log` gets a line for each request.
    `grace_seconds`: at SIGTERM, running requests may take so long to finish.
    `allow_pull`, `allow_create` and `allow_rm` let clients download models, make presets and delete both. `store` is
    the folder that keeps their files, batches and responses; `None` keeps nothing.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    api_keys_file: Path | None = None
    audit_log: Path | None = None
    grace_seconds: float = 10.0
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    strict: bool = False
    allow_pull: bool = False
    allow_create: bool = False
    allow_rm: bool = False
    store: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is not valid; use 0 to 65535", "port")
        if self.api_key is not None and not self.api_key.isprintable() or self.api_key == "":
            raise ConfigError("the API key is empty or has unprintable characters", "api-key")
        if not self.loopback and self.api_key is None and self.api_keys_file is None:
            raise ConfigError(
                f"{self.host} can be reached from other machines; set an API key (GALAGO_API_KEY, --api-key-file or "
                "--api-keys-file), or listen on 127.0.0.1",
                "host",
            )
        if not 0 <= self.grace_seconds <= MAX_GRACE_SECONDS:
            raise ConfigError(f"grace is {self.grace_seconds:g}; use 0 to {MAX_GRACE_SECONDS} seconds", "grace")
        for origin in self.allowed_origins:
            _check_origin(origin)

    def allows_origin(self, origin: str) -> bool:
        """Returns whether pages of another origin may send requests."""
        return origin in self.allowed_origins or f"{origin.partition('://')[0]}://" in self.allowed_origins

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)


def _check_origin(origin: str) -> None:
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        raise ConfigError(
            f"{origin!r} is not an origin; use one such as app://obsidian.md or http://localhost:3000, without a path, "
            "or a scheme such as tauri://",
            "allow-origin",
        )
    if match[1] in _WEB_SCHEMES and not match[2]:
        raise ConfigError(f"{origin} would let in every web page; give the page's whole origin", "allow-origin")


def is_loopback(host: str) -> bool:
    """Returns whether a host name or address, without port and brackets, can only mean this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
