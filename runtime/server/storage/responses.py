"""Responses in a store: what was asked and answered, until it is deleted. Knows no HTTP and nothing of what a response
is but its name.
"""

from __future__ import annotations

import json

from ....models.errors import InvalidRequest
from .database import Database, Storage

MAX_TURNS = 1000
"""Responses that may follow one another."""

_STOPPED = {
    "status": "failed",
    "error": {"code": "server_error", "message": "the server ended while it made this response"},
}
_TABLE = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, previous TEXT, status TEXT NOT NULL, input BLOB NOT NULL, response BLOB NOT NULL
);
"""


class ResponseStore:
    """`input` and `response` are JSON. May be used by several threads. What an earlier server was at has failed."""

    def __init__(self, store: Storage) -> None:
        self._store = store
        store.define(_TABLE)
        with store.transaction() as database:
            _fail_unfinished(database)

    def put(self, name: str, previous: str | None, given: bytes, response: bytes) -> None:
        """Notes a response that has begun."""
        row = (name, previous, "in_progress", given, response)
        with self._store.transaction() as database:
            database.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?)", row)

    def update(self, name: str, status: str, response: bytes) -> None:
        """Notes how it ended, unless it was deleted meanwhile."""
        with self._store.transaction() as database:
            database.execute("UPDATE responses SET status = ?, response = ? WHERE id = ?", (status, response, name))

    def get(self, name: str) -> bytes | None:
        with self._store.transaction() as database:
            row = database.execute("SELECT response FROM responses WHERE id = ?", (name,)).fetchone()
        return row["response"] if row else None

    def given(self, name: str) -> bytes | None:
        """What was asked."""
        with self._store.transaction() as database:
            row = database.execute("SELECT input FROM responses WHERE id = ?", (name,)).fetchone()
        return row["input"] if row else None

    def delete(self, name: str) -> bool:
        """Whether there was one. Its bytes are overwritten."""
        with self._store.transaction() as database:
            return database.execute("DELETE FROM responses WHERE id = ?", (name,)).rowcount > 0

    def before(self, name: str) -> list[tuple[bytes, bytes]]:
        """What was asked and answered up to and with a response, the oldest first. Raises `InvalidRequest`."""
        turns: list[tuple[bytes, bytes]] = []
        at: str | None = name
        while at is not None:
            with self._store.transaction() as database:
                row = database.execute("SELECT * FROM responses WHERE id = ?", (at,)).fetchone()
            if row is None:
                gone = "" if at == name else f", which went before {name!r:.100},"
                raise InvalidRequest(f"the response {at!r:.100}{gone} is not stored here", "previous_response_id")
            if row["status"] not in ("completed", "incomplete"):
                message = f"the response {at!r:.100} is {row['status']}, so that nothing can follow it"
                raise InvalidRequest(message, "previous_response_id")
            if len(turns) == MAX_TURNS:
                message = f"more than {MAX_TURNS} responses follow one another; begin anew"
                raise InvalidRequest(message, "previous_response_id")
            turns.append((row["input"], row["response"]))
            at = row["previous"]
        return turns[::-1]


def _fail_unfinished(database: Database) -> None:
    for row in database.execute("SELECT id, response FROM responses WHERE status = 'in_progress'").fetchall():
        failed = json.dumps(json.loads(row["response"]) | _STOPPED).encode()
        database.execute("UPDATE responses SET status = 'failed', response = ? WHERE id = ?", (failed, row["id"]))
