"""The JSON shapes of `/v1/plan`; the request is a chat request."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType


class EstimatedPart(Struct):
    """`message` and `part` count from 0; a message whose content is a string has one part, 0."""

    message: int
    part: int
    type: str
    tokens: int


class EstimatedTokens(Struct):
    """`total` is exact. `template` counts tokens outside of parts: of the chat template, tools and names."""

    total: int
    cached: int
    template: int
    parts: list[EstimatedPart]


class EstimatedSeconds(Struct):
    """From the request to the first token and to the last of `max_tokens`, if no other request is in progress."""

    first_token: float | None
    total: float | None


class EstimateResponse(Struct):
    model: str
    fits: bool
    over_by: int
    context_length: int
    max_tokens: int
    tokens: EstimatedTokens
    seconds: EstimatedSeconds
    peak_memory_bytes: int
    warnings: list[str] | UnsetType = UNSET
    object: str = "plan"
