"""Responses in a folder that the user has named: what was asked and answered, until it is deleted.

One SQLite file, its owner's alone to read, since it holds what people have written. One server at a time uses it.
Knows no HTTP and nothing of what a response is but its name.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from sqlite3 import Connection, DatabaseError, Row, connect

from ....models.errors import ConfigError, InvalidRequest
from ...store import private_folder

FILE = "responses.sqlite"
MAX_TURNS = 1000
"""Responses that may follow one another."""

_STOPPED = {
    "status": "failed",
    "error": {"code": "server_error", "message": "the server ended while it made this response"},
}
_TABLE = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, previous TEXT, status TEXT NOT NULL, input BLOB NOT NULL, response BLOB NOT NULL
)
"""


class ResponseStore:
    """`input` and `response` are JSON. May be used by several threads."""

    def __init__(self, folder: Path) -> None:
        path = private_folder(folder) / FILE
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
            self._database = _opened(path)
        except (OSError, DatabaseError) as error:
            raise ConfigError(f"{path} cannot be used to store responses: {error}", "store") from error
        self._lock = threading.Lock()

    def put(self, name: str, previous: str | None, given: bytes, response: bytes) -> None:
        """Notes a response that has begun."""
        row = (name, previous, "in_progress", given, response)
        with self._lock, self._database as database:
            database.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?)", row)

    def update(self, name: str, status: str, response: bytes) -> None:
        """Notes how it ended, unless it was deleted meanwhile."""
        with self._lock, self._database as database:
            database.execute("UPDATE responses SET status = ?, response = ? WHERE id = ?", (status, response, name))

    def get(self, name: str) -> bytes | None:
        with self._lock:
            row = self._database.execute("SELECT response FROM responses WHERE id = ?", (name,)).fetchone()
        return row["response"] if row else None

    def delete(self, name: str) -> bool:
        """Whether there was one. Its bytes are overwritten."""
        with self._lock, self._database as database:
            return database.execute("DELETE FROM responses WHERE id = ?", (name,)).rowcount > 0

    def before(self, name: str) -> list[tuple[bytes, bytes]]:
        """What was asked and answered up to and with a response, the oldest first. Raises `InvalidRequest`."""
        turns: list[tuple[bytes, bytes]] = []
        at: str | None = name
        while at is not None:
            with self._lock:
                row = self._database.execute("SELECT * FROM responses WHERE id = ?", (at,)).fetchone()
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

    def close(self) -> None:
        with self._lock:
            self._database.close()


def _opened(path: Path) -> Connection:
    """The file, locked for as long as it is open. What an earlier server was at when it ended has failed."""
    database = connect(path, timeout=1, check_same_thread=False)
    try:
        database.row_factory = Row
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "secure_delete = ON"):
            database.execute(f"PRAGMA {setting}")
        with database:
            database.execute(_TABLE)
            _fail_unfinished(database)
    except BaseException:
        database.close()
        raise
    return database


def _fail_unfinished(database: Connection) -> None:
    for row in database.execute("SELECT id, response FROM responses WHERE status = 'in_progress'").fetchall():
        failed = json.dumps(json.loads(row["response"]) | _STOPPED).encode()
        database.execute("UPDATE responses SET status = 'failed', response = ? WHERE id = ?", (failed, row["id"]))
