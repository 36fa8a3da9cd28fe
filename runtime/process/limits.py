"""Limits the resources of the calling process. Child processes that open other people's files call it first."""

from __future__ import annotations

import contextlib

_KILL_AFTER_SECONDS = 5  # between SIGXCPU, which a program may catch, and SIGKILL
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h


def limit_this_process(
    *,
    data_bytes: int | None = None,
    address_bytes: int | None = None,
    cpu_seconds: int | None = None,
    file_bytes: int | None = None,
    open_files: int | None = None,
    processes: int | None = None,
) -> None:
    """Sets the given limits and disables core dumps. Does nothing on systems without such limits.

    `data_bytes` counts allocated memory; `address_bytes` also counts mapped files and reserved addresses. `file_bytes`
    is the size up to which files can be written. `processes` is how many processes and threads the user may have when
    this process starts another.
    """
    with contextlib.suppress(ImportError):  # Windows
        import resource

        _lower(resource.RLIMIT_CORE, 0)
        _lower(resource.RLIMIT_CPU, cpu_seconds, _KILL_AFTER_SECONDS)
        _lower(resource.RLIMIT_DATA, data_bytes)
        _lower(resource.RLIMIT_AS, address_bytes)
        _lower(resource.RLIMIT_FSIZE, file_bytes)
        _lower(resource.RLIMIT_NOFILE, open_files)
        _lower(resource.RLIMIT_NPROC, processes)


def return_freed_memory() -> None:
    """Makes GNU's malloc return freed blocks of 1 MiB and more to the system.

    By default it stops doing so once one is freed, and keeps up to 64 MB for each heap, with eight heaps per core.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        mallopt(_M_ARENA_MAX, 2)


def _lower(kind: int, value: int | None, room: int = 0) -> None:
    """Lowers the soft limit to `value`, and the hard limit to `room` more. Limits that are lower already stay."""
    import resource

    if value is None:
        return
    with contextlib.suppress(OSError, ValueError):  # macOS for memory
        soft, hard = (limit if limit != resource.RLIM_INFINITY else value + room for limit in resource.getrlimit(kind))
        resource.setrlimit(kind, (min(value, soft), min(value + room, hard)))
