"""JSON files: whatever the file holds, whoever writes at the same moment, and whatever the disk allows."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galago.models import json_file, kept_file
from galago.models.json_file import JsonFile, seal, unseal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
DAMAGED = {
    "empty": b"",
    "truncated": b'{"a": 1, "b"',
    "binary": bytes(range(256)),
    "another type": b"[1, 2]",
    "wrong values": b'{"a": "x"}',
    "nested": b"[" * 100_000,
    "long number": b'{"a": ' + b"9" * 10_000 + b"}",
}


@pytest.fixture(autouse=True)
def _nothing_pending() -> Iterator[None]:
    yield
    json_file._unwritten.clear()


def counts(path: Path, durable: bool = False) -> JsonFile[dict[str, int]]:
    def parse(value: Any) -> dict[str, int]:
        return {name: int(count) for name, count in value.items()}

    return JsonFile(path, parse, dict, durable=durable)


def adding(name: str, number: int = 1) -> Callable[[dict[str, int]], dict[str, int]]:
    return lambda rows: {**rows, name: rows.get(name, 0) + number}


def stored(path: Path) -> Any:
    return json.loads(unseal(path.read_bytes()))


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(kept_file.TEMPORARY_SUFFIX)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=JSON)
def test_any_json_value_is_read_back(tmp_path: Path, content: Any) -> None:
    file: JsonFile[Any] = JsonFile(tmp_path / "any.json", lambda value: value, lambda: None)
    assert file.update(lambda _: content) == content
    assert file.read() == content
    assert not temporaries(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_bytes_are_content_or_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "counts.json"
    path.write_bytes(seal(data))
    found = counts(path).read()
    assert all(isinstance(count, int) for count in found.values())
    assert counts(path).update(adding("new"))["new"] == found.get("new", 0) + 1


def test_a_changed_byte_anywhere_is_never_taken_for_content(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    counts(path).update(adding("a", 1234))
    whole = path.read_bytes()
    for at, bit in itertools.product(range(len(whole)), range(8)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        assert counts(path).read() == {}
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert counts(path).read() == {}


@pytest.mark.parametrize("sealed", [False, True], ids=["raw", "with a checksum"])
@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_cache_starts_over_when_damaged(tmp_path: Path, data: bytes, sealed: bool) -> None:
    path = tmp_path / "counts.json"
    path.write_bytes(seal(data) if sealed else data)
    assert counts(path).read() == {}
    assert counts(path).update(adding("a")) == {"a": 1}
    assert stored(path) == {"a": 1}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_durable_file_is_not_overwritten_when_damaged(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "counts.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        counts(path, durable=True).read()
    with pytest.raises(ValueError, match="damaged"):
        counts(path, durable=True).update(adding("a"))
    assert path.read_bytes() == data


def test_a_file_over_the_size_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "counts.json"
    counts(path).update(adding("a" * 50))
    monkeypatch.setattr(kept_file.read_file, "__defaults__", (40,))
    assert counts(path).read() == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_in_its_place_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "counts.json")
    assert counts(tmp_path / "counts.json").read() == {}


def test_an_absent_file_is_empty_and_its_folder_is_made_on_update(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "counts.json"
    assert counts(path).read() == {}
    assert not path.parent.exists()
    assert counts(path, durable=True).update(adding("a")) == {"a": 1}
    assert counts(path).read() == {"a": 1}


def test_a_folder_that_cannot_be_written_keeps_updates_in_memory(tmp_path: Path) -> None:
    blocker = tmp_path / "folder"
    blocker.write_text("a file where the folder should be")  # holds for any user, unlike permissions
    path = blocker / "counts.json"
    assert counts(path).update(adding("a")) == {"a": 1}
    assert counts(path).update(adding("b")) == {"a": 1, "b": 1}
    assert counts(path).read() == {"a": 1, "b": 1}
    with pytest.raises(OSError):
        counts(path, durable=True).update(adding("c"))

    blocker.unlink()
    blocker.mkdir()
    path.write_bytes(seal(b'{"a": 5, "z": 1}'))  # meanwhile, another process could write
    assert counts(path).update(adding("c")) == {"a": 6, "z": 1, "b": 1, "c": 1}
    assert stored(path) == {"a": 6, "z": 1, "b": 1, "c": 1}
    assert not any(json_file._unwritten.values())


def test_a_failed_write_leaves_the_old_content_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = counts(tmp_path / "counts.json", durable=True)
    file.update(adding("a"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("galago.models.kept_file.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        file.update(adding("b"))
    assert file.read() == {"a": 1}
    assert not temporaries(tmp_path)


def test_an_error_in_the_change_leaves_the_file_and_the_lock(tmp_path: Path) -> None:
    file = counts(tmp_path / "counts.json")
    file.update(adding("a"))
    with pytest.raises(ZeroDivisionError):
        file.update(lambda rows: {"a": 1 // 0})
    assert file.update(adding("a")) == {"a": 2}


def test_a_lock_that_is_never_released_does_not_stop_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_file, "LOCK_TIMEOUT_SECONDS", 0.05)
    with filelock.FileLock(tmp_path / json_file.LOCK_NAME):
        assert counts(tmp_path / "counts.json").update(adding("a")) == {"a": 1}
        with pytest.raises(TimeoutError):
            counts(tmp_path / "counts.json", durable=True).update(adding("a"))


WRITER = """
import sys
from pathlib import Path
from galago.models.json_file import JsonFile
file = JsonFile(Path(sys.argv[1]), dict, dict)
for i in range(int(sys.argv[3])):
    file.update(lambda rows: {**rows, f"{sys.argv[2]}-{i}": i, "sum": rows.get("sum", 0) + 1})
"""


def test_updates_of_threads_and_processes_are_all_kept_and_never_half_read(tmp_path: Path) -> None:
    path, threads, processes, updates = tmp_path / "counts.json", 4, 3, 40
    done = threading.Event()
    partial: list[bytes] = []

    def read() -> None:
        """Reads the file itself: `JsonFile` would hide half a file as an empty one."""
        while not done.is_set():
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            try:
                unseal(data)
            except ValueError:
                partial.append(data)

    def write(name: str) -> None:
        for i in range(updates):
            own = {f"{name}-{i}": i}
            counts(path).update(lambda rows, own=own: {**rows, **own, "sum": rows.get("sum", 0) + 1})  # type: ignore

    command = [sys.executable, "-c", WRITER, str(path)]
    children = [subprocess.Popen([*command, f"process{i}", str(updates)]) for i in range(processes)]
    workers = [threading.Thread(target=write, args=(f"thread{i}",)) for i in range(threads)]
    reader = threading.Thread(target=read)
    for thread in (reader, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    assert [child.wait(timeout=120) for child in children] == [0] * processes
    done.set()
    reader.join()
    names = [f"thread{i}" for i in range(threads)] + [f"process{i}" for i in range(processes)]
    expected = {f"{name}-{i}": i for name in names for i in range(updates)}
    assert not partial
    assert counts(path).read() == expected | {"sum": len(names) * updates}
    assert not temporaries(tmp_path)
