"""Checksums of all rows of a database, written by triggers, so that rows that have changed on the disk are found."""

from __future__ import annotations

import hashlib
import sqlite3

_TABLE = """
CREATE TABLE IF NOT EXISTS checksums (
    source TEXT NOT NULL, key TEXT NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (source, key)
) WITHOUT ROWID;
"""
_TRIGGERS = """
CREATE TRIGGER {table}_inserted AFTER INSERT ON {table} BEGIN
    INSERT OR REPLACE INTO checksums VALUES ('{table}', {new_key}, {new_checksum});
END;
CREATE TRIGGER {table}_updated AFTER UPDATE ON {table} BEGIN
    INSERT OR REPLACE INTO checksums VALUES ('{table}', {new_key}, {new_checksum});
END;
CREATE TRIGGER {table}_deleted AFTER DELETE ON {table} BEGIN
    DELETE FROM checksums WHERE source = '{table}' AND key = {old_key};
END;
INSERT INTO checksums SELECT '{table}', {key}, {checksum} FROM {table};
"""


def register(connection: sqlite3.Connection) -> None:
    """Defines the function that the triggers call. Needed on every connection."""
    connection.create_function("row_checksum", -1, _checksum, deterministic=True)


def check(connection: sqlite3.Connection, table: str) -> int:
    """Deletes the rows of a table that have changed on the disk, and returns their number. Adds missing triggers."""
    columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
    names = [column["name"] for column in columns]
    keys = [column["name"] for column in columns if column["pk"]]
    connection.executescript(_TABLE)
    watched = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = ?"
    if not connection.execute(watched, (f"{table}_inserted",)).fetchone():
        connection.executescript(
            _TRIGGERS.format(
                table=table,
                key=_key(keys),
                new_key=_key(keys, "NEW."),
                old_key=_key(keys, "OLD."),
                checksum=_row(names),
                new_checksum=_row(names, "NEW."),
            )
        )
        return 0
    known = f"SELECT checksum FROM checksums WHERE source = '{table}' AND key = {_key(keys)}"
    with connection:
        changed = connection.execute(f"DELETE FROM {table} WHERE {_row(names)} IS NOT ({known})").rowcount
        lost = connection.execute(
            f"DELETE FROM checksums WHERE source = '{table}' AND key NOT IN (SELECT {_key(keys)} FROM {table})"
        ).rowcount
    return max(changed, lost)


def _key(names: list[str], prefix: str = "") -> str:
    return " || ':' || ".join(f"CAST({prefix}{name} AS TEXT)" for name in names)


def _row(names: list[str], prefix: str = "") -> str:
    """A row's checksum in SQL. Bytes are compared, because a damaged text may no longer be text."""
    values = (f"typeof({prefix}{name}), CAST({prefix}{name} AS BLOB)" for name in names)
    return f"row_checksum({', '.join(values)})"


def _checksum(*values: str | bytes | None) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        data = value.encode() if isinstance(value, str) else value or b""
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()
