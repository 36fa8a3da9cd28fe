"""One request on its way through the engine: what is still to be computed, and what has been answered so far."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ..values import MediaSpan, Piece, Prompt, Sink
from .text import AnswerText


@dataclass(eq=False, slots=True)
class Sequence:
    """Belongs to the engine's thread. `sampler` and the media in `pending` are understood by the backend only.

    `adapters` are the strengths of the model's adapters, under which all of it is computed.
    """

    prompt: Prompt
    sampler: Any
    max_tokens: int
    ends_at: frozenset[int]
    text: AnswerText
    sink: Sink
    prepared: float
    arrived: float
    adapters: tuple[float, ...] = ()
    slot: int | None = None
    cells: int = 0
    position: int = 0
    answer: list[int] = field(default_factory=list)
    first_token: float | None = None
    pending: deque[Piece] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.rewind()

    def rewind(self) -> None:
        """Starts over with nothing computed, keeping the answer so far: after the slot was taken away."""
        self.pending = deque(piece for piece in self.prompt.pieces if piece)
        if self.answer:
            self.pending.append(tuple(self.answer))
        self.cells = self.position = 0
        self.slot = None

    @property
    def next_media(self) -> MediaSpan | None:
        piece = self.pending[0]
        return piece if isinstance(piece, MediaSpan) else None

    @property
    def decoding(self) -> bool:
        """Whether only the last answered token is still to be computed."""
        return len(self.pending) == 1 and self.next_media is None and len(self.pending[0]) == 1  # type: ignore[arg-type]

    def take_tokens(self, limit: int) -> tuple[tuple[int, ...], bool]:
        """Up to `limit` tokens to compute next, and whether they are the last ones before an answer token."""
        piece = self.pending.popleft()
        assert not isinstance(piece, MediaSpan)
        taken, rest = piece[:limit], piece[limit:]
        if rest:
            self.pending.appendleft(rest)
        self.cells += len(taken)
        self.position += len(taken)
        return taken, not self.pending

    def take_media(self) -> MediaSpan:
        media = self.pending.popleft()
        assert isinstance(media, MediaSpan)
        self.cells += media.cells
        self.position += media.positions
        return media

    def answered(self, token: int) -> None:
        self.answer.append(token)
        self.pending.append((token,))
