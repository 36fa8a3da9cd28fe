"""A loaded model's description, current state and counters."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, TypeAlias

from .request import Sampling

ModelState: TypeAlias = Literal["unloaded", "waiting", "loading", "ready", "unloading", "failed", "closed"]
"""A "waiting" model is loaded as soon as others have made room. An "unloading" one still ends its answers."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model's description, and the media it accepts. `warnings` are from loading it.

    An `embedding` model embeds texts, and a `rerank` model scores documents; neither generates text. `sampling` holds
    the settings that the model's file recommends.
    """

    id: str
    description: str
    context_length: int
    parameters: int
    size_bytes: int
    vision: bool
    audio: bool
    created: int
    warnings: tuple[str, ...] = ()
    kind: Literal["chat", "embedding", "rerank"] = "chat"
    sampling: Sampling = Sampling()


@dataclass(frozen=True, slots=True)
class Stats:
    """A model's current state, and its counters since it was loaded. Seconds and tokens are sums over requests.

    `first_token_seconds` sums the times to first token, `busy_seconds` the time spent computing. `steps` counts the
    engine's loop iterations and only grows; `step_seconds` is how long the current one has been running, 0 while the
    engine is idle. A large `step_seconds` with unchanged `steps` means that the engine is stuck. `recovered_errors`
    counts internal failures that cost time but no answer: of cached content, or of a draft model.
    """

    slots: int = 0
    running: int = 0
    waiting: int = 0
    threads: int = 0
    memory_bytes: int = 0
    cache_bytes: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token_seconds: float = 0.0
    busy_seconds: float = 0.0
    steps: int = 0
    step_seconds: float = 0.0
    recovered_errors: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What a model of the pool does now. `memory_bytes` is what it may take, as planned.

    `idle_seconds_left` is the time until it is unloaded if no request comes, `None` if it is in use or stays loaded.
    """

    id: str
    state: ModelState
    memory_bytes: int = 0
    busy: bool = False
    keep_alive: float = inf
    idle_seconds_left: float | None = None
