"""Watches for connections to other machines, in the tests' process and, by `sitecustomize`, in all its Python children.

An attempt is refused and noted in a file that all of them share.
"""

from __future__ import annotations

import ipaddress
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

if "GALAGO_TEST_TRIED" not in os.environ:
    handle, name = tempfile.mkstemp(prefix="galago-tried-")
    os.close(handle)
    os.environ["GALAGO_TEST_TRIED"] = name
_TRIED = Path(os.environ["GALAGO_TEST_TRIED"])
_EVENTS = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")


def watch() -> None:
    sys.addaudithook(_hear)


def tried() -> list[str]:
    """The other machines that somebody has tried to reach since the last question."""
    found = _TRIED.read_text().split("\n")[:-1]
    if found:
        _TRIED.write_text("")
    return found


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS:
        host = arguments[0] if event in _EVENTS[2:] else arguments[1]
        host = host[0] if isinstance(host, tuple) else host
        if isinstance(host, bytes):
            host = host.decode(errors="replace")
        if isinstance(host, str) and not _is_here(host):
            with _TRIED.open("a") as file:
                file.write(f"{host}\n")
            raise PermissionError(f"the tests may not reach {host}")


def _is_here(host: str) -> bool:
    """Names of files, as Unix sockets have, are here too."""
    if host in ("", "localhost", "0.0.0.0", "::") or "/" in host or "\0" in host:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
