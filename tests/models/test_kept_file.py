"""Kept files: read and written safely whatever is in their place, whoever is killed, and whatever the disk allows."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest

from galago.models import kept_file
from galago.models.kept_file import delete_abandoned, locked, read_file, replacing, temporary_folder, temporary_path

OLD, NEW = b"old content", b"new content" * 20_000


def replace(path: Path, data: bytes = NEW) -> None:
    with replacing(path) as file:
        file.write(data)


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(kept_file.TEMPORARY_SUFFIX)]


@pytest.fixture(params=["nameless", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the file gets its name at the end, as on most disks of Linux, or at the beginning."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_a_file_is_replaced_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(OLD)
    replace(path)
    assert read_file(path) == NEW and path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


@pytest.mark.usefixtures("way")
def test_an_error_while_writing_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(OLD)
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(NEW)
        assert read_file(path) == OLD
        raise ZeroDivisionError
    assert read_file(path) == OLD and not temporaries(tmp_path)


@pytest.mark.usefixtures("way")
def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(OLD)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(NEW) // 2, before[1]))
        with pytest.raises(OSError):
            replace(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert read_file(path) == OLD and not temporaries(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "link to a pipe", "missing folder"])
def test_what_is_no_regular_file_is_an_error_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "kept"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    else:
        path = tmp_path / "missing" / "kept"
    with pytest.raises(OSError):
        read_file(path)


def test_a_larger_file_than_allowed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"12345")
    assert read_file(tmp_path / "kept", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_file(tmp_path / "kept", 4)


KILLED_AT_EACH_LINE = """
import os, signal, sys
from pathlib import Path
from galago.models import kept_file
path, step = Path(sys.argv[1]), 0
if sys.argv[2] == "named":
    del os.O_TMPFILE
old, new = b"old content", b"new content" * 20_000
ended = False
while not ended:
    step += 1
    path.write_bytes(old)
    child = os.fork()
    if not child:
        lines = 0
        def trace(frame, event, argument):
            global lines
            if frame.f_code.co_filename != kept_file.__file__:
                return None
            lines += event == "line"
            if lines == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace
        sys.settrace(trace)
        with kept_file.replacing(path, durable=True) as file:
            file.write(new)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_bytes() in (old, new), step
    left = [entry for entry in os.listdir(path.parent) if entry != path.name]
    assert kept_file.delete_abandoned(path.parent) == len(left), left
    assert os.listdir(path.parent) == [path.name], os.listdir(path.parent)
    print(step, *left)
"""


def test_a_process_killed_at_any_line_leaves_old_or_new_content(tmp_path: Path, way: str) -> None:
    command = [sys.executable, "-c", KILLED_AT_EACH_LINE, str(tmp_path / "kept"), way]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = done.stdout.splitlines()
    assert len(steps) > 15
    left = [line for line in steps if " " in line]
    assert left if way == "named" else len(left) <= 1  # without a name, only between link and rename


def test_a_temporary_file_in_use_is_not_deleted(tmp_path: Path) -> None:
    with temporary_path(tmp_path / "kept") as path, temporary_folder(tmp_path / "kept") as folder:
        path.write_bytes(b"by another program, through its path")
        (folder / "inner").touch()
        assert delete_abandoned(tmp_path) == 0
        assert path.exists() and folder.exists()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_deleted(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from galago.models.kept_file import temporary_folder, temporary_path
with temporary_path(Path(sys.argv[1])) as path, temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "inner").write_text("what a person wrote")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "kept")], check=False)
    (tmp_path / "other").touch()
    assert len(temporaries(tmp_path)) == 2
    assert delete_abandoned(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_without_file_locks_only_old_temporary_files_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("galago.models.kept_file.fcntl.flock", no_locks)
    old, new = (tmp_path / f".{name}{kept_file.TEMPORARY_SUFFIX}" for name in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    replace(tmp_path / "kept")
    assert delete_abandoned(tmp_path) == 1
    assert not old.exists() and new.exists()


def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock._unix.fcntl.flock", no_locks)
    for _ in range(2):
        with locked(tmp_path / "lock", "another program writes"):
            pass
    assert capsys.readouterr().err.count("cannot be locked") == 1


def test_a_lock_that_is_held_is_waited_for_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held, waited = threading.Event(), threading.Event()

    def hold() -> None:
        with filelock.FileLock(tmp_path / "lock"):
            held.set()
            waited.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    with locked(tmp_path / "lock", "another program writes x.gguf", while_waiting=waited.set):
        assert waited.is_set()
    holder.join()
    assert "another program writes x.gguf; waiting for it" in capsys.readouterr().err


def test_waiting_for_a_lock_can_be_given_up(tmp_path: Path) -> None:
    with filelock.FileLock(tmp_path / "lock"):
        with pytest.raises(TimeoutError), locked(tmp_path / "lock", "busy", timeout_seconds=0.01):
            pass
        with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock", "busy", lambda: 1 // 0):  # type: ignore
            pass
    with locked(tmp_path / "lock", "busy"):
        pass


def test_a_lock_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from galago.models.kept_file import locked
with locked(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        with pytest.raises(TimeoutError), locked(tmp_path / "lock", "busy", timeout_seconds=0.01):
            pass
        holder.kill()
        with locked(tmp_path / "lock", "busy"):
            pass


def test_locks_can_be_removed_by_their_holders(tmp_path: Path) -> None:
    """A deleted lock file guards nothing, so a process that waited for it must take the next one."""
    inside, most, path = 0, 0, tmp_path / "lock"

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with locked(path, "busy"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.0005)
                inside -= 1
                path.unlink()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
