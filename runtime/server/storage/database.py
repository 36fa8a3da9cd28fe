"""The SQLite database in the folder that the user has named, and the folder of uploaded files next to it.

Both are readable only by their owner, because they hold what people have written. One server at a time uses them.
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

DATABASE_FILE, FILES_FOLDER = "galago.sqlite", "galago-files"
STORE_OPTION = "galago serve --store FOLDER"
Connection: TypeAlias = sqlite3.Connection


class Database:
    """Each store creates its own tables here with `create_tables`. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.files_folder = private_folder(private_folder(folder, "store") / FILES_FOLDER, "store")
        self._path = folder / DATABASE_FILE
        self._lock = threading.Lock()
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
            self._connection = _open_exclusively(self._path)
        except sqlite3.OperationalError as error:
            reason = "a server is using it; stop that server first" if "locked" in str(error) else str(error)
            raise ConfigError(f"the store {self._path} cannot be used: {reason}", "store") from error
        except (OSError, sqlite3.DatabaseError) as error:
            raise ConfigError(f"the store {self._path} cannot be used: {error}", "store") from error

    def create_tables(self, sql: str) -> None:
        """Runs `CREATE ... IF NOT EXISTS` statements."""
        with self._lock:
            self._connection.executescript(sql)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commits what is done within it to disk, or nothing of it if it raises."""
        with self._lock:
            try:
                with self._connection:
                    yield self._connection
            except sqlite3.OperationalError as error:
                raise ConfigError(
                    f"the store {self._path} cannot be written: {error}; check the free disk space", "store"
                ) from error

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def _open_exclusively(path: Path) -> Connection:
    """Opens the file and locks it as long as it is open. Deleted rows are overwritten."""
    connection = sqlite3.connect(path, timeout=1, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = TRUNCATE", "secure_delete = ON"):
            connection.execute(f"PRAGMA {setting}")
        with connection:
            connection.execute("BEGIN EXCLUSIVE")
    except BaseException:
        connection.close()
        raise
    return connection


def status(folder: Path) -> tuple[dict[str, int], int]:
    """The number of rows by table, and the bytes of all files. Raises `ConfigError` if a server uses the folder."""
    database = Database(folder)
    with database.transaction() as connection:
        names = [row["name"] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        counts = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in sorted(names)}
    database.close()
    return counts, sum(path.stat().st_size for path in _paths(folder))


def clear(folder: Path) -> tuple[int, int]:
    """Deletes everything that a server has stored in the folder; returns the number of files and their bytes.

    Raises `ConfigError` if a server uses the folder.
    """
    Database(folder).close()
    paths = _paths(folder)
    size_bytes = sum(path.stat().st_size for path in paths)
    for path in paths:
        path.unlink()
    (folder / FILES_FOLDER).rmdir()
    return len(paths), size_bytes


def _paths(folder: Path) -> list[Path]:
    return [*(folder / FILES_FOLDER).glob("file-*"), *folder.glob(f"{DATABASE_FILE}*")]
