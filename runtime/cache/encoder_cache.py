"""The embeddings of pictures and sounds that were encoded lately, in memory and on disk."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from .disk_cache import DiskCache


class EmbeddingCache:
    """Embeddings of pictures and sounds seen lately: at most `limit` bytes of them in memory, others in a store."""

    def __init__(self, limit: int, store: DiskCache | None = None) -> None:
        self._limit = limit
        self._store = store
        self._size = 0
        self._kept: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> NDArray[np.float32] | None:
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
            return self._kept.get(digest)

    def find(self, digest: bytes, width: int) -> NDArray[np.float32] | None:
        """In memory or in the store."""
        found = self.get(digest)
        if found is None and self._store is not None:
            data = self._store.read(self._store.path("media", digest.hex()))
            if data is not None:
                found = np.frombuffer(data, np.float32).reshape(-1, width)
                self._keep(digest, found)
        return found

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self._size = 0

    def put(self, digest: bytes, embeddings: NDArray[np.float32]) -> None:
        self._keep(digest, embeddings)
        if self._store is not None:
            self._store.put("media", digest.hex(), {}, embeddings.tobytes())

    def _keep(self, digest: bytes, embeddings: NDArray[np.float32]) -> None:
        with self._lock:
            if digest not in self._kept:
                self._kept[digest] = embeddings
                self._size += embeddings.nbytes
            while self._size > self._limit:
                self._size -= self._kept.popitem(last=False)[1].nbytes
