"""A cache folder for saved prefixes and media embeddings, so that they survive a restart.

Every file carries the key of the model and build that wrote it and a digest of its bytes. A file that is damaged, or
of another model or build, is ignored. Only the owner may read the folder, since it holds what people have written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models.errors import ConfigError

SUFFIX = ".galago-cache"
_MAGIC = b"GALAGO-CACHE-1\n"
_UNFINISHED = ".part"
_DIGEST_BYTES = 32
_MAX_HEADER_BYTES = 16 * 2**20
_TRIMS_PER_LIMIT = 64
"""The folder is trimmed each time this fraction of the limit has been written."""
MAX_AGE_DAYS = 30


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A file of the cache. `metadata` is what its writer stored with the data, `last_used` a time of `time.time`."""

    path: Path
    size: int
    last_used: float
    metadata: dict[str, Any]


class DiskCache:
    """The files in `folder` that belong to one model and build, named by `identity`.

    All files in the folder together take about `limit` bytes, and are kept for `MAX_AGE_DAYS` after their last use.
    A separate thread writes. `warn` is called about files that could not be used.
    """

    def __init__(self, folder: Path, identity: Sequence[str], limit: int, warn: Callable[[str], None]) -> None:
        self._folder = private_folder(folder)
        self._key = hashlib.blake2b("\0".join(identity).encode(), digest_size=16).hexdigest()
        self._limit = limit
        self._warn = warn
        self._writes: queue.SimpleQueue[tuple[str, dict[str, Any], bytes | memoryview] | None] = queue.SimpleQueue()
        self._queued_bytes = 0
        self._lock = threading.Lock()
        trim(folder, limit)
        self._bytes_since_trim = 0
        self._thread = threading.Thread(target=self._run, name="galago-disk-cache", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes what is still queued."""
        self._writes.put(None)
        self._thread.join()

    def entries(self, kind: str) -> Iterator[CacheEntry]:
        """The files of this model that are of a kind, the most recently used first."""
        own = [entry for entry in entries(self._folder, self._warn) if entry.metadata.get("key") == self._key]
        yield from (e for e in sorted(own, key=lambda e: -e.last_used) if e.metadata.get("kind") == kind)

    def put(self, kind: str, name: str, metadata: dict[str, Any], data: bytes | memoryview) -> None:
        """Queues data for writing. Drops it if the disk is too slow, since it can be computed again."""
        with self._lock:
            if self._queued_bytes + len(data) > self._limit // 4:
                return
            self._queued_bytes += len(data)
        self._writes.put((name, metadata | {"key": self._key, "kind": kind}, data))

    def path(self, kind: str, name: str) -> Path:
        digest = hashlib.blake2b(f"{self._key}\0{kind}\0{name}".encode(), digest_size=16)
        return self._folder / (digest.hexdigest() + SUFFIX)

    def read(self, path: Path) -> bytes | None:
        """The data of a file; `None` if it is missing, damaged (with a warning) or of another model."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"{path} cannot be read and was ignored: {error.strerror}")
            return None
        metadata, data_start = _read_header(content)
        digest = hashlib.blake2b(content[:-_DIGEST_BYTES], digest_size=_DIGEST_BYTES).digest()
        if digest != content[-_DIGEST_BYTES:] or metadata is None:
            self._warn(f"{path} is damaged and was ignored")
            return None
        if metadata.get("key") != self._key:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return content[data_start:-_DIGEST_BYTES]

    def _run(self) -> None:
        while (write := self._writes.get()) is not None:
            name, metadata, data = write
            try:
                _write(self.path(metadata["kind"], name), metadata, data)
                self._bytes_since_trim += len(data)
                if self._bytes_since_trim > self._limit // _TRIMS_PER_LIMIT:
                    trim(self._folder, self._limit)
                    self._bytes_since_trim = 0
            except Exception as error:  # the entry is lost; the thread goes on
                reason = (error.strerror if isinstance(error, OSError) else None) or repr(error)
                self._warn(f"a cache file in {self._folder} could not be written: {reason}")
            with self._lock:
                self._queued_bytes -= len(data)


def private_folder(folder: Path, option: str = "cache-dir") -> Path:
    """Makes the folder if it is missing. Raises `ConfigError`, naming the `option`, if others may read it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{folder} cannot be used: {error.strerror}; choose another --{option}", option) from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"other users may read {folder}, but it will hold what people wrote; run `chmod 700 {folder}`", option
        )
    return folder


def entries(folder: Path, warn: Callable[[str], None] = lambda _: None) -> Iterator[CacheEntry]:
    """Every readable cache file in a folder, of any model."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with path.open("rb") as file:
                metadata, _ = _read_header(file.read(len(_MAGIC) + 4), file.read)
            status = path.stat()
        except OSError:
            continue
        if metadata is None:
            warn(f"{path} is damaged and was ignored")
        else:
            yield CacheEntry(path, status.st_size, status.st_mtime, metadata)


def trim(folder: Path, limit: int) -> None:
    """Deletes files not used for `MAX_AGE_DAYS`, then the least recently used ones beyond `limit` bytes."""
    files = []
    for path in [*folder.glob(f"*{SUFFIX}"), *folder.glob(f".*{_UNFINISHED}")]:
        with contextlib.suppress(OSError):
            files.append((path.stat().st_mtime, path.stat().st_size, path))
    now, total = time.time(), 0
    for last_used, size, path in sorted(files, reverse=True):
        total += size
        age_seconds = now - last_used
        is_abandoned = path.name.endswith(_UNFINISHED) and age_seconds > 3600
        if age_seconds > MAX_AGE_DAYS * 86_400 or total > limit or is_abandoned:
            path.unlink(missing_ok=True)


def clear(folder: Path) -> int:
    """Deletes every cache file in a folder, damaged ones too. Returns how many."""
    paths = list(folder.glob(f"*{SUFFIX}"))
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _read_header(start: bytes, read: Callable[[int], bytes] | None = None) -> tuple[dict[str, Any] | None, int]:
    """A file's metadata, and where its data starts. `read` returns what follows `start`, if that is not all."""
    fixed = len(_MAGIC) + 4
    size = int.from_bytes(start[len(_MAGIC) : fixed], "little")
    if not start.startswith(_MAGIC) or len(start) < fixed or size > _MAX_HEADER_BYTES:
        return None, 0
    try:
        metadata = json.loads(read(size) if read else start[fixed : fixed + size])
    except ValueError:
        return None, 0
    return (metadata if isinstance(metadata, dict) else None), fixed + size


def _write(path: Path, metadata: dict[str, Any], data: bytes | memoryview) -> None:
    """Writes a file with mode 0600 under another name, then renames it, so that no reader sees half a file."""
    header = json.dumps(metadata).encode()
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=_UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in (_MAGIC + len(header).to_bytes(4, "little") + header, data):
                file.write(part)
                digest.update(part)
            file.write(digest.digest())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
