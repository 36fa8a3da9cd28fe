"""The store of a server: damage on the disk never stops the start, and is never served."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from galago.runtime.server.storage import database
from galago.runtime.server.storage.batch_store import BatchStore
from galago.runtime.server.storage.database import DATABASE_FILE, Database
from galago.runtime.server.storage.file_store import FileStore
from galago.runtime.server.storage.responses import ResponseStore

INPUT, RESPONSE = b'[{"content": "what a person wrote"}]', b'{"id": "resp_1", "status": "completed", "output": []}'


def filled(folder: Path) -> Path:
    store, responses = opened(folder)
    for number in range(3):
        responses.add(f"resp_{number}", None, INPUT, RESPONSE)
        responses.update(f"resp_{number}", "completed", RESPONSE)
    store.close()
    return folder / DATABASE_FILE


def opened(folder: Path) -> tuple[Database, ResponseStore]:
    store = Database(folder)
    BatchStore(FileStore(store))
    return store, ResponseStore(store)


def served(folder: Path) -> list[tuple[str, bytes | None, bytes | None]]:
    store, responses = opened(folder)
    ids = [f"resp_{number}" for number in range(3)]
    found = [(id, responses.input_items(id), responses.get(id)) for id in ids if responses.get(id) is not None]
    store.close()
    return found


def test_rows_survive_a_restart(tmp_path: Path) -> None:
    filled(tmp_path)
    assert served(tmp_path) == served(tmp_path) == [(f"resp_{i}", INPUT, RESPONSE) for i in range(3)]


def test_a_row_that_changed_on_the_disk_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled(tmp_path)
    content = bytearray(path.read_bytes())
    at = content.index(b"what a person wrote")
    content[at] ^= 1
    path.write_bytes(content)
    assert len(served(tmp_path)) == 2
    assert "1 of the responses in the store" in capsys.readouterr().err
    assert len(served(tmp_path)) == 2 and not capsys.readouterr().err


def test_rows_of_an_earlier_version_are_kept(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.create_function("row_checksum", -1, lambda *_: b"")
        for name in ("inserted", "updated", "deleted"):
            connection.execute(f"DROP TRIGGER responses_{name}")
        connection.execute("DROP TABLE checksums")
    assert len(served(tmp_path)) == 3


def test_a_changed_bit_anywhere_neither_stops_the_start_nor_changes_a_row(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole").read_bytes()
    used = [at for at in range(len(whole)) if whole[at] or at < 100]
    for number, at in enumerate(used[::701]):
        folder = tmp_path / str(number)
        folder.mkdir(mode=0o700)
        (folder / DATABASE_FILE).write_bytes(whole[:at] + bytes([whole[at] ^ 1 << number % 8]) + whole[at + 1 :])
        for _, items, response in served(folder):
            assert (items, response) == (INPUT, RESPONSE), at


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def text(path: Path) -> None:
    path.write_text("no database" * 1000)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [zeros, cut, text, pipe])
def test_a_damaged_database_is_set_aside_until_it_is_cleared(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = filled(tmp_path)
    damage(path)
    assert served(tmp_path) == []
    assert "is damaged" in capsys.readouterr().err and (tmp_path / f"{DATABASE_FILE}.damaged-1").exists()
    store, responses = opened(tmp_path)
    responses.add("resp_new", None, INPUT, RESPONSE)
    store.close()
    database.clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_not_taken_for_damage(tmp_path: Path) -> None:
    for code, is_damage in ((sqlite3.SQLITE_FULL, False), (sqlite3.SQLITE_BUSY, False), (sqlite3.SQLITE_CORRUPT, True)):
        error = sqlite3.OperationalError("some error")
        error.sqlite_errorcode = code
        assert database._is_damage(error) == is_damage
