"""Batches: their lines, and the answer to each line, which is written once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from ....models.errors import InvalidRequest, NotFound
from ..http import pagination
from ..openai.batches.schema import Batch, ExpiresAfter, LineFailure, LineRequest, LineResult, RequestCounts, Status
from .database import Connection
from .file_store import FileStore, insert

_TABLES = """
CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, open INTEGER NOT NULL, keep INTEGER, batch BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS batch_lines (
    batch TEXT NOT NULL, number INTEGER NOT NULL, custom_id TEXT NOT NULL, body BLOB NOT NULL,
    good INTEGER, result BLOB, PRIMARY KEY (batch, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch_owners (batch TEXT PRIMARY KEY, owner TEXT NOT NULL);
"""
_UNANSWERED: dict[Status, LineFailure] = {
    "expired": LineFailure("batch_expired", "the completion window ended before this line was answered"),
    "cancelled": LineFailure("batch_cancelled", "the batch was cancelled before this line was answered"),
}


@dataclass(frozen=True, slots=True)
class BatchLine:
    number: int
    custom_id: str
    body: bytes


class BatchStore:
    """The answer to a line, and the end of a batch, are stored in full or not at all, even if the server is killed."""

    def __init__(self, files: FileStore) -> None:
        self._database = files.database
        self._files = files
        self._database.create_tables(_TABLES)

    def add(
        self,
        batch: Batch,
        lines: Iterable[LineRequest],
        output_expires_after: ExpiresAfter | None,
        owner: str | None = None,
    ) -> None:
        """Stores a new batch; `owner` is the name of the API key that created it."""
        encode = msgspec.json.encode
        rows = ((batch.id, i, line.custom_id, line.encoded_body) for i, line in enumerate(lines))
        with self._database.transaction() as connection:
            keep_seconds = output_expires_after.seconds if output_expires_after else None
            row = (batch.id, batch.status == "in_progress", keep_seconds, encode(batch))
            connection.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", row)
            if owner is not None:
                connection.execute("INSERT INTO batch_owners VALUES (?, ?)", (batch.id, owner))
            connection.executemany("INSERT INTO batch_lines VALUES (?, ?, ?, ?, NULL, NULL)", rows)

    def owner(self, batch_id: str) -> str | None:
        """The name of the API key that created a batch, if the server had keys."""
        with self._database.transaction() as connection:
            row = connection.execute("SELECT owner FROM batch_owners WHERE batch = ?", (batch_id,)).fetchone()
            return None if row is None else str(row["owner"])

    def get(self, batch_id: str) -> Batch:
        """The batch with its current progress. Raises `NotFound`."""
        with self._database.transaction() as connection:
            return _batch(connection, batch_id)

    def page(self, after: str | None, limit: int) -> tuple[list[Batch], bool]:
        """At most `limit` batches after the one with the id `after`, newest first, and whether there are more."""
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT id FROM batches ORDER BY rowid DESC")
            page, more = pagination.page([pagination.ListEntry(row["id"]) for row in rows], after, limit)
            return [_batch(connection, row.id) for row in page], more

    def next_open(self) -> Batch | None:
        """The oldest batch that has not ended."""
        with self._database.transaction() as connection:
            row = connection.execute("SELECT id FROM batches WHERE open ORDER BY rowid LIMIT 1").fetchone()
            return None if row is None else _batch(connection, row["id"])

    def unanswered(self, batch_id: str) -> list[int]:
        """The numbers of the lines that have no answer yet."""
        query = "SELECT number FROM batch_lines WHERE batch = ? AND result IS NULL ORDER BY number"
        with self._database.transaction() as connection:
            return [row["number"] for row in connection.execute(query, (batch_id,))]

    def line(self, batch_id: str, number: int) -> BatchLine:
        query = "SELECT number, custom_id, body FROM batch_lines WHERE batch = ? AND number = ?"
        with self._database.transaction() as connection:
            return BatchLine(*connection.execute(query, (batch_id, number)).fetchone())

    def answer(self, batch_id: str, line: BatchLine, result: LineResult) -> None:
        """Stores the answer to a line, unless it has one."""
        succeeded = result.response is not None and result.response.status_code == 200
        row = (succeeded, msgspec.json.encode(result), batch_id, line.number)
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE batch_lines SET good = ?, result = ? WHERE batch = ? AND number = ? AND result IS NULL", row
            )

    def cancel(self, batch_id: str) -> Batch:
        """Marks a batch for cancellation. Raises `InvalidRequest` if it has ended."""
        with self._database.transaction() as connection:
            batch = _batch(connection, batch_id)
            if batch.status not in ("in_progress", "cancelling"):
                raise InvalidRequest(f"the batch {batch_id} is {batch.status} and cannot be cancelled", "batch_id")
            batch.status, batch.cancelling_at = "cancelling", batch.cancelling_at or int(time.time())
            _save(connection, batch)
        return batch

    def end(self, batch: Batch, status: Status) -> None:
        """Ends a batch: writes its output files, in which each line has one answer, and deletes the lines."""
        now = int(time.time())
        with self._database.transaction() as connection:
            row = connection.execute("SELECT keep FROM batches WHERE id = ?", (batch.id,)).fetchone()
            keep_seconds = row["keep"]
            batch = _batch(connection, batch.id)
        total, good = batch.request_counts.total, batch.request_counts.completed
        batch.request_counts = RequestCounts(total, good, total - good)
        batch.status, batch.finalizing_at = status, now
        setattr(batch, f"{status}_at", now)
        expires_at = None if keep_seconds is None else now + keep_seconds
        files = []
        for field, count in (("output", good), ("error", total - good)):
            if count:
                lines = self._results(batch.id, status, good=field == "output")
                stored = self._files.write(lines, f"{batch.id}_{field}.jsonl", "batch_output", expires_at)
                setattr(batch, f"{field}_file_id", stored.file.id)
                files.append(stored)
        with self._database.transaction() as connection:
            for stored in files:
                insert(connection, stored)
            _save(connection, batch)
            connection.execute("DELETE FROM batch_lines WHERE batch = ?", (batch.id,))
            connection.execute("DELETE FROM batch_owners WHERE batch = ?", (batch.id,))

    def _results(self, batch_id: str, status: Status, good: bool) -> Iterator[bytes]:
        """The lines of an output file or of an error file, one in memory at a time."""
        columns, where = "number, custom_id, result", "batch = ? AND coalesce(good, 0) = ? AND number > ?"
        query = f"SELECT {columns} FROM batch_lines WHERE {where} ORDER BY number LIMIT 1"
        number = -1
        while True:
            with self._database.transaction() as connection:
                row = connection.execute(query, (batch_id, good, number)).fetchone()
            if row is None:
                return
            number = row["number"]
            yield (row["result"] or _unanswered_result(row["custom_id"], status)) + b"\n"


def _unanswered_result(custom_id: str, status: Status) -> bytes:
    """The output line for a request that was not answered before its batch ended."""
    return msgspec.json.encode(LineResult(new_request_id(), custom_id, None, _UNANSWERED[status]))


def new_request_id() -> str:
    return f"batch_req_{uuid.uuid4().hex}"


def _batch(connection: Connection, batch_id: str) -> Batch:
    row = connection.execute("SELECT batch, open FROM batches WHERE id = ?", (batch_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no batch {batch_id!r:.100} on this server", "batch_id")
    batch = msgspec.json.decode(row["batch"], type=Batch)
    if row["open"]:
        batch.request_counts = _request_counts(connection, batch_id)
    return batch


def _request_counts(connection: Connection, batch_id: str) -> RequestCounts:
    query = "SELECT count(*), count(*) FILTER (WHERE good), count(*) FILTER (WHERE NOT good) FROM batch_lines"
    counts: Any = connection.execute(f"{query} WHERE batch = ?", (batch_id,)).fetchone()
    return RequestCounts(*counts)


def _save(connection: Connection, batch: Batch) -> None:
    is_open = batch.status in ("in_progress", "cancelling")
    row = (is_open, msgspec.json.encode(batch), batch.id)
    connection.execute("UPDATE batches SET open = ?, batch = ? WHERE id = ?", row)
