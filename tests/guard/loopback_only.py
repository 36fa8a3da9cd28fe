"""Blocks connections to other machines in a test process and, through `sitecustomize`, in all its Python children.

Attempts are recorded in a file that these processes share.
"""

from __future__ import annotations

import ipaddress
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

_VARIABLE = "GALAGO_TEST_CONNECTIONS"
_EVENTS = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
_file: Path | None = None


def watch() -> None:
    """Blocks connections of this process. Records attempts in the file that a parent process has chosen, if any."""
    global _file
    if _file is None:
        sys.addaudithook(_audit)
    if _VARIABLE not in os.environ:
        handle, os.environ[_VARIABLE] = tempfile.mkstemp(prefix="galago-connections-")
        os.close(handle)
    _file = Path(os.environ[_VARIABLE])


def take_attempts() -> list[str]:
    """Returns the hosts of blocked connections since the last call."""
    assert _file, "call watch() first"
    hosts = _file.read_text().split("\n")[:-1]
    if hosts:
        _file.write_text("")
    return hosts


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS:
        host = arguments[0] if event in _EVENTS[2:] else arguments[1]
        host = host[0] if isinstance(host, tuple) else host
        if isinstance(host, bytes):
            host = host.decode(errors="replace")
        if isinstance(host, str) and not _is_this_machine(host):
            assert _file
            with _file.open("a") as file:
                file.write(f"{host}\n")
            raise PermissionError(f"tests may not connect to {host}")


def _is_this_machine(host: str) -> bool:
    """Paths of Unix sockets count as this machine."""
    if host in ("", "localhost", "0.0.0.0", "::") or "/" in host or "\0" in host:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
