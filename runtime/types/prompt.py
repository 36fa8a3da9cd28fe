"""A prompt as the model reads it: tokens and media, the cells and positions they take, and the rows of a step.

Knows no llama.cpp and no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias

from .events import ParserSpec

SavedState: TypeAlias = bytes | memoryview
"""What the cells of a sequence hold, for the backend that has computed them."""


class MediaPayload(Protocol):
    """What a backend decodes once it is `ready`, after the backend's `encode` at the latest."""

    @property
    def ready(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class MediaSpan:
    """A picture or sound inside a prompt: so many `cells` of context and `positions` of RoPE.

    Equal where `digest` says that pixels or samples and their preparation are; `payload` encodes them.
    """

    kind: Literal["image", "audio"]
    cells: int
    positions: int
    digest: bytes
    payload: MediaPayload = field(compare=False)


class _Gone:
    ready = False


GONE: MediaPayload = _Gone()
"""In place of a payload that is not needed any more, so that it does not take memory."""

Item: TypeAlias = int | MediaSpan
"""One token, or media as a whole: what prompts are compared by."""


def count_cells(items: Iterable[Item]) -> int:
    """Cells of context that items take."""
    return sum(item.cells if isinstance(item, MediaSpan) else 1 for item in items)


def count_positions(items: Iterable[Item]) -> int:
    """Positions of RoPE that items take; media may take fewer of them than cells."""
    return sum(item.positions if isinstance(item, MediaSpan) else 1 for item in items)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids and media in the order the model reads them. Ends with at least one token.

    `thinking` says that it has begun a thought, with which the answer goes on. `cuts` are the cells that each picture
    or sound takes, with the tokens that mark it. From the item `recited` on, its tokens are told with how probable the
    model held them, before the answer; `None`: none of them.
    `warnings` and `parsing` are passed on in the answer's `Started` event.
    """

    items: tuple[Item, ...]
    warnings: tuple[str, ...] = ()
    thinking: bool = False
    cuts: tuple[int, ...] = ()
    recited: int | None = None
    parsing: ParserSpec | None = None

    @property
    def cells(self) -> int:
        return count_cells(self.items)

    @property
    def media(self) -> list[MediaSpan]:
        return [item for item in self.items if isinstance(item, MediaSpan)]

    def media_cells(self, kind: Literal["image", "audio"]) -> int:
        return sum(span.cells for span in self.media if span.kind == kind)


class SampledToken(NamedTuple):
    """The token chosen from a row's logits. With its logarithm of probability and the likeliest ones', if asked for."""

    token: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


class BatchToken(NamedTuple):
    """One token to compute in a step: its place in its sequence, and whether its logits are wanted."""

    token: int
    position: int
    sequence: int
    wants_logits: bool


def common_prefix(a: Sequence[Item], b: Sequence[Item]) -> int:
    """How many items are equal from the beginning. Compares slices, which takes a tenth of the time of a loop."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
