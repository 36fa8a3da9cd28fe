"""What a long measurement has found so far: lines of JSON in a file, so that it goes on after it was ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from ..models.errors import ConfigError

Record = dict[str, Any]
_END = b"null\n"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps others out of a folder, until this process ends at the latest. Raises `ConfigError` where one is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / "lock", timeout=0):
            yield
    except filelock.Timeout:
        raise ConfigError("the same evaluation is running already; wait for it, or end it") from None


class Records:
    """The lines of a file, and more of them; a line that was cut short does not count. Raises `ConfigError`.

    `complete` says that `finish` was called, after which nothing is missing.
    """

    def __init__(self, path: Path) -> None:
        data = path.read_bytes() if path.exists() else b""
        lines = [line for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
        try:
            found = [json.loads(line) for line in lines]
        except ValueError:
            raise ConfigError(f"{path} is damaged; delete it, and it will be measured anew") from None
        self.complete = found[-1:] == [None]
        self.found: list[Record] = [record for record in found if record is not None]
        self._path = path
        self._size = sum(map(len, lines))

    def add(self, record: Record) -> None:
        self.extend([record])

    def extend(self, records: Iterable[Record]) -> None:
        new = list(records)
        self.found += new
        self._write(b"".join(json.dumps(record).encode() + b"\n" for record in new))

    def finish(self) -> None:
        self.complete = True
        self._write(_END)

    def delete(self) -> None:
        self._path.unlink(missing_ok=True)

    def _write(self, line: bytes) -> None:
        self._path.touch()
        with self._path.open("r+b") as file:
            file.seek(self._size)
            file.truncate()
            file.write(line)
        self._size += len(line)
