"""Reads, replaces and locks the files that Galago keeps, in any format.

A new file is written under a temporary name in the same folder and then renamed, so that a reader sees the old content
or the new one and never a part. The system releases all locks of a process that ends. So an unlocked temporary file was
left by a killed process, and `delete_abandoned` deletes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from .log import log, log_once
from .regular_file import open_regular

try:
    import fcntl
except ImportError:  # Windows, where abandoned files are recognized by their age only
    fcntl = None  # type: ignore[assignment]

TEMPORARY_SUFFIX = ".galago-part"
MAX_BYTES = 256 << 20

_PRIVATE, _PUBLIC, _LOCK_MODE = 0o600, 0o666, 0o664
_ABANDONED_SECONDS = 3600.0
"""Where files cannot be locked, a temporary file that has not changed for this long is abandoned."""
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_WRITE_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def read_file(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Returns the content of a regular file. Raises `OSError` for any other, and for a larger one."""
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {max_bytes} bytes", str(path))
    return data


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Yields a file that replaces `path` when the block ends, unless it raises. Only its owner may read it.

    Where the system can, the file has no name until it is complete, so that a killed process leaves nothing. A
    `durable` file has reached the disk before this returns.
    """
    temporary = _temporary_path(path)
    handle = _open_nameless(path.parent)
    is_nameless = handle is not None
    if handle is None:
        handle = _create_locked(temporary, _PRIVATE)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(handle)
            if is_nameless:  # the folder's handle is ignored, but only with one does os.link follow links
                os.link(f"/proc/self/fd/{handle}", temporary, src_dir_fd=handle, follow_symlinks=True)
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        _sync_folder(path.parent)


@contextlib.contextmanager
def temporary_path(target: Path) -> Iterator[Path]:
    """Yields the path of an empty file next to `target`, for code that writes to a path. It is deleted at the end,
    unless it was renamed."""
    path = _temporary_path(target)
    handle = _create_locked(path, _PUBLIC)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yields the path of an empty folder next to `target`, which is deleted with its content at the end."""
    path = _temporary_path(target)
    path.mkdir(mode=0o700)
    handle = os.open(path, _READ_FLAGS)
    try:
        _lock(handle)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def sync(path: Path) -> None:
    """Waits until a file has reached the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def delete_abandoned(folder: Path) -> int:
    """Deletes the temporary files and folders that killed processes left in a folder. Returns how many."""
    count = 0
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            count += _delete_if_abandoned(path)
    return count


@contextlib.contextmanager
def locked(
    path: Path,
    busy: str,
    while_waiting: Callable[[], None] = lambda: None,
    timeout_seconds: float = float("inf"),
) -> Iterator[None]:
    """Holds the lock file `path`, whose folder must exist, against other processes and threads.

    While another process holds it, waits, and logs once that it waits since `busy` ("another program is writing x").
    `while_waiting` is called twice a second meanwhile, and may raise to give up. Raises `TimeoutError` if it takes
    longer than `timeout_seconds`. If the file system has no locks, logs that and continues without one.
    """
    import filelock  # here, because a worker reads kept files at its start and never locks one

    lock = filelock.FileLock(path, mode=_LOCK_MODE, fallback_to_soft=False, poll_interval=0.005)
    deadline = time.monotonic() + timeout_seconds
    try:
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=min(0.5, timeout_seconds))
        if not lock.is_locked and timeout_seconds > 1e9:
            log(f"{busy}; waiting for it")
        while not lock.is_locked:
            while_waiting()
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"locked by another process for {timeout_seconds:g} s", str(path))
            with contextlib.suppress(filelock.Timeout):
                lock.acquire(timeout=0.5, poll_interval=0.05)
    except TimeoutError:
        raise
    except (OSError, NotImplementedError) as error:
        _without_lock(path, error)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def locked_beside(file: Path, busy: str) -> Iterator[None]:
    """Holds a lock file next to a user's `file`, and deletes it at the end."""
    lock = file.with_name(f".{file.name[:40]}.lock")
    with locked(lock, busy):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # waiting processes notice the deletion and create a new file
                lock.unlink()


def _without_lock(path: Path, error: Exception) -> None:
    """Logs that a lock cannot be taken, unless nothing can be written there anyway."""
    if not isinstance(error, OSError) or error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT):
        reason = getattr(error, "strerror", None) or error
        log_once(f"files in {path.parent} cannot be locked ({reason}): let only one program at a time write there")


def _temporary_path(target: Path) -> Path:
    return target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")


def _open_nameless(folder: Path) -> int | None:
    """Opens a new file without a name, for the owner only; `None` where there is no such thing."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        handle = os.open(folder, _WRITE_FLAGS | flag, _PRIVATE)
    except OSError:  # not on every file system; another reason shows when the file is created with a name
        return None
    _lock(handle)
    return handle


def _create_locked(path: Path, mode: int) -> int:
    while True:
        handle = os.open(path, _WRITE_FLAGS | os.O_CREAT | os.O_EXCL, mode)
        try:
            _lock(handle)
            if os.fstat(handle).st_nlink:
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # deleted by `delete_abandoned` before it was locked


def _lock(handle: int) -> None:
    with contextlib.suppress(OSError):
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)


def _delete_if_abandoned(path: Path) -> bool:
    status = path.lstat()
    is_old = status.st_mtime < time.time() - _ABANDONED_SECONDS
    if fcntl is None or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        if is_old:
            path.unlink()
        return is_old
    handle = os.open(path, _READ_FLAGS)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            if not is_old:
                return False
        if stat.S_ISDIR(status.st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
        return True
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not on every system
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
