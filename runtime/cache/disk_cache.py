"""Computed states and embeddings in a folder that the user has named, to be found again after a restart.

Every file carries the key of what made it and a digest of its own bytes: whatever is damaged, or of another model or
build, is left alone. The folder is its owner's alone, since it holds what people have written. Knows no llama.cpp.
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
_DIGEST = 32
_LONGEST_HEADER = 16 * 2**20
_TRIMS = 64
"""The folder is looked through whenever so small a part of the limit has been written."""
DAYS = 30


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A file of the store. `about` is what its writer noted beside the data."""

    path: Path
    size: int
    used: float
    about: dict[str, Any]


class DiskCache:
    """What was `made_by` one model and build in `folder`; of all together about `limit` bytes are kept, for `DAYS`.

    Writing happens on a thread of its own. `warn` hears of files that could not be used.
    """

    def __init__(self, folder: Path, made_by: Sequence[str], limit: int, warn: Callable[[str], None]) -> None:
        self._folder = private_folder(folder)
        self._key = hashlib.blake2b("\0".join(made_by).encode(), digest_size=16).hexdigest()
        self._limit = limit
        self._warn = warn
        self._writes: queue.SimpleQueue[tuple[str, dict[str, Any], bytes | memoryview] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        trim(folder, limit)
        self._written = 0
        self._thread = threading.Thread(target=self._run, name="galago-store", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes what is still waiting."""
        self._writes.put(None)
        self._thread.join()

    def entries(self, kind: str) -> Iterator[CacheEntry]:
        """What this model has stored of a kind, the newest first."""
        found = [entry for entry in entries(self._folder, self._warn) if entry.about.get("key") == self._key]
        yield from (entry for entry in sorted(found, key=lambda e: -e.used) if entry.about.get("kind") == kind)

    def put(self, kind: str, name: str, about: dict[str, Any], data: bytes | memoryview) -> None:
        """Notes what will be written. Dropped where the disk cannot follow: it can all be computed again."""
        with self._lock:
            if self._waiting + len(data) > self._limit // 4:
                return
            self._waiting += len(data)
        self._writes.put((name, about | {"key": self._key, "kind": kind}, data))

    def path(self, kind: str, name: str) -> Path:
        digest = hashlib.blake2b(f"{self._key}\0{kind}\0{name}".encode(), digest_size=16)
        return self._folder / (digest.hexdigest() + SUFFIX)

    def read(self, path: Path) -> bytes | None:
        """The data of a file, or `None` (and a warning) where it is damaged or of another model."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"{path} cannot be read and was ignored: {error.strerror}")
            return None
        about, begin = _header(content)
        if hashlib.blake2b(content[:-_DIGEST], digest_size=_DIGEST).digest() != content[-_DIGEST:] or about is None:
            self._warn(f"{path} is damaged and was ignored")
            return None
        if about.get("key") != self._key:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return content[begin:-_DIGEST]

    def _run(self) -> None:
        while (write := self._writes.get()) is not None:
            name, about, data = write
            try:
                _write(self.path(about["kind"], name), about, data)
                self._written += len(data)
                if self._written > self._limit // _TRIMS:
                    trim(self._folder, self._limit)
                    self._written = 0
            except OSError as error:
                self._warn(f"{self._folder} took no more of the cache: {error.strerror}")
            with self._lock:
                self._waiting -= len(data)


def private_folder(folder: Path, option: str = "cache-dir") -> Path:
    """Makes the folder where there is none. Raises `ConfigError`, naming the `option`, where others may read it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{folder} cannot be used: {error.strerror}; name another --{option}", option) from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"others may read {folder}, which is to hold what people wrote: chmod 700 it", option)
    return folder


def entries(folder: Path, warn: Callable[[str], None] = lambda _: None) -> Iterator[CacheEntry]:
    """Every readable file of the cache in a folder, of whatever model."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with path.open("rb") as file:
                about, _ = _header(file.read(len(_MAGIC) + 4), file.read)
            status = path.stat()
        except OSError:
            continue
        if about is None:
            warn(f"{path} is damaged and was ignored")
        else:
            yield CacheEntry(path, status.st_size, status.st_mtime, about)


def trim(folder: Path, limit: int) -> None:
    """Deletes what was not used for `DAYS`, and the files used least recently beyond `limit` bytes."""
    files = []
    for path in [*folder.glob(f"*{SUFFIX}"), *folder.glob(f".*{_UNFINISHED}")]:
        with contextlib.suppress(OSError):
            files.append((path.stat().st_mtime, path.stat().st_size, path))
    now, size = time.time(), 0
    for used, bytes_taken, path in sorted(files, reverse=True):
        size += bytes_taken
        age = now - used
        if age > DAYS * 86_400 or size > limit or (path.name.endswith(_UNFINISHED) and age > 3600):
            path.unlink(missing_ok=True)


def clear(folder: Path) -> int:
    """Deletes every file of the cache, damaged ones too; returns how many."""
    paths = list(folder.glob(f"*{SUFFIX}"))
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _header(begin: bytes, read: Callable[[int], bytes] | None = None) -> tuple[dict[str, Any] | None, int]:
    """What a file says of itself, and where its data begin; `read` gives what lies behind `begin`."""
    fixed = len(_MAGIC) + 4
    size = int.from_bytes(begin[len(_MAGIC) : fixed], "little")
    if not begin.startswith(_MAGIC) or len(begin) < fixed or size > _LONGEST_HEADER:
        return None, 0
    try:
        about = json.loads(read(size) if read else begin[fixed : fixed + size])
    except ValueError:
        return None, 0
    return (about if isinstance(about, dict) else None), fixed + size


def _write(path: Path, about: dict[str, Any], data: bytes | memoryview) -> None:
    """Written beside and moved into place, so that nobody ever reads half a file; mode 0600."""
    header = json.dumps(about).encode()
    digest = hashlib.blake2b(digest_size=_DIGEST)
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
