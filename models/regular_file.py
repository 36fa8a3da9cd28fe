"""Opens files that other programs wrote, after checking their kind: opening a named pipe would wait forever."""

from __future__ import annotations

import errno
import io
import os
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file to read its bytes. Raises `OSError` for anything else, without waiting.

    What is at `path` is checked before it is opened, because opening a device can have effects, and again on the open
    file, because another program may have replaced it in between.
    """
    check_regular(path)
    file = open(path, "rb", opener=_open_without_waiting)
    try:
        _check(os.fstat(file.fileno()), path)
    except OSError:
        file.close()
        raise
    return file


def read_text(path: Path, errors: str = "strict") -> str:
    """Reads a regular file as UTF-8 with any kind of line ends, with or without a byte order mark.

    Raises `OSError` for anything else, without waiting.
    """
    with io.TextIOWrapper(open_regular(path), "utf-8-sig", errors) as file:
        return file.read()


def check_regular(path: Path) -> os.stat_result:
    """Returns the status of a regular file that a library will open. Raises `OSError` for anything else."""
    status = path.stat()
    _check(status, path)
    return status


def _check(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
