"""Batches in a store: their lines, and the answer of each, which is written once. Knows no HTTP and runs nothing."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ....models.errors import InvalidRequest, NotFound
from ..http import pagination
from ..openai.batches.schema import Batch, Counts, ExpiresAfter, LineFailure, LineRequest, LineResult, Status
from .database import Database
from .file_store import FileStore, insert

_TABLES = """
CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, open INTEGER NOT NULL, keep INTEGER, batch BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS batch_lines (
    batch TEXT NOT NULL, number INTEGER NOT NULL, custom_id TEXT NOT NULL, body BLOB NOT NULL,
    good INTEGER, result BLOB, PRIMARY KEY (batch, number)
) WITHOUT ROWID;
"""
_ENDS: dict[Status, LineFailure] = {
    "expired": LineFailure("batch_expired", "the completion window was over before this line was answered"),
    "cancelled": LineFailure("batch_cancelled", "the batch was cancelled before this line was answered"),
}


@dataclass(frozen=True, slots=True)
class BatchLine:
    number: int
    custom_id: str
    body: bytes


class BatchStore:
    """A line's answer is there or not, whenever the server is killed; what a batch's end makes of them, likewise."""

    def __init__(self, shelf: FileStore) -> None:
        self._store = shelf.store
        self._shelf = shelf
        self._store.define(_TABLES)

    def add(self, batch: Batch, lines: Sequence[LineRequest], keep: ExpiresAfter | None) -> None:
        """Notes a new batch. The files that come of it are kept for so long."""
        encode = msgspec.json.encode
        rows = ((batch.id, i, line.custom_id, encode(line.body)) for i, line in enumerate(lines))
        with self._store.transaction() as database:
            row = (batch.id, batch.status == "in_progress", keep.seconds if keep else None, encode(batch))
            database.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", row)
            database.executemany("INSERT INTO batch_lines VALUES (?, ?, ?, ?, NULL, NULL)", rows)

    def get(self, name: str) -> Batch:
        """With what is done of it now. Raises `NotFound`."""
        with self._store.transaction() as database:
            return _batch(database, name)

    def page(self, after: str | None, limit: int) -> tuple[list[Batch], bool]:
        """The newest batches, behind the one named `after`, and whether there are more."""
        with self._store.transaction() as database:
            rows = [
                pagination.ListEntry(row["id"])
                for row in database.execute("SELECT id FROM batches ORDER BY rowid DESC")
            ]
            shown, more = pagination.cut(rows, after, limit)
            return [_batch(database, row.id) for row in shown], more

    def next(self) -> Batch | None:
        """The oldest batch that has not ended."""
        with self._store.transaction() as database:
            row = database.execute("SELECT id FROM batches WHERE open ORDER BY rowid LIMIT 1").fetchone()
            return None if row is None else _batch(database, row["id"])

    def unanswered(self, name: str) -> list[int]:
        """The numbers of the lines that are still to be answered."""
        asked = "SELECT number FROM batch_lines WHERE batch = ? AND result IS NULL ORDER BY number"
        with self._store.transaction() as database:
            return [row["number"] for row in database.execute(asked, (name,))]

    def line(self, name: str, number: int) -> BatchLine:
        asked = "SELECT number, custom_id, body FROM batch_lines WHERE batch = ? AND number = ?"
        with self._store.transaction() as database:
            return BatchLine(*database.execute(asked, (name, number)).fetchone())

    def answer(self, name: str, line: BatchLine, result: LineResult) -> None:
        """Notes a line's answer, unless it has one."""
        good = result.response is not None and result.response.status_code == 200
        row = (good, msgspec.json.encode(result), name, line.number)
        with self._store.transaction() as database:
            database.execute(
                "UPDATE batch_lines SET good = ?, result = ? WHERE batch = ? AND number = ? AND result IS NULL", row
            )

    def cancel(self, name: str) -> Batch:
        """Notes that a batch is to end. Raises `InvalidRequest` where it has ended already."""
        with self._store.transaction() as database:
            batch = _batch(database, name)
            if batch.status not in ("in_progress", "cancelling"):
                raise InvalidRequest(f"the batch {name} is {batch.status} and cannot be cancelled", "batch_id")
            batch.status, batch.cancelling_at = "cancelling", batch.cancelling_at or int(time.time())
            _save(database, batch)
        return batch

    def end(self, batch: Batch, status: Status) -> None:
        """Ends a batch: writes its files, in which each line has one answer, and forgets the lines."""
        now = int(time.time())
        asked = "SELECT custom_id, good, result FROM batch_lines WHERE batch = ? ORDER BY number"
        with self._store.transaction() as database:
            keep = database.execute("SELECT keep FROM batches WHERE id = ?", (batch.id,)).fetchone()["keep"]
            batch = _batch(database, batch.id)
            rows = database.execute(asked, (batch.id,)).fetchall()
        outputs = [row["result"] for row in rows if row["good"]]
        faults = [row["result"] or _missing(row["custom_id"], status) for row in rows if not row["good"]]
        batch.request_counts = Counts(len(rows), len(outputs), len(faults))
        batch.status, batch.finalizing_at = status, now
        setattr(batch, f"{status}_at", now)
        expires_at = None if keep is None else now + keep
        files = []
        for field, results in (("output", outputs), ("error", faults)):
            if results:
                lines = (result + b"\n" for result in results)
                file = self._shelf.write(lines, f"{batch.id}_{field}.jsonl", "batch_output", expires_at)
                setattr(batch, f"{field}_file_id", file.id)
                files.append(file)
        with self._store.transaction() as database:
            for file in files:
                insert(database, file)
            _save(database, batch)
            database.execute("DELETE FROM batch_lines WHERE batch = ?", (batch.id,))


def _missing(custom_id: str, status: Status) -> bytes:
    """What stands for the answer to a line that was not answered when its batch ended."""
    return msgspec.json.encode(LineResult(request_id(), custom_id, None, _ENDS[status]))


def request_id() -> str:
    return f"batch_req_{uuid.uuid4().hex}"


def _batch(database: Database, name: str) -> Batch:
    row = database.execute("SELECT batch, open FROM batches WHERE id = ?", (name,)).fetchone()
    if row is None:
        raise NotFound(f"there is no batch {name!r:.100} here", "batch_id")
    batch = msgspec.json.decode(row["batch"], type=Batch)
    if row["open"]:
        batch.request_counts = _counts(database, name)
    return batch


def _counts(database: Database, name: str) -> Counts:
    asked = "SELECT count(*), count(*) FILTER (WHERE good), count(*) FILTER (WHERE NOT good) FROM batch_lines"
    counts: Any = database.execute(f"{asked} WHERE batch = ?", (name,)).fetchone()
    return Counts(*counts)


def _save(database: Database, batch: Batch) -> None:
    still_open = batch.status in ("in_progress", "cancelling")
    row = (still_open, msgspec.json.encode(batch), batch.id)
    database.execute("UPDATE batches SET open = ?, batch = ? WHERE id = ?", row)
