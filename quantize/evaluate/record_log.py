"""A file of JSON lines that a long measurement appends to, so that an interrupted run can resume."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...models.errors import ConfigError
from ...models.kept_file import locked
from ...models.log import log_once
from ...models.regular_file import open_regular

Record = dict[str, Any]


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Locks a folder against other processes, and waits while one of them holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", "another program is measuring the same variants on the same questions"):
        yield


class RecordLog:
    """The records of a file, and those appended to it. Each line begins with a checksum.

    A line that was cut off is ignored, as are a damaged line and all that follow it, because records have an order.
    `complete` says that `finish` was called, so no record is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size_bytes = 0
        self.complete = False
        self.records: list[Record] = []
        for line in self._read().split(b"\n")[:-1]:
            try:
                record = _decode(line)
            except ValueError:
                log_once(f"measurements in {path} are damaged, or of another version of Galago; they are repeated")
                break
            self._size_bytes += len(line) + 1
            self.complete = record is None
            self.records += [] if record is None else [record]

    def append(self, record: Record) -> None:
        self.extend([record])

    def extend(self, records: Iterable[Record]) -> None:
        new = list(records)
        self.records += new
        self._write(b"".join(map(_encode, new)))

    def finish(self) -> None:
        self.complete = True
        self._write(_encode(None))

    def delete(self) -> None:
        self._path.unlink(missing_ok=True)

    def _read(self) -> bytes:
        try:
            with open_regular(self._path) as file:
                return file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            log_once(f"{self._path} cannot be read and was ignored: {error.strerror}")
            return b""

    def _write(self, data: bytes) -> None:
        """Raises `ConfigError` if the disk is full, or the file cannot be written for another reason."""
        try:
            if not self._path.is_file():  # absent, or a pipe or link in its place
                self._path.unlink(missing_ok=True)
            self._path.touch()
            with self._path.open("r+b") as file:
                file.seek(self._size_bytes)
                file.truncate()
                file.write(data)
        except OSError as error:
            raise ConfigError(
                f"measurements cannot be saved in {self._path}: {error.strerror}. Those saved before are kept: free "
                "some space there, and run the same command again to resume"
            ) from error
        self._size_bytes += len(data)


def _encode(record: Record | None) -> bytes:
    text = json.dumps(record).encode()
    return _checksum(text) + b" " + text + b"\n"


def _decode(line: bytes) -> Record | None:
    """Raises `ValueError` if a byte of the line has changed."""
    checksum, _, text = line.partition(b" ")
    if checksum != _checksum(text):
        raise ValueError("the checksum is wrong")
    record: Record | None = json.loads(text)
    return record


def _checksum(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).hexdigest().encode()
