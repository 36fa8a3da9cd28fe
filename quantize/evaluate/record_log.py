"""A file of JSON lines that a long measurement appends to, so that an interrupted run can resume."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from ...models.errors import ConfigError

Record = dict[str, Any]
_END = b"null\n"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Locks a folder against other processes. Raises `ConfigError` if one of them holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / "lock", timeout=0):
            yield
    except filelock.Timeout:
        raise ConfigError("the same evaluation is already running; wait for it to finish, or stop it") from None


class RecordLog:
    """The records of a file, and those appended to it. A line that was cut off is ignored.

    `complete` says that `finish` was called, so no record is missing. Raises `ConfigError` if the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        data = path.read_bytes() if path.exists() else b""
        lines = [line for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
        try:
            values = [json.loads(line) for line in lines]
        except ValueError:
            raise ConfigError(f"{path} is damaged; delete it to measure again") from None
        self.complete = values[-1:] == [None]
        self.records: list[Record] = [value for value in values if value is not None]
        self._path = path
        self._size_bytes = sum(map(len, lines))

    def append(self, record: Record) -> None:
        self.extend([record])

    def extend(self, records: Iterable[Record]) -> None:
        new = list(records)
        self.records += new
        self._write(b"".join(json.dumps(record).encode() + b"\n" for record in new))

    def finish(self) -> None:
        self.complete = True
        self._write(_END)

    def delete(self) -> None:
        self._path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._path.touch()
        with self._path.open("r+b") as file:
            file.seek(self._size_bytes)
            file.truncate()
            file.write(data)
        self._size_bytes += len(data)
