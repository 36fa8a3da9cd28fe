"""Stored responses: the input and the response, until it is deleted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ....models.errors import InvalidRequest
from .database import Connection, Database

MAX_TURNS = 1000
"""Most responses in one conversation."""

_INTERRUPTED = {
    "status": "failed",
    "error": {"code": "server_error", "message": "the server stopped before the response was finished"},
}
_TABLE = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, previous TEXT, status TEXT NOT NULL, input BLOB NOT NULL, response BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS response_items (
    response TEXT NOT NULL REFERENCES responses (id), item TEXT NOT NULL, PRIMARY KEY (response, item)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS response_items_by_item ON response_items (item);
"""
_FIND_ITEM = """
SELECT id, input, responses.response FROM responses JOIN response_items ON response_items.response = id
WHERE item = ? ORDER BY responses.rowid DESC LIMIT 1
"""


class _Item(Struct):
    id: Any = None


class _Output(Struct):
    output: list[_Item]


class ResponseStore:
    """Stores input items and responses as JSON. Thread-safe. Responses that an earlier server left unfinished fail."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create_tables(_TABLE)
        with database.transaction() as connection:
            _fail_unfinished(connection)
            _add_missing_items(connection)

    def add(self, response_id: str, previous_id: str | None, items: bytes, response: bytes) -> None:
        """Adds a response that is in progress."""
        row = (response_id, previous_id, "in_progress", items, response)
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?)", row)
            _add_items(connection, response_id, msgspec.json.decode(items, type=list[_Item]))

    def update(self, response_id: str, status: str, response: bytes) -> None:
        """Stores how a response ended, unless it has been deleted."""
        row = (status, response, response_id)
        with self._database.transaction() as connection:
            if connection.execute("UPDATE responses SET status = ?, response = ? WHERE id = ?", row).rowcount:
                _add_items(connection, response_id, msgspec.json.decode(response, type=_Output).output)

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
            connection.execute("DELETE FROM response_items WHERE response = ?", (response_id,))
            return connection.execute("DELETE FROM responses WHERE id = ?", (response_id,)).rowcount > 0

    def items(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The stored items of input and output with these ids; the newest, if several have the same id."""
        items_by_id: dict[str, dict[str, Any]] = {}
        decoded: dict[str, dict[str, dict[str, Any]]] = {}
        for item_id in ids:
            with self._database.transaction() as connection:
                row = connection.execute(_FIND_ITEM, (item_id,)).fetchone()
            if row is None:
                continue
            if row["id"] not in decoded:
                items = [*msgspec.json.decode(row["input"]), *msgspec.json.decode(row["response"])["output"]]
                decoded[row["id"]] = {item["id"]: item for item in items if isinstance(item.get("id"), str)}
            items_by_id[item_id] = decoded[row["id"]][item_id]
        return items_by_id

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


def _add_items(connection: Connection, response_id: str, items: Sequence[_Item]) -> None:
    rows = [(response_id, item.id) for item in items if isinstance(item.id, str)]
    connection.executemany("INSERT OR IGNORE INTO response_items VALUES (?, ?)", rows)


def _add_missing_items(connection: Connection) -> None:
    """Adds the items of responses that an earlier version stored."""
    query = "SELECT id, input, response FROM responses WHERE id NOT IN (SELECT response FROM response_items)"
    for row in connection.execute(query).fetchall():
        _add_items(connection, row["id"], msgspec.json.decode(row["input"], type=list[_Item]))
        _add_items(connection, row["id"], msgspec.json.decode(row["response"], type=_Output).output)


def _fail_unfinished(connection: Connection) -> None:
    for row in connection.execute("SELECT id, response FROM responses WHERE status = 'in_progress'").fetchall():
        failed = json.dumps(json.loads(row["response"]) | _INTERRUPTED).encode()
        connection.execute("UPDATE responses SET status = 'failed', response = ? WHERE id = ?", (failed, row["id"]))
