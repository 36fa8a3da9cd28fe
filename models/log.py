"""Logs events for the user, such as an ignored file or a wait, to standard error."""

from __future__ import annotations

import contextlib
import sys
import threading

_MAX_REMEMBERED = 1000

_logged: set[str] = set()
_lock = threading.Lock()


def log(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # standard error may be closed
        print(f"galago: {line}", file=sys.stderr, flush=True)


def log_once(line: str) -> None:
    """Logs a line unless this process has logged the same line before."""
    with _lock:
        if line in _logged or len(_logged) >= _MAX_REMEMBERED:
            return
        _logged.add(line)
    log(line)
