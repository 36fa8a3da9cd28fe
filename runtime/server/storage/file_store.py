"""Uploaded files in a store: their names in a table, their bytes in its folder. Knows no HTTP."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from ....models.errors import ConfigError, NotFound, RequestTooLarge
from ..http import pagination
from ..openai.files.schema import FileObject
from .database import Database, Storage

MOST_BYTES = 4 * 2**30
"""Of all uploaded files together."""

_TABLE = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, filename TEXT NOT NULL,
    purpose TEXT NOT NULL, expires_at INTEGER
);
"""


class FileStore:
    """A file is there from when its row is; bytes without one, which a killed server left behind, are deleted."""

    def __init__(self, store: Storage) -> None:
        self.store = store
        self._folder = store.blobs
        store.define(_TABLE)
        self.sweep()
        with store.transaction() as database:
            known = {row["id"] for row in database.execute("SELECT id FROM files")}
        for path in self._folder.glob("file-*"):
            if path.name not in known:
                path.unlink()

    def add(self, chunks: Iterable[bytes], filename: str, purpose: str, expires_at: int | None = None) -> FileObject:
        """Keeps an uploaded file. Raises `TooLarge` where there is no room for it."""
        self.sweep()
        file = self.write(chunks, filename, purpose, expires_at)
        with self.store.transaction() as database:
            taken = database.execute("SELECT coalesce(sum(bytes), 0) FROM files").fetchone()[0]
            if taken + file.bytes <= MOST_BYTES:
                insert(database, file)
                return file
        self._unlink([file.id])
        raise RequestTooLarge(
            f"the files here take {taken} bytes, and with this one of {file.bytes} they would exceed the limit of "
            f"{MOST_BYTES}; delete some (DELETE /v1/files/ID)",
            "file",
        )

    def write(self, chunks: Iterable[bytes], filename: str, purpose: str, expires_at: int | None) -> FileObject:
        """Writes the bytes of a file which is there as soon as somebody inserts it."""
        name, size = f"file-{uuid.uuid4().hex}", 0
        try:
            handle = os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    size += file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._unlink([name])
            raise ConfigError(f"{self._folder} takes no more files: {error.strerror}", "store") from error
        return FileObject(name, size, int(time.time()), filename, purpose, expires_at)

    def get(self, name: str, field: str = "file_id") -> FileObject:
        """Raises `NotFound`, naming the field, where there is no such file any more."""
        with self.store.transaction() as database:
            row = database.execute("SELECT * FROM files WHERE id = ?", (name,)).fetchone()
        now = int(time.time())
        if row is None or (row["expires_at"] or now) < now:
            raise NotFound(f"{field}: there is no file {name!r:.100} here", field)
        return FileObject(*row)

    def read(self, name: str, field: str) -> bytes:
        try:
            return self.path(self.get(name, field).id).read_bytes()
        except FileNotFoundError:  # deleted this very moment
            raise NotFound(f"{field}: there is no file {name!r:.100} here", field) from None

    def path(self, name: str) -> Path:
        return self._folder / name

    def page(
        self, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> tuple[Sequence[FileObject], bool]:
        """So many files behind the one named `after`, and whether there are more."""
        self.sweep()
        order = "DESC" if newest_first else "ASC"
        with self.store.transaction() as database:
            rows = database.execute(
                f"SELECT * FROM files WHERE ? IS NULL OR purpose = ? ORDER BY created_at {order}, rowid {order}",
                (purpose, purpose),
            ).fetchall()
        return pagination.cut([FileObject(*row) for row in rows], after, limit)

    def delete(self, name: str) -> None:
        self.get(name)
        with self.store.transaction() as database:
            database.execute("DELETE FROM files WHERE id = ?", (name,))
        self._unlink([name])

    def sweep(self) -> None:
        """Deletes what has expired."""
        now = int(time.time())
        with self.store.transaction() as database:
            gone = [row["id"] for row in database.execute("SELECT id FROM files WHERE expires_at < ?", (now,))]
            database.execute("DELETE FROM files WHERE expires_at < ?", (now,))
        self._unlink(gone)

    def _unlink(self, names: Sequence[str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self.path(name).unlink()


def insert(database: Database, file: FileObject) -> None:
    row = (file.id, file.bytes, file.created_at, file.filename, file.purpose, file.expires_at)
    database.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", row)
