"""The JSON shapes of `/v1/usage`."""

from __future__ import annotations

from msgspec import Struct


class ModelTokens(Struct):
    """What a key has used of a model since the server started."""

    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int


class UsageLimits(Struct):
    """The limits of a key; null means that it has none."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    models: list[str] | None


class KeyUsage(Struct):
    """What a key has used since the server started: in total, and by model."""

    key: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    limits: UsageLimits
    models: list[ModelTokens]


class UsageList(Struct):
    """`GET /v1/usage`. `since` is when the server started, in seconds since 1970."""

    since: int
    data: list[KeyUsage]
    object: str = "list"
