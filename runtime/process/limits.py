"""Limits what the process that calls it may use. Programs that open untrusted files call it first."""

from __future__ import annotations

import contextlib

_KILL_AFTER_SECONDS = 5  # between SIGXCPU, which a program may catch, and SIGKILL


def limit_this_process(
    *, data_bytes: int | None = None, address_bytes: int | None = None, cpu_seconds: int | None = None
) -> None:
    """Bounds memory and processor time, and turns core dumps off. Does nothing where the system has no such limits.

    `data_bytes` counts what is allocated; `address_bytes` also counts mapped files and reserved addresses.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows; macOS for memory
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if cpu_seconds is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + _KILL_AFTER_SECONDS))
        if data_bytes is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
        if address_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (address_bytes, address_bytes))
