"""The JSON shapes of plans; what is asked is a chat request. Holds no behaviour."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType


class PlannedPart(Struct):
    """`message` and `part` count from 0; a message that is one text has the one part 0."""

    message: int
    part: int
    type: str
    tokens: int


class PlannedTokens(Struct):
    """`template` are those of no part: the chat template's, of tools and of names. `total` is exact."""

    total: int
    cached: int
    template: int
    parts: list[PlannedPart]


class PlannedSeconds(Struct):
    """From the request to its first token and to the last of `max_tokens`, with nothing beside it."""

    first_token: float | None
    total: float | None


class PlanAnswer(Struct):
    model: str
    fits: bool
    over_by: int
    context_length: int
    max_tokens: int
    tokens: PlannedTokens
    seconds: PlannedSeconds
    peak_memory_bytes: int
    warnings: list[str] | UnsetType = UNSET
    object: str = "plan"
