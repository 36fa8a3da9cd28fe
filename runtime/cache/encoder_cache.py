"""The embeddings of images and audio that were encoded recently, in memory and on disk."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from .disk_cache import DiskCache


class EncoderCache:
    """Keeps at most `limit` bytes of embeddings in memory, dropping the least recently used, and others on disk."""

    def __init__(self, limit: int, disk: DiskCache | None = None) -> None:
        self._limit = limit
        self._disk = disk
        self._size = 0
        self._embeddings: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> NDArray[np.float32] | None:
        """The embeddings of media with this digest, if they are in memory."""
        with self._lock:
            if digest in self._embeddings:
                self._embeddings.move_to_end(digest)
            return self._embeddings.get(digest)

    def find(self, digest: bytes, width: int) -> NDArray[np.float32] | None:
        """The embeddings with this digest, from memory or disk. Rows have `width` floats."""
        embeddings = self.get(digest)
        if embeddings is None and self._disk is not None:
            data = self._disk.read(self._disk.path("media", digest.hex()))
            if data is not None and len(data) % (4 * width) == 0:
                embeddings = np.frombuffer(data, np.float32).reshape(-1, width)
                self._keep(digest, embeddings)
        return embeddings

    def clear(self) -> None:
        with self._lock:
            self._embeddings.clear()
            self._size = 0

    def put(self, digest: bytes, embeddings: NDArray[np.float32]) -> None:
        self._keep(digest, embeddings)
        if self._disk is not None:
            self._disk.put("media", digest.hex(), {}, embeddings.tobytes())

    def _keep(self, digest: bytes, embeddings: NDArray[np.float32]) -> None:
        with self._lock:
            if digest not in self._embeddings:
                self._embeddings[digest] = embeddings
                self._size += embeddings.nbytes
            while self._size > self._limit:
                self._size -= self._embeddings.popitem(last=False)[1].nbytes
