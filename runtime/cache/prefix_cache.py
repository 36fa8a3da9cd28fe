"""Saved sequences in host memory, and on disk if there is a disk cache, looked up by their first tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..types.prompt import RELEASED_PAYLOAD, Item, MediaSpan, SavedState, common_prefix, count_cells
from .disk_cache import DiskCache

MIN_CELLS = 32
"""A prefix with fewer cells is not saved: computing it again is as fast as finding it."""


@dataclass(frozen=True, slots=True, eq=False)
class CachedPrefix:
    """The cells of some items, computed under these adapter strengths; the data is in memory or in a file."""

    items: list[Item]
    adapters: tuple[float, ...]
    data: SavedState = field(default=b"", repr=False)
    path: Path | None = None


class PrefixCache:
    """Keeps at most `limit` bytes of prefixes in memory and drops the least recently used first. The disk cache has its
    own limit.

    With `whole_only`, as for recurrent models, a prefix can only be restored if all of it is shared.
    """

    def __init__(self, limit: int, disk: DiskCache | None = None, whole_only: bool = False) -> None:
        self.limit = limit
        self.size = 0
        self.cell_bytes = 1.0
        """Bytes per cell of the prefix that was added last."""
        self._whole_only = whole_only
        self._in_memory: list[CachedPrefix] = []
        self.is_persistent = disk is not None
        """Whether prefixes are also written to disk."""
        self._disk = disk
        self._on_disk = [] if disk is None else list(_stored_prefixes(disk))

    def add(self, prefix: CachedPrefix) -> None:
        """Keeps a prefix in memory if it fits, and drops those that it makes redundant."""
        self.cell_bytes = len(prefix.data) / count_cells(prefix.items)
        if len(prefix.data) > self.limit:
            return
        for old in [p for p in self._in_memory if self._replaces(prefix, p.items, p.adapters)]:
            self._drop(old)
        self._in_memory.append(prefix)
        self.size += len(prefix.data)
        while self.size > self.limit:
            self._drop(self._in_memory[0])

    def store(self, prefix: CachedPrefix) -> None:
        """Writes a prefix to disk, and deletes those that it makes redundant."""
        assert self._disk is not None
        for old in [p for p in self._on_disk if self._replaces(prefix, p.items, p.adapters)]:
            assert old.path is not None
            self._on_disk.remove(old)
            self._disk.delete(old.path)
        metadata = {"items": [_to_json(item) for item in prefix.items], "adapters": prefix.adapters}
        name = blake2b(json.dumps(metadata).encode()).hexdigest()
        self._disk.put("state", name, metadata, prefix.data)
        self._on_disk.append(CachedPrefix(prefix.items, prefix.adapters, path=self._disk.path("state", name)))

    def holds(self, items: Sequence[Item], adapters: tuple[float, ...]) -> bool:
        """Whether a prefix in memory is as useful as these items would be."""
        return any(self._replaces(prefix, items, adapters) for prefix in self._in_memory)

    def find(self, items: Sequence[Item], adapters: tuple[float, ...]) -> tuple[CachedPrefix | None, int]:
        """The restorable prefix that shares the most leading `items`, and how many items it shares."""
        best, most = None, 0
        for prefix in (*self._in_memory, *self._on_disk):
            shared = common_prefix(prefix.items, items) if prefix.adapters == adapters else 0
            if shared > most and (shared == len(prefix.items) or not self._whole_only):
                best, most = prefix, shared
        return best, most

    def longest_shared(self, items: Sequence[Item], adapters: tuple[float, ...]) -> int:
        """Length of the longest start of `items` that some prefix shares, even if it cannot be restored there."""
        prefixes = (prefix for prefix in (*self._in_memory, *self._on_disk) if prefix.adapters == adapters)
        return max((common_prefix(prefix.items, items) for prefix in prefixes), default=0)

    def read(self, prefix: CachedPrefix) -> SavedState | None:
        """A prefix's data; `None` if its file is missing or damaged."""
        if prefix.path is None:
            self._in_memory.remove(prefix)
            self._in_memory.append(prefix)
            return prefix.data
        data = self._disk.read(prefix.path) if self._disk else None
        if data is None:
            self._on_disk.remove(prefix)
        return data

    def _replaces(self, longer: CachedPrefix, items: Sequence[Item], adapters: tuple[float, ...]) -> bool:
        shared = common_prefix(longer.items, items) if longer.adapters == adapters else -1
        return shared == len(items) and (shared == len(longer.items) or not self._whole_only)

    def _drop(self, prefix: CachedPrefix) -> None:
        self._in_memory.remove(prefix)
        self.size -= len(prefix.data)


def _to_json(item: Item) -> Any:
    return item if isinstance(item, int) else [item.kind, item.cells, item.positions, item.digest.hex()]


def _stored_prefixes(disk: DiskCache) -> Iterator[CachedPrefix]:
    for entry in disk.entries("state"):
        try:
            yield _from_metadata(entry.metadata, entry.path)
        except (KeyError, ValueError, TypeError):
            disk.warn(f"{entry.path} is of another version of Galago and was ignored")


def _from_metadata(metadata: dict[str, Any], path: Path) -> CachedPrefix:
    items: list[Item] = []
    for item in metadata["items"]:
        if isinstance(item, list):
            kind, cells, positions, digest = item
            items.append(MediaSpan(kind, cells, positions, bytes.fromhex(digest), RELEASED_PAYLOAD))
        else:
            items.append(int(item))
    return CachedPrefix(items, tuple(metadata["adapters"]), path=path)
