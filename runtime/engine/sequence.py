"""One request on its way through the engine: what it consists of, and where it stands."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import takewhile
from math import inf
from typing import Any

from ..speculative.acceptance import AcceptanceRate
from ..speculative.ngram import NgramProposer
from ..types.events import Finished, FinishReason, Sink, Timings, TokenLogprob, Usage
from ..types.prompt import Item, MediaSpan, Prompt
from .detokenizer import Detokenizer
from .slots import Slot

LONG = 512
"""Cells."""


@dataclass(eq=False, slots=True)
class Sequence:
    """Belongs to the engine's thread. `sampler` and the payload of media are understood by the backend only.

    `items` are the prompt's and those of the answer so far, and take `cells` together; the first ones of them are
    computed, in `slot`. `adapters` are the strengths of the model's adapters, under which all of it is computed. At its
    `checkpoints`, counts of items, its reading stops for a moment so that what is computed can be kept. `untold` tokens
    begin in text that is still held back; the prompt's tokens from the item `recited` on are still to be read for their
    probabilities, those before it are in `recital`. At its
    `deadline`, on `time.perf_counter`'s clock as `arrived` is, it fails.
    """

    prompt: Prompt
    sampler: Any
    max_tokens: int
    ends_at: frozenset[int]
    text: Detokenizer
    sink: Sink
    prepared: float
    arrived: float
    reuse: bool = True
    background: bool = False
    adapters: tuple[float, ...] = ()
    deadline: float = inf
    checkpoints: list[int] = field(default_factory=list)
    untold: list[TokenLogprob] = field(default_factory=list)
    items: list[Item] = field(init=False)
    cells: int = field(init=False)
    recited: int | None = field(init=False)
    recital: list[TokenLogprob] = field(default_factory=list)
    echo: NgramProposer = field(init=False)
    trust: AcceptanceRate = field(default_factory=AcceptanceRate)
    slot: Slot | None = None
    cached: int | None = None
    answered: int = 0
    told: int = 0
    guessed: int = 0
    accepted: int = 0
    first_token: float | None = None

    def __post_init__(self) -> None:
        self.items = list(self.prompt.items)
        self.cells = self.prompt.cells
        self.echo = NgramProposer(self.items)
        self.recited = self.prompt.logprobs_from

    @property
    def done(self) -> int:
        """How many items are computed."""
        return 0 if self.slot is None else len(self.slot.items)

    @property
    def pending_cells(self) -> int:
        return self.cells - (0 if self.slot is None else self.slot.cells)

    @property
    def is_long(self) -> bool:
        """Whether so much of the prompt is not computed elsewhere that others would notice how long it takes."""
        return self.cells - (self.cached or 0) > LONG

    @property
    def next_media(self) -> MediaSpan | None:
        item = self.items[self.done]
        return item if isinstance(item, MediaSpan) else None

    @property
    def decoding(self) -> bool:
        """Whether only the last answered token is still to be computed."""
        return self.done == len(self.items) - 1 and self.next_media is None

    def next_tokens(self, limit: int) -> list[int]:
        """Up to `limit` tokens to compute next."""
        stop = min((c for c in self.checkpoints if c > self.done), default=len(self.items))
        ahead = self.items[self.done : min(self.done + limit, stop)]
        return list(takewhile(lambda item: isinstance(item, int), ahead))  # type: ignore[arg-type]

    def recites(self, place: int) -> bool:
        """Whether the token at this place is the prompt's, and its probability still to be read."""
        return self.recited is not None and self.recited <= place < len(self.prompt.items)

    def take_untold(self) -> tuple[TokenLogprob, ...]:
        """The tokens not told yet, without those that lie wholly in what a stop string cut off."""
        cut = self.text.cut_off
        while self.untold and len(self.untold[-1].token) <= cut:
            cut -= len(self.untold.pop().token)
        told, self.untold = tuple(self.untold), []
        return told

    def answer(self, token: int) -> None:
        self.items.append(token)
        self.cells += 1
        self.echo.add(token)
        self.answered += 1

    def finished(self, reason: FinishReason) -> Finished:
        """How it ended now, with what it took."""
        assert self.first_token is not None
        usage = Usage(
            prompt_tokens=self.prompt.cells,
            completion_tokens=self.answered,
            cached_tokens=self.cached or 0,
            image_tokens=self.prompt.media_cells("image"),
            audio_tokens=self.prompt.media_cells("audio"),
            accepted_draft_tokens=self.accepted,
            rejected_draft_tokens=self.guessed - self.accepted,
        )
        timings = Timings(
            prompt_seconds=self.prepared - self.arrived,
            first_token_seconds=self.first_token - self.arrived,
            total_seconds=time.perf_counter() - self.arrived,
        )
        return Finished(reason, usage, timings, self.text.stopped_by)
