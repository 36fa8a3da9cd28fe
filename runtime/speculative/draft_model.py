"""A draft model: a small one that guesses what the large one will say. Knows tokens and durations, no llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..types.prompt import BatchToken, Item, common_prefix
from .acceptance import averaged

AHEAD = 64
"""Rows of prompts that the draft model reads in a step, lest it keep answers waiting."""

MAX_DRAFTED = 4
"""Guesses for a sequence in a step: each takes a step of the draft model, and is less likely than the one before."""

_FIRST_COST = 0.002
"""Seconds for a guess, as long as none was made."""


class DraftRunner(Protocol):
    """What is needed of the draft model."""

    def use_threads(self, threads: int) -> None: ...
    def decode(self, rows: list[BatchToken]) -> None: ...
    def cut(self, sequence: int, position: int) -> None: ...
    def likeliest(self, row: int) -> int: ...
    def close(self) -> None: ...


class DraftRequest(NamedTuple):
    """Up to `most` guesses of what follows these items, the sequence in that slot."""

    slot: int
    items: Sequence[Item]
    most: int


class DraftModel:
    """Reads along what sequences say, in slots of the same numbers, within as many cells as they have themselves."""

    def __init__(self, backend: DraftRunner, slots: int, cells: int) -> None:
        self._backend = backend
        self._held: list[list[Item]] = [[] for _ in range(slots)]
        self._cells = cells
        self.cost = _FIRST_COST
        """Seconds that a guess takes."""

    def close(self) -> None:
        self._backend.close()

    def use_threads(self, threads: int) -> None:
        self._backend.use_threads(threads)

    def guess(self, wishes: list[DraftRequest]) -> dict[int, list[int]]:
        """The likeliest next tokens by slot; none for what it has yet to read, or cannot read because of its media."""
        begin = time.perf_counter()
        guesses: dict[int, list[int]] = {}
        rows = self._unread(wishes)
        wanted = {wish.slot: wish.most for wish in wishes}
        while rows:
            self._backend.decode(rows)
            further = []
            for number, row in enumerate(rows):
                self._held[row.sequence].append(row.token)
                if row.wants_logits:
                    token = self._backend.likeliest(number)
                    guess = guesses.setdefault(row.sequence, [])
                    guess.append(token)
                    if len(guess) < wanted[row.sequence]:
                        further.append(BatchToken(token, row.position + 1, row.sequence, True))
            rows = further
        if guesses:
            seconds = time.perf_counter() - begin
            self.cost = averaged(self.cost, seconds / sum(map(len, guesses.values())))
        return guesses

    def _unread(self, wishes: list[DraftRequest]) -> list[BatchToken]:
        """What it has not read yet of these sequences, as much as fits into a step."""
        rows: list[BatchToken] = []
        self._make_room(wishes)
        for slot, items, most in wishes:
            kept = min(common_prefix(self._held[slot], items), len(items) - 1)
            self._cut(slot, kept)
            tokens = [item for item in items[kept : kept + AHEAD - len(rows)] if isinstance(item, int)]
            free = self._cells - sum(map(len, self._held)) - len(rows) - most
            if len(tokens) == min(len(items) - kept, AHEAD - len(rows)) <= free:
                rows += [
                    BatchToken(token, kept + i, slot, kept + i == len(items) - 1) for i, token in enumerate(tokens)
                ]
        return rows

    def _make_room(self, wishes: list[DraftRequest]) -> None:
        """Forgets the slots that nobody asks about, where all of them together are too much."""
        asked = {wish.slot for wish in wishes}
        if sum(len(wish.items) + wish.most for wish in wishes) + sum(map(len, self._held)) > self._cells:
            for slot in range(len(self._held)):
                if slot not in asked:
                    self._cut(slot, 0)

    def _cut(self, slot: int, count: int) -> None:
        if count < len(self._held[slot]):
            self._backend.cut(slot, count)
            del self._held[slot][count:]
