"""A JSON file that several threads and processes read and update, and that damage cannot break.

It is replaced as a whole and updated under a lock, see `kept_file`. It holds a checksum of its content, so that damage
which is still JSON is detected too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from . import kept_file
from .log import log_once

Content = TypeVar("Content")

LOCK_NAME = ".json.lock"
"""One lock file serves all JSON files of a folder."""
LOCK_TIMEOUT_SECONDS = 10.0

_MIDDLE, _END = b'", "content":\n', b"\n}\n"
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
                text = json.dumps(self._serialize(content), indent=1 if self._durable else None)
                self._write(seal(text.encode()))
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
            return self._parse(json.loads(unseal(kept_file.read_file(self.path))))
        except FileNotFoundError:
            return self._empty()
        except OSError as error:
            if self._durable:
                raise
            log_once(f"{self.path} cannot be read and was ignored: {error.strerror}")
        except _WRONG_CONTENT as error:
            if self._durable:
                raise ValueError(f"{self.path} is damaged") from error
            log_once(f"{self.path} was ignored: it is damaged, or of another version of Galago")
        return self._empty()

    def _lock(self, stack: contextlib.ExitStack) -> None:
        """Takes the folder's lock until `stack` closes.

        If a stopped process holds the lock, a cache continues without it. Then two concurrent updates may lose one of
        them, but the file stays intact.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = kept_file.locked(
            self.path.parent / LOCK_NAME,
            f"another program is writing {self.path}",
            timeout_seconds=LOCK_TIMEOUT_SECONDS,
        )
        try:
            stack.enter_context(lock)
        except TimeoutError:
            if self._durable:
                raise

    def _write(self, data: bytes) -> None:
        kept_file.delete_abandoned(self.path.parent)
        with kept_file.replacing(self.path, self._durable) as file:
            file.write(data)


def seal(content: bytes) -> bytes:
    """Wraps JSON in an object with its checksum."""
    digest = hashlib.blake2b(content, digest_size=16).hexdigest().encode()
    return b'{"checksum": "' + digest + _MIDDLE + content + _END


def unseal(data: bytes) -> bytes:
    """Returns the JSON that `seal` was given. Raises `ValueError` if a byte has changed."""
    content = data[len(seal(b"")) - len(_END) : -len(_END)]
    if data != seal(content):
        raise ValueError("the checksum is wrong")
    return content
