"""A prompt as tokens and media, the cells and positions that they take, and the tokens of a decoding step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias

from .events import ParserSpec

SavedState: TypeAlias = bytes | memoryview
"""The serialized KV cache cells of a sequence. Only the backend that computed them understands them."""


class MediaPayload(Protocol):
    """Embeddings that a backend can decode once they are `ready`, at the latest after its `encode`."""

    @property
    def ready(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class MediaSpan:
    """An image or audio clip inside a prompt, which takes `cells` of the context and `positions` of RoPE.

    Spans are equal if their `digest`s are: of the pixels or samples, and of how they were prepared.
    """

    kind: Literal["image", "audio"]
    cells: int
    positions: int
    digest: bytes
    payload: MediaPayload = field(compare=False)


class _Released:
    ready = False


RELEASED_PAYLOAD: MediaPayload = _Released()
"""Replaces a payload that is no longer needed, to free its memory."""

Item: TypeAlias = int | MediaSpan
"""One token, or a media span as a whole. Prompts are compared item by item."""


def count_cells(items: Iterable[Item]) -> int:
    """The number of context cells that the items take."""
    return sum(item.cells if isinstance(item, MediaSpan) else 1 for item in items)


def count_positions(items: Iterable[Item]) -> int:
    """The number of RoPE positions that the items take. Media may take fewer positions than cells."""
    return sum(item.positions if isinstance(item, MediaSpan) else 1 for item in items)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids and media in the order in which the model reads them. Ends with at least one token.

    `in_reasoning`: the prompt has opened the reasoning, which the answer continues. `media_part_cells`: the cells of
    each image and audio part, including the tokens around it. `logprobs_from`: the first item whose log-probability is
    reported before the answer, with all later ones; `None` for none.
    `warnings` and `parsing` are passed on in the answer's `Started` event.
    """

    items: tuple[Item, ...]
    warnings: tuple[str, ...] = ()
    in_reasoning: bool = False
    media_part_cells: tuple[int, ...] = ()
    logprobs_from: int | None = None
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
    """The token chosen from a row's logits, with the log-probabilities if requested."""

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class BatchToken(NamedTuple):
    """One token of a decoding step: its position and sequence, and whether its logits are needed."""

    token: int
    position: int
    sequence: int
    wants_logits: bool


class AttentionTile(NamedTuple):
    """How a backend computes attention: in tiles if a step has at least `rows` rows, which is `speedup` times faster.

    `cost` is the time of a row's attention to one token before it, in a step with few rows, relative to the row's
    matrix products; 0 if there is no difference.
    """

    rows: int
    speedup: float
    cost: float


def common_prefix(a: Sequence[Item], b: Sequence[Item]) -> int:
    """The length of the common prefix in items. Compares slices, which takes a tenth of the time of a loop."""
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
