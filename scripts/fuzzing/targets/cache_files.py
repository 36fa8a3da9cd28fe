"""Every reader of files that Galago keeps, on changed files: it must return the original content, or nothing."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuzzing.target import Target
from galago.models.json_file import JsonFile
from galago.models.registry import catalog, imported
from galago.models.registry.imported import ImportedModel
from galago.quantize.calibrate import calibration, imatrix
from galago.quantize.calibrate.collect_job import CHECKSUM, DONE, KEY
from galago.quantize.calibrate.imatrix import ImatrixEntry, ImportanceMatrix
from galago.quantize.evaluate.record_log import RecordLog
from galago.runtime.cache.disk_cache import DiskCache, entries
from galago.runtime.cache.prefix_cache import CachedPrefix, PrefixCache
from galago.runtime.server.storage.batch_store import BatchStore
from galago.runtime.server.storage.database import DATABASE_FILE, Database
from galago.runtime.server.storage.file_store import FileStore
from galago.runtime.server.storage.responses import ResponseStore

_SHARED_MEMORY = Path("/dev/shm")
_PREFIX = CachedPrefix([1, 2, 3] * 20, (0.5,), b"saved cells " * 30)
_RECORDS: list[dict[str, Any]] = [
    {"id": "0.1", "nll": [1.5, 2.25], "tokens": "abc"},
    {"id": "1", "failed": "no"},
    {"id": "2"},
]
_MODELS = [ImportedModel("a", (Path("/models/a.gguf"),), None, "here", "Q8_0", ("f00",))]
_MATRIX = ImportanceMatrix({"blk.0.w": ImatrixEntry(np.ones((1, 32), np.float32), np.ones(1, np.float32))}, ("a",), 3)
_INPUT, _RESPONSE = b'[{"content": "a question"}]', b'{"id": "resp_1", "output": []}'
_CATALOG = b'[[model]]\nname = "mine"\nrepository = "me/my-GGUF"\nparameters = 3\nsenses = ["vision"]\n'


@dataclass(frozen=True)
class Kind:
    """One kind of kept file.

    `write` makes a file in a folder and returns its path. `read` reads it, and returns parts of the content that it
    accepts. None of them may be missing from what the unchanged file holds, which is checked if `has_checksum`.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], list[Any]]
    has_checksum: bool = True


def _json_file(folder: Path) -> JsonFile[dict[str, list[float]]]:
    return JsonFile(folder / "kept.json", lambda rows: {str(k): list(map(float, v)) for k, v in rows.items()}, dict)


def _write_json(folder: Path) -> Path:
    _json_file(folder).update(lambda _: {"Q8_0": [1.25, 1e9], "ключ": [0.0]})
    return _json_file(folder).path


def _imported_file(folder: Path) -> JsonFile[list[ImportedModel]]:
    return JsonFile(folder / "imported.json", imported._parse, list, imported._serialize, durable=True)


def _write_imported(folder: Path) -> Path:
    _imported_file(folder).update(lambda _: _MODELS)
    return _imported_file(folder).path


def _read_imported(path: Path) -> list[Any]:
    with contextlib.suppress(OSError, ValueError):  # the documented errors of a durable file
        return _imported_file(path.parent).read()
    return []


def _write_records(folder: Path) -> Path:
    log = RecordLog(folder / "records.jsonl")
    log.extend(_RECORDS)
    log.finish()
    return folder / "records.jsonl"


def _open_cache(folder: Path) -> DiskCache:
    return DiskCache(folder, ["a model"], 1 << 20, lambda _: None)


def _write_prefix(folder: Path) -> Path:
    disk = _open_cache(folder)
    PrefixCache(0, disk).store(_PREFIX)
    disk.close()
    [entry] = entries(folder)
    return entry.path


def _read_prefix(path: Path) -> list[Any]:
    disk = _open_cache(path.parent)
    prefixes = PrefixCache(0, disk)
    found, shared = prefixes.find(_PREFIX.items, _PREFIX.adapters)
    data = None if found is None else prefixes.read(found)
    direct = disk.read(path)
    disk.close()
    return [bytes(one) for one in (data, direct) if one is not None] + ([shared] if found else [])


