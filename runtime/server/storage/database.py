"""What clients leave with a server: one SQLite file in a folder that the user has named, and a folder of files beside.

Both are their owner's alone to read, since they hold what people have written. One server at a time uses them. Knows no
HTTP, and of the tables only that there are some.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from ....models.errors import ConfigError
from ...cache.disk_cache import private_folder

DATABASE, BLOBS = "galago.sqlite", "galago-files"
Database: TypeAlias = sqlite3.Connection
OPTION = "galago serve --store FOLDER"


class Storage:
    """Each kind of thing has tables of its own here, which it makes by `define`. May be used by several threads."""

    def __init__(self, folder: Path) -> None:
        self.blobs = private_folder(private_folder(folder, "store") / BLOBS, "store")
        self._path = folder / DATABASE
        self._lock = threading.Lock()
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
            self._database = _opened(self._path)
        except sqlite3.OperationalError as error:
            reason = "another server uses it" if "locked" in str(error) else str(error)
            raise ConfigError(f"{self._path} cannot be used: {reason}", "store") from error
        except (OSError, sqlite3.DatabaseError) as error:
            raise ConfigError(f"{self._path} cannot be used: {error}", "store") from error

    def define(self, tables: str) -> None:
        """Makes tables and indices, in SQL, where they are missing."""
        with self._lock:
            self._database.executescript(tables)

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """What is done within happens wholly or not at all, and is on the disk afterwards."""
        with self._lock:
            try:
                with self._database:
                    yield self._database
            except sqlite3.OperationalError as error:
                raise ConfigError(f"{self._path} takes no more: {error}", "store") from error

    def close(self) -> None:
        with self._lock:
            self._database.close()


def _opened(path: Path) -> Database:
    """The file, locked for as long as it is open. What is deleted from it is overwritten."""
    database = sqlite3.connect(path, timeout=1, check_same_thread=False)
    try:
        database.row_factory = sqlite3.Row
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = TRUNCATE", "secure_delete = ON"):
            database.execute(f"PRAGMA {setting}")
        with database:
            database.execute("BEGIN EXCLUSIVE")
    except BaseException:
        database.close()
        raise
    return database


def status(folder: Path) -> tuple[dict[str, int], int]:
    """How many there are of each kind, and the bytes of all. Raises `ConfigError` where a server uses the folder."""
    store = Storage(folder)
    with store.transaction() as database:
        names = [row["name"] for row in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        counts = {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in sorted(names)}
    store.close()
    return counts, sum(path.stat().st_size for path in _files(folder))


def clear(folder: Path) -> tuple[int, int]:
    """Deletes everything that a server has kept in a folder; returns how many files that were, and their bytes.

    Raises `ConfigError` where a server uses it.
    """
    Storage(folder).close()
    paths = _files(folder)
    size = sum(path.stat().st_size for path in paths)
    for path in paths:
        path.unlink()
    (folder / BLOBS).rmdir()
    return len(paths), size


def _files(folder: Path) -> list[Path]:
    return [*(folder / BLOBS).glob("file-*"), *folder.glob(f"{DATABASE}*")]
