"""The SQLite database in the folder that the user has named, and the folder of uploaded files next to it.

Both are readable only by their owner, because they hold people's texts. Only one server at a time may use them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from ....models.errors import ConfigError
from ...cache.disk_cache import private_folder
from ...log import log
from . import checksums

DATABASE_FILE, FILES_FOLDER = "galago.sqlite", "galago-files"
STORE_OPTION = "galago serve --store FOLDER"
Connection: TypeAlias = sqlite3.Connection


class Database:
    """Each store creates its own tables here with `create_tables`. Thread-safe.

    A damaged database is renamed, and a new one is created. Damaged rows are deleted.
    """

    def __init__(self, folder: Path) -> None:
        self.files_folder = private_folder(private_folder(folder, "store") / FILES_FOLDER, "store")
        self._path = folder / DATABASE_FILE
        self._lock = threading.Lock()
        self._tables = ""
        try:
            self._connection = self._open()
        except _Damaged as error:
            self._connection = self._start_over(str(error))

    def _open(self) -> Connection:
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
            if not self._path.is_file():
                raise _Damaged("not a file")
            return _open_exclusively(self._path)
        except (OSError, sqlite3.DatabaseError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> ConfigError:
        reason = "a server is using it; stop that server first" if "locked" in str(error) else str(error)
        return ConfigError(f"the store {self._path} cannot be used: {reason}", "store")

    def _start_over(self, reason: str) -> Connection:
        """Renames the database and the folder of files, and opens new ones."""
        number = next(n for n in itertools.count(1) if not os.path.lexists(f"{self._path}.damaged-{n}"))
        for path in (self._path, self.files_folder):
            path.rename(f"{path}.damaged-{number}")
        Path(f"{self._path}-journal").unlink(missing_ok=True)
        log(
            f"the store {self._path} is damaged ({reason:.80}). It is now {self._path.name}.damaged-{number}, and a "
            "new one was created; galago store clear deletes both"
        )
        private_folder(self.files_folder, "store")
        return self._open()

    def create_tables(self, sql: str) -> None:
        """Runs `CREATE TABLE IF NOT EXISTS` statements, and deletes damaged rows."""
        with self._lock:
            self._tables += sql
            try:
                self._create_tables(sql)
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not _is_damage(error):
                    raise self._unusable(error) from error
                self._connection.close()
                self._connection = self._start_over(str(error))
                self._create_tables(self._tables)

    def _create_tables(self, sql: str) -> None:
        self._connection.executescript(sql)
        for table, columns in _described(sql).items():
            if _columns(self._connection, table) != columns:
                raise sqlite3.DatabaseError(f"the table {table} has other columns")
            count = checksums.check(self._connection, table)
            if count:
                log(f"{count} of the {table} in the store {self._path} were damaged, and were deleted")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commits all changes made within it to disk, or none of them if it raises."""
        with self._lock:
            try:
                with self._connection:
                    yield self._connection
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                reason = f"the store {self._path} cannot be written: {error}; check the free disk space"
                if _is_damage(error):
                    reason = f"the store {self._path} is damaged: {error}; restart the server to begin with a new one"
                raise ConfigError(reason, "store") from error

    def close(self) -> None:
        with self._lock:
            self._connection.close()


class _Damaged(Exception):
    """The file is not a database, or is damaged."""


def _is_damage(error: sqlite3.DatabaseError | UnicodeDecodeError) -> bool:
    """Whether an error means that the content is wrong, rather than that the disk is full or the file in use."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def _described(sql: str) -> dict[str, list[str]]:
    """The tables that `CREATE TABLE` statements create, with their columns."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        connection.executescript(sql)
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        return {row["name"]: _columns(connection, row["name"]) for row in names}


def _columns(connection: Connection, table: str) -> list[str]:
    return [row["name"] for row in connection.execute(f"PRAGMA table_info({table})")]


def _open_exclusively(path: Path) -> Connection:
    """Opens the file and locks it while it is open. Deleted rows are overwritten. Raises `_Damaged`."""
    connection = sqlite3.connect(path, timeout=1, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        checksums.register(connection)
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = TRUNCATE", "secure_delete = ON"):
            connection.execute(f"PRAGMA {setting}")
        with connection:
            connection.execute("BEGIN EXCLUSIVE")
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise _Damaged(problem.splitlines()[-1])
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        connection.close()
        if _is_damage(error):
            raise _Damaged(str(error)) from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def status(folder: Path) -> tuple[dict[str, int], int]:
    """The number of rows by table, and the bytes of all files. Raises `ConfigError` if a server uses the folder."""
    database = Database(folder)
    with database.transaction() as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%checksums'"
        )
        names = [row["name"] for row in tables]
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
    for files in folder.glob(f"{FILES_FOLDER}*"):
        files.rmdir()
    return len(paths), size_bytes


def _paths(folder: Path) -> list[Path]:
    return [*folder.glob(f"{FILES_FOLDER}*/file-*"), *folder.glob(f"{DATABASE_FILE}*")]
