"""Uploaded files: their metadata in a table, their bytes in a folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from ....models.errors import ConfigError, NotFound, RequestTooLarge
from ..http import pagination
from ..openai.files.schema import FileObject
from .database import Connection, Database

MAX_TOTAL_BYTES = 4 * 2**30
"""Size of all uploaded files together."""

_TABLE = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, filename TEXT NOT NULL,
    purpose TEXT NOT NULL, expires_at INTEGER
);
CREATE TABLE IF NOT EXISTS file_checksums (id TEXT PRIMARY KEY, checksum BLOB NOT NULL);
"""


class StoredFile(NamedTuple):
    """A file's metadata, and the checksum of its bytes."""

    file: FileObject
    checksum: bytes


class FileStore:
    """A file exists while its row and its bytes do. Remains of others are deleted: of files that a killed server was
    writing, and of files deleted when the disk was full, so that their rows had to stay."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._folder = database.files_folder
        database.create_tables(_TABLE)
        ids = self.delete_expired()
        for path in self._folder.glob("file-*"):
            if path.name not in ids:
                path.unlink()

    def add(self, chunks: Iterable[bytes], filename: str, purpose: str, expires_at: int | None = None) -> FileObject:
        """Stores an uploaded file. Raises `RequestTooLarge` if it exceeds the limit of all files together."""
        self.delete_expired()
        stored = self.write(chunks, filename, purpose, expires_at)
        file = stored.file
        with self.database.transaction() as connection:
            used_bytes = connection.execute("SELECT coalesce(sum(bytes), 0) FROM files").fetchone()[0]
            if used_bytes + file.bytes <= MAX_TOTAL_BYTES:
                insert(connection, stored)
                return file
        self._unlink([file.id])
        raise RequestTooLarge(
            f"the file has {file.bytes} bytes and the stored files {used_bytes}, together more than the limit of "
            f"{MAX_TOTAL_BYTES}; delete files (DELETE /v1/files/ID)",
            "file",
        )

    def write(self, chunks: Iterable[bytes], filename: str, purpose: str, expires_at: int | None) -> StoredFile:
        """Writes the bytes of a file, which exists once it is inserted into the table."""
        file_id, size_bytes, digest = f"file-{uuid.uuid4().hex}", 0, _digest()
        try:
            handle = os.open(self.path(file_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    size_bytes += file.write(chunk)
                    digest.update(chunk)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._unlink([file_id])
            raise ConfigError(
                f"the file cannot be written to {self._folder}: {error.strerror}; check the free disk space", "store"
            ) from error
        file_object = FileObject(file_id, size_bytes, int(time.time()), filename, purpose, expires_at)
        return StoredFile(file_object, digest.digest())

    def get(self, file_id: str, field: str = "file_id") -> FileObject:
        """Raises `NotFound`, which names the field, if the file does not exist or has expired."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT * FROM files WHERE id = ?", (file_id,)).fetchone()
        now = int(time.time())
        if row is None or (row["expires_at"] or now) < now or not self.path(file_id).exists():
            raise _not_found(file_id, field)
        return FileObject(*row)

    def open(self, file_id: str, field: str) -> BufferedReader:
        """Opens the bytes of a file. Raises `NotFound`, as `get` does."""
        try:
            return self.path(self.get(file_id, field).id).open("rb")
        except FileNotFoundError:  # deleted meanwhile
            raise _not_found(file_id, field) from None

    def check(self, file_id: str, field: str, data: BufferedIOBase) -> None:
        """Reads the bytes of a file. Raises `NotFound` if they are not those that were stored.

        Files of earlier versions have no checksum.
        """
        with self.database.transaction() as connection:
            row = connection.execute("SELECT checksum FROM file_checksums WHERE id = ?", (file_id,)).fetchone()
        if row is not None and hashlib.file_digest(data, _digest).digest() != row["checksum"]:
            problem = f"the file {file_id!r:.100} was damaged on the disk; delete it and upload it again"
            raise NotFound(f"{field}: {problem}", field)

    def path(self, file_id: str) -> Path:
        return self._folder / file_id

    def page(
        self, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> tuple[Sequence[FileObject], bool]:
        """At most `limit` files after the one with the id `after`, and whether there are more."""
        self.delete_expired()
        order = "DESC" if newest_first else "ASC"
        with self.database.transaction() as connection:
            rows = connection.execute(
                f"SELECT * FROM files WHERE ? IS NULL OR purpose = ? ORDER BY created_at {order}, rowid {order}",
                (purpose, purpose),
            ).fetchall()
        return pagination.page([FileObject(*row) for row in rows], after, limit)

    def delete(self, file_id: str) -> None:
        self.get(file_id)
        self._delete([file_id])

    def delete_expired(self) -> set[str]:
        """Deletes files that have expired, and rows without bytes. Returns the ids of the remaining files."""
        now = int(time.time())
        with self.database.transaction() as connection:
            expires_at = dict(connection.execute("SELECT id, expires_at FROM files").fetchall())
        left = {name for name, end in expires_at.items() if (end or now) >= now and self.path(name).exists()}
        self._delete([name for name in expires_at if name not in left])
        return left

    def _delete(self, file_ids: Sequence[str]) -> None:
        """Deletes the bytes first: this makes room even on a full disk, where the rows may have to stay."""
        self._unlink(file_ids)
        with contextlib.suppress(ConfigError), self.database.transaction() as connection:
            for table in ("files", "file_checksums"):
                connection.executemany(f"DELETE FROM {table} WHERE id = ?", [(file_id,) for file_id in file_ids])

    def _unlink(self, file_ids: Sequence[str]) -> None:
        for file_id in file_ids:
            with contextlib.suppress(FileNotFoundError):
                self.path(file_id).unlink()


def _not_found(file_id: str, field: str) -> NotFound:
    return NotFound(f"{field}: there is no file {file_id!r:.100} on this server; upload it to /v1/files", field)


def _digest() -> Any:
    return hashlib.blake2b(digest_size=16)


def insert(connection: Connection, stored: StoredFile) -> None:
    file = stored.file
    row = (file.id, file.bytes, file.created_at, file.filename, file.purpose, file.expires_at)
    connection.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.execute("INSERT INTO file_checksums VALUES (?, ?)", (file.id, stored.checksum))
