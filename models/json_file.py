"""A JSON file that several threads and processes read and update, and that damage cannot break.

Writes go to a unique temporary file in the same folder, which then replaces the old one, so that a reader sees the old
or the new content and never a part of it. Updates run under a lock file, so that none is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

Content = TypeVar("Content")

LOCK_NAME = ".json.lock"
"""One lock file serves all JSON files of a folder."""
LOCK_TIMEOUT_SECONDS = 10.0
MAX_BYTES = 256 << 20
_STALE_SECONDS = 3600.0  # a temporary file this old belongs to a process that was killed

_WRONG_CONTENT = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)

_unwritten: dict[Path, list[Callable[[Any], Any]]] = {}
_unwritten_lock = threading.Lock()


class JsonFile(Generic[Content]):
    """A JSON file with content of one type.

    `parse` turns what `json.loads` returns into the content and raises for anything unexpected (`ValueError`,
    `TypeError`, `KeyError`, `IndexError` or `AttributeError`); `serialize` is its inverse. `empty` makes the content of
    an absent file.

    A cache starts over when the file is damaged, and keeps updates in memory while its folder cannot be written.
    A `durable` file is for content that cannot be recreated: it raises `ValueError` for damaged content and `OSError`
    when it cannot be read or written, and each write reaches the disk before `update` returns.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[Any], Content],
        empty: Callable[[], Content],
        serialize: Callable[[Content], Any] = lambda content: content,
        durable: bool = False,
    ) -> None:
        self.path = path.absolute()
        self._parse = parse
        self._empty = empty
        self._serialize = serialize
        self._durable = durable

    def read(self) -> Content:
        """Returns the content, or the empty content if the file is absent or unusable."""
        return self._apply(self._pending())

    def update(self, change: Callable[[Content], Content]) -> Content:
        """Replaces the content by `change(content)` and returns it.

        `change` must depend on its argument only: if the file cannot be written now, it is applied again later, to
        what the file contains by then.
        """
        try:
            with contextlib.ExitStack() as stack:
                self._lock(stack)
                pending = self._pending()
                content = change(self._apply(pending))
                self._write(json.dumps(self._serialize(content), indent=1 if self._durable else None).encode())
        except OSError:
            if self._durable:
                raise
            with _unwritten_lock:
                _unwritten.setdefault(self.path, []).append(change)
            return self.read()
        if pending:
            with _unwritten_lock:
                del _unwritten[self.path][: len(pending)]
        return content

    def _pending(self) -> tuple[Callable[[Any], Any], ...]:
        with _unwritten_lock:
            return tuple(_unwritten.get(self.path, ()))

    def _apply(self, changes: Iterable[Callable[[Content], Content]]) -> Content:
        content = self._load()
        for change in changes:
            content = change(content)
        return content

    def _load(self) -> Content:
        try:
            return self._parse(json.loads(self._read_bytes()))
        except FileNotFoundError:
            return self._empty()
        except OSError:
            if self._durable:
                raise
            return self._empty()
        except _WRONG_CONTENT as error:
            if self._durable:
                raise ValueError(f"{self.path} is damaged") from error
            return self._empty()

    def _read_bytes(self) -> bytes:
        if not stat.S_ISREG(self.path.stat().st_mode):  # opening a pipe would wait for a writer
            raise OSError(None, "not a regular file", str(self.path))
        with self.path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"{self.path} is larger than {MAX_BYTES} bytes")
        return data

    def _lock(self, stack: contextlib.ExitStack) -> None:
        """Takes the folder's lock until `stack` closes.

        If the file system has no locks, or a stopped process holds the lock, a cache continues without it. Then two
        concurrent updates may lose one of them, but the file stays intact.
        """
        import filelock  # here, because a worker reads such files at its start and never writes one

        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path.parent / LOCK_NAME, timeout=LOCK_TIMEOUT_SECONDS)
        try:
            stack.enter_context(lock)
        except (OSError, NotImplementedError) as error:
            if self._durable and isinstance(error, OSError):
                raise

    def _write(self, data: bytes) -> None:
        self._delete_stale()
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self._temporary_prefix, suffix=".tmp")
        try:
            with open(handle, "wb") as file:
                file.write(data)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(name, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    def _delete_stale(self) -> None:
        """Deletes temporary files that killed processes left."""
        for path in self._temporaries():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _STALE_SECONDS:
                    path.unlink()

    def _temporaries(self) -> Iterator[Path]:
        return (path for path in self.path.parent.glob(".*.tmp") if path.name.startswith(self._temporary_prefix))

    @property
    def _temporary_prefix(self) -> str:
        return f".{self.path.name}."