def _write_state(folder: Path) -> Path:
    path = folder / "matrix.part"
    imatrix.write(path, _MATRIX, {DONE: 3, KEY: "a key", CHECKSUM: _MATRIX.checksum(3, "a key")})
    return path


def _read_state(path: Path) -> list[Any]:
    done = calibration._done_segments(path, "a key")
    return [done, imatrix.read(path).checksum()] if done else []


def _open_store(folder: Path) -> tuple[Database, ResponseStore]:
    database = Database(folder)
    BatchStore(FileStore(database))
    return database, ResponseStore(database)


def _write_store(folder: Path) -> Path:
    database, responses = _open_store(folder)
    for name in "ab":
        responses.add(name, None, _INPUT, _RESPONSE)
        responses.update(name, "completed", _RESPONSE)
    database.close()
    return folder / DATABASE_FILE


def _read_store(path: Path) -> list[Any]:
    database, responses = _open_store(path.parent)
    found = [(name, responses.input_items(name), responses.get(name)) for name in "ab"]
    database.close()
    return [row for row in found if row[1] is not None]


def _write_catalog(folder: Path) -> Path:
    (folder / "catalog.toml").write_bytes(_CATALOG)
    return folder / "catalog.toml"


KINDS = {
    "json": Kind(_write_json, lambda path: list(_json_file(path.parent).read().items())),
    "imported models": Kind(_write_imported, _read_imported),
    "records": Kind(_write_records, lambda path: RecordLog(path).records),
    "prefix": Kind(_write_prefix, _read_prefix),
    "calibration": Kind(_write_state, _read_state),
    "store": Kind(_write_store, _read_store),
    "catalog": Kind(_write_catalog, lambda path: list(catalog.entries(path)), has_checksum=False),
}


@contextlib.contextmanager
def _folder() -> Any:
    place = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        yield Path(name)


@cache
def _original(kind: str) -> tuple[str, bytes, list[Any]]:
    """Returns the name and the bytes of a file that was not changed, and what is read from it."""
    with _folder() as folder:
        path = KINDS[kind].write(folder)
        content = path.read_bytes()
        read = KINDS[kind].read(path)
    assert read, f"{kind}: nothing is read from an unchanged file"
    return path.name, content, read


def _changed(content: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    for change, position, value in changes:
        at = position % (len(content) + 1)
        head, tail = content[:at], content[at:]
        content = {
            "flip": head + bytes(byte ^ 1 << value % 8 for byte in tail[:1]) + tail[1:],
            "set": head + bytes([value]) * len(tail[:1]) + tail[1:],
            "cut": head,
            "drop": head + tail[value:],
            "insert": head + bytes([value]) * (1 + value % 9) + tail,
            "zero": head + bytes(len(tail[: value * 16])) + tail[value * 16 :],
            "double": head + tail[:value] + tail,
        }[change]
    return content


def check(given: tuple[str, list[tuple[str, int, int]]]) -> None:
    """Puts a changed file in place of the original and reads it."""
    kind, changes = given
    name, content, expected = _original(kind)
    changed = _changed(content, changes)
    with _folder() as folder, contextlib.redirect_stderr(io.StringIO()):
        os.chmod(folder, 0o700)
        (folder / name).write_bytes(changed)
        read = KINDS[kind].read(folder / name)
    if changed == content:
        assert read == expected, f"{kind}: the unchanged file is not read"
    elif KINDS[kind].has_checksum:
        wrong = [part for part in read if part not in expected]
        assert not wrong, f"{kind}: read from a changed file: {wrong!r:.300}"


_CHANGES = st.tuples(
    st.sampled_from(["flip", "set", "cut", "drop", "insert", "zero", "double"]),
    st.integers(0, 1 << 20),
    st.integers(0, 255),
)
TARGET = Target(
    st.tuples(st.sampled_from(sorted(KINDS)), st.lists(_CHANGES, max_size=3)),
    check,
    seeds=(
        ("store", [("flip", 14_057, 7)]),  # a schema that is no text: UnicodeDecodeError
        ("prefix", [("flip", 60, 1)]),  # a name in the header: KeyError
        *((kind, []) for kind in sorted(KINDS)),
    ),
)
