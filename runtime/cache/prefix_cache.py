"""Sequences set aside in host memory, and on disk where there is a store, found again by what they begin with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..types.prompt import RELEASED_PAYLOAD, Item, MediaSpan, SavedState, common_prefix, count_cells
from .disk_cache import DiskCache

MIN_CELLS = 32
"""Cells: a shorter prefix is computed again as fast as it is found."""


@dataclass(frozen=True, slots=True, eq=False)
class CachedPrefix:
    """The cells of some items, computed under some strengths of the model's adapters: in memory, or in a file."""

    items: list[Item]
    adapters: tuple[float, ...]
    data: SavedState = field(default=b"", repr=False)
    path: Path | None = None


class PrefixCache:
    """At most `limit` bytes of states in memory, those used least recently dropped first; a store bounds itself.

    Those of recurrent models are taken up as a `whole` or not at all.
    """

    def __init__(self, limit: int, store: DiskCache | None = None, whole: bool = False) -> None:
        self.limit = limit
        self._whole = whole
        self.size = 0
        self.cell_bytes = 1.0
        """Of the last state that was added."""
        self._kept: list[CachedPrefix] = []
        self._store = store
        self._stored = [] if store is None else [_stored(e.about, e.path) for e in store.entries("state")]

    @property
    def lasting(self) -> bool:
        """Whether states outlive the process."""
        return self._store is not None

    def add(self, state: CachedPrefix) -> None:
        """Keeps a state in memory if there is room for it, instead of those that are of no more use."""
        self.cell_bytes = len(state.data) / count_cells(state.items)
        if len(state.data) > self.limit:
            return
        for old in [s for s in self._kept if self._replaces(state, s.items, s.adapters)]:
            self._drop(old)
        self._kept.append(state)
        self.size += len(state.data)
        while self.size > self.limit:
            self._drop(self._kept[0])

    def store(self, state: CachedPrefix) -> None:
        """Writes a state to the store, instead of those that are of no more use."""
        assert self._store is not None
        for old in [s for s in self._stored if self._replaces(state, s.items, s.adapters)]:
            assert old.path is not None
            self._stored.remove(old)
            old.path.unlink(missing_ok=True)
        about = {"items": [_noted(item) for item in state.items], "adapters": state.adapters}
        name = blake2b(json.dumps(about).encode()).hexdigest()
        self._store.put("state", name, about, state.data)
        self._stored.append(CachedPrefix(state.items, state.adapters, path=self._store.path("state", name)))

    def holds(self, items: Sequence[Item], adapters: tuple[float, ...]) -> bool:
        """Whether some prefix in memory serves whatever these items could."""
        return any(self._replaces(prefix, items, adapters) for prefix in self._kept)

    def best(self, items: Sequence[Item], adapters: tuple[float, ...]) -> tuple[CachedPrefix | None, int]:
        """The state that can be taken up with most of its beginning shared with `items`, and how many are."""
        best, most = None, 0
        for state in (*self._kept, *self._stored):
            shared = common_prefix(state.items, items) if state.adapters == adapters else 0
            if shared > most and (shared == len(state.items) or not self._whole):
                best, most = state, shared
        return best, most

    def common(self, items: Sequence[Item], adapters: tuple[float, ...]) -> int:
        """How many of `items` some state begins with, whether or not it can be taken up there."""
        states = (state for state in (*self._kept, *self._stored) if state.adapters == adapters)
        return max((common_prefix(state.items, items) for state in states), default=0)

    def read(self, state: CachedPrefix) -> SavedState | None:
        """A state's data, or `None` where its file is gone or damaged."""
        if state.path is None:
            self._kept.remove(state)
            self._kept.append(state)
            return state.data
        data = self._store.read(state.path) if self._store else None
        if data is None:
            self._stored.remove(state)
        return data

    def _replaces(self, longer: CachedPrefix, items: Sequence[Item], adapters: tuple[float, ...]) -> bool:
        shared = common_prefix(longer.items, items) if longer.adapters == adapters else -1
        return shared == len(items) and (shared == len(longer.items) or not self._whole)

    def _drop(self, state: CachedPrefix) -> None:
        self._kept.remove(state)
        self.size -= len(state.data)


def _noted(item: Item) -> Any:
    return item if isinstance(item, int) else [item.kind, item.cells, item.positions, item.digest.hex()]


def _stored(about: dict[str, Any], path: Path) -> CachedPrefix:
    items: list[Item] = []
    for noted in about["items"]:
        if isinstance(noted, list):
            kind, cells, positions, digest = noted
            items.append(MediaSpan(kind, cells, positions, bytes.fromhex(digest), RELEASED_PAYLOAD))
        else:
            items.append(noted)
    return CachedPrefix(items, tuple(about["adapters"]), path=path)
