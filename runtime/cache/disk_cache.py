"""A cache folder for saved prefixes and media embeddings, so that they survive a restart.

Every file carries the key of the model and build that wrote it, its own name, and digests of its header and of all its
bytes. A file that is damaged, renamed, or of another model or build, is ignored. Only the owner may read the folder,
since it holds what people have written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models import kept_file
from ...models.errors import ConfigError
from ...models.regular_file import open_regular

SUFFIX = ".galago-cache"
_MAGIC = b"GALAGO-CACHE-2\n"
_SIZE_BYTES = 4
_DIGEST_BYTES = 32
_FIXED_BYTES = len(_MAGIC) + _SIZE_BYTES + _DIGEST_BYTES
"""A file is the magic, the header's size and digest, the header (JSON), the data, and a digest of all before it."""
_ALIGNMENT = 64
"""The data begins at a multiple of this."""
_MAX_HEADER_BYTES = 16 * 2**20
_OLD_TEMPORARY = ".*.part"
"""Temporary files of Galago 0.1."""
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
        self._on_warning = warn
        self._warnings: set[str] = set()
        self._writes: queue.SimpleQueue[tuple[dict[str, Any], bytes | memoryview] | None] = queue.SimpleQueue()
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
        own = [entry for entry in entries(self._folder, self.warn) if entry.metadata["key"] == self._key]
        yield from (e for e in sorted(own, key=lambda e: -e.last_used) if e.metadata["kind"] == kind)

    def put(self, kind: str, name: str, metadata: dict[str, Any], data: bytes | memoryview) -> None:
        """Queues data for writing. Drops it if the disk is too slow, since it can be computed again."""
        with self._lock:
            if self._queued_bytes + len(data) > self._limit // 4:
                return
            self._queued_bytes += len(data)
        self._writes.put((metadata | {"key": self._key, "kind": kind, "name": name}, data))

    def path(self, kind: str, name: str) -> Path:
        return self._folder / _file_name(self._key, kind, name)

    def read(self, path: Path) -> bytes | memoryview | None:
        """The data of a file; `None` if it is missing, damaged (with a warning) or of another model."""
        try:
            with open_regular(path) as file:
                content = memoryview(file.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            self.warn(f"{path} cannot be read and was ignored: {error.strerror}")
            return None
        metadata, data_start = _parse_header(path.name, content[:_FIXED_BYTES], content[_FIXED_BYTES:])
        if metadata is None or _digest(content[:-_DIGEST_BYTES]) != content[-_DIGEST_BYTES:]:
            self.warn(f"{path} is damaged, or of another version of Galago, and was ignored")
            return None
        if metadata["key"] != self._key:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return content[data_start:-_DIGEST_BYTES]

    def delete(self, path: Path) -> None:
        """Deletes a file if that is possible. Its content is never wrong, only useless."""
        with contextlib.suppress(OSError):
            path.unlink()

    def warn(self, line: str) -> None:
        """Warns once of each problem."""
        if line not in self._warnings:
            self._warnings.add(line)
            self._on_warning(line)

    def _run(self) -> None:
        while (write := self._writes.get()) is not None:
            metadata, data = write
            try:
                _write(self.path(metadata["kind"], metadata["name"]), metadata, data)
                self._bytes_since_trim += len(data)
                if self._bytes_since_trim > self._limit // _TRIMS_PER_LIMIT:
                    trim(self._folder, self._limit)
                    self._bytes_since_trim = 0
            except Exception as error:  # the entry is lost; the thread continues
                reason = (error.strerror if isinstance(error, OSError) else None) or repr(error)
                self.warn(f"a cache file in {self._folder} could not be written: {reason}")
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
            with open_regular(path) as file:
                start = file.read(_FIXED_BYTES)
                metadata, _ = _parse_header(path.name, start, file.read(_header_size(start)))
                status = os.fstat(file.fileno())
        except FileNotFoundError:  # deleted by another program
            continue
        except OSError as error:
            warn(f"{path} cannot be read and was ignored: {error.strerror}")
            continue
        if metadata is None:
            warn(f"{path} is damaged, or of another version of Galago, and was ignored")
        else:
            yield CacheEntry(path, status.st_size, status.st_mtime, metadata)


def trim(folder: Path, limit: int) -> None:
    """Deletes files not used for `MAX_AGE_DAYS`, then the least recently used ones beyond `limit` bytes.

    Also deletes temporary files that killed processes left. Skips files that cannot be deleted.
    """
    kept_file.delete_abandoned(folder)
    files = []
    for path in [*folder.glob(f"*{SUFFIX}"), *folder.glob(_OLD_TEMPORARY)]:
        with contextlib.suppress(OSError):
            files.append((path.lstat().st_mtime, path.lstat().st_size, path))
    now, total = time.time(), 0
    for last_used, size, path in sorted(files, reverse=True):
        total += size
        age_seconds = now - last_used
        is_abandoned = path.suffix != SUFFIX and age_seconds > 3600
        if age_seconds > MAX_AGE_DAYS * 86_400 or total > limit or is_abandoned:
            with contextlib.suppress(OSError):
                path.unlink()


def clear(folder: Path) -> int:
    """Deletes every cache file in a folder, damaged and unfinished ones too. Returns how many.

    Raises `ConfigError` if some of them cannot be deleted.
    """
    count, failure = 0, None
    for pattern in (f"*{SUFFIX}", f".*{kept_file.TEMPORARY_SUFFIX}", _OLD_TEMPORARY):
        for path in folder.glob(pattern):
            try:
                path.unlink()
                count += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                failure = f"{path} cannot be deleted: {error.strerror}"
    if failure:
        raise ConfigError(f"{failure}; {count} other files were deleted", "cache-dir")
    return count


def _file_name(key: str, kind: str, name: str) -> str:
    return hashlib.blake2b(f"{key}\0{kind}\0{name}".encode(), digest_size=16).hexdigest() + SUFFIX


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _header_size(start: bytes | memoryview) -> int:
    size = int.from_bytes(start[len(_MAGIC) : len(_MAGIC) + _SIZE_BYTES], "little")
    return min(size, _MAX_HEADER_BYTES)  # a longer header fails the digest check


def _parse_header(
    file_name: str, start: bytes | memoryview, rest: bytes | memoryview
) -> tuple[dict[str, Any] | None, int]:
    """A file's metadata, and where its data starts. The metadata are `None` if they are damaged or of another file."""
    size = _header_size(start)
    header = rest[:size]
    if start[: len(_MAGIC)] != _MAGIC or _digest(header) != start[-_DIGEST_BYTES:]:
        return None, 0
    try:
        metadata: dict[str, Any] = json.loads(bytes(header))
        is_own = _file_name(metadata["key"], metadata["kind"], metadata["name"]) == file_name
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, 0
    return (metadata if is_own else None), _FIXED_BYTES + size


def _write(path: Path, metadata: dict[str, Any], data: bytes | memoryview) -> None:
    header = json.dumps(metadata).encode()
    header += b" " * (-(_FIXED_BYTES + len(header)) % _ALIGNMENT)
    start = _MAGIC + len(header).to_bytes(_SIZE_BYTES, "little") + _digest(header)
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    with kept_file.replacing(path) as file:
        for part in (start, header, data):
            file.write(part)
            digest.update(part)
        file.write(digest.digest())
