"""The audit log: one JSON line for each request, with who asked and how much, and never what."""

from __future__ import annotations

import ipaddress
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from ....models.errors import ConfigError
from ...log import RecoveredErrors

ClientKind: TypeAlias = Literal["loopback", "private", "public", "unknown"]


class AuditLine(Struct):
    """One request. `time` is when it arrived, in UTC, and `seconds` how long it took.

    `key` is the name of the API key, `client` the kind of the client's address. `status` is that of the HTTP response;
    `error` is the code of an error after the status was sent.
    """

    time: str
    key: str | None
    client: ClientKind
    method: str
    path: str
    model: str | None
    prompt_tokens: int
    completion_tokens: int
    status: int
    error: str | None
    seconds: float


class AuditLog:
    """Appends lines to a file that only its owner may read. Raises `ConfigError` if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._errors = RecoveredErrors()
        self._lock = threading.Lock()
        self._file = self._open()

    def write(self, line: AuditLine) -> None:
        data = msgspec.json.encode(line) + b"\n"
        with self._lock:
            try:
                os.write(self._file, data)
            except OSError as error:
                self._errors.record(f"write the audit log {self._path}", error)

    def reopen(self) -> None:
        """Opens the file again, because another program may have moved it away."""
        opened = self._open()
        with self._lock:
            os.close(self._file)
            self._file = opened

    def close(self) -> None:
        with self._lock:
            os.close(self._file)
            self._file = os.open(os.devnull, os.O_WRONLY)  # an answer in the background may end later

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"the audit log {self._path} cannot be written: {error.strerror}", "audit-log") from error


def utc_time(seconds: float) -> str:
    """Formats a time in seconds since 1970 as in ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def client_kind(address: str) -> ClientKind:
    """Returns what kind of address a client has."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if ip.is_loopback:
        return "loopback"
    return "public" if ip.is_global else "private"
