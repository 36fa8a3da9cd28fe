"""Stored responses: the input and the response, until it is deleted."""

from __future__ import annotations

import json

from ....models.errors import InvalidRequest
from .database import Connection, Database

MAX_TURNS = 1000
"""Responses in one conversation."""

_INTERRUPTED = {
    "status": "failed",
    "error": {"code": "server_error", "message": "the server stopped before the response was finished"},
}
_TABLE = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, previous TEXT, status TEXT NOT NULL, input BLOB NOT NULL, response BLOB NOT NULL
);
"""


class ResponseStore:
    """Input items and responses are JSON. Thread-safe. Responses that an earlier server did not finish have failed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create_tables(_TABLE)
        with database.transaction() as connection:
            _fail_unfinished(connection)

    def add(self, response_id: str, previous_id: str | None, items: bytes, response: bytes) -> None:
        """Adds a response that is in progress."""
        row = (response_id, previous_id, "in_progress", items, response)
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?)", row)

    def update(self, response_id: str, status: str, response: bytes) -> None:
        """Stores how a response ended, unless it has been deleted."""
        row = (status, response, response_id)
        with self._database.transaction() as connection:
            connection.execute("UPDATE responses SET status = ?, response = ? WHERE id = ?", row)

    def get(self, response_id: str) -> bytes | None:
        with self._database.transaction() as connection:
            row = connection.execute("SELECT response FROM responses WHERE id = ?", (response_id,)).fetchone()
        return row["response"] if row else None

    def input_items(self, response_id: str) -> bytes | None:
        with self._database.transaction() as connection:
            row = connection.execute("SELECT input FROM responses WHERE id = ?", (response_id,)).fetchone()
        return row["input"] if row else None

    def delete(self, response_id: str) -> bool:
        """Returns whether there was such a response. Its bytes are overwritten."""
        with self._database.transaction() as connection:
            return connection.execute("DELETE FROM responses WHERE id = ?", (response_id,)).rowcount > 0

    def conversation(self, last_id: str) -> list[tuple[bytes, bytes]]:
        """The input items and responses up to and including a response, oldest first. Raises `InvalidRequest`."""
        turns: list[tuple[bytes, bytes]] = []
        current: str | None = last_id
        while current is not None:
            with self._database.transaction() as connection:
                row = connection.execute("SELECT * FROM responses WHERE id = ?", (current,)).fetchone()
            problem = None
            if row is None:
                before = "" if current == last_id else f", which comes before {last_id!r:.100},"
                problem = f"the response {current!r:.100}{before} is not stored on this server"
            elif row["status"] not in ("completed", "incomplete"):
                problem = f"the response {current!r:.100} is {row['status']}, so the conversation cannot continue there"
            elif len(turns) == MAX_TURNS:
                problem = f"the conversation has more than {MAX_TURNS} responses; start a new one"
            if problem is not None:
                raise InvalidRequest(problem, "previous_response_id")
            turns.append((row["input"], row["response"]))
            current = row["previous"]
        return turns[::-1]


def _fail_unfinished(connection: Connection) -> None:
    for row in connection.execute("SELECT id, response FROM responses WHERE status = 'in_progress'").fetchall():
        failed = json.dumps(json.loads(row["response"]) | _INTERRUPTED).encode()
        connection.execute("UPDATE responses SET status = 'failed', response = ? WHERE id = ?", (failed, row["id"]))
