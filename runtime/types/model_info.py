"""What a loaded model is, and what it is doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is and can take; `warnings` say what did not go as well as it could have.

    An `embedding` model turns texts into vectors, one for `rerank` scores documents; neither answers.
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


@dataclass(frozen=True, slots=True)
class Stats:
    """What a model is doing, and what it has done since it was loaded. Seconds and tokens are sums over requests.

    `first_token_seconds` are those from requests to their first tokens, `busy_seconds` those spent computing.
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
    restarts: int = 0
