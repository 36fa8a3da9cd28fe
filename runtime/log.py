"""Tells the user, on standard error, what nobody asked for: a restart, a decision, a file that was ignored."""

from __future__ import annotations

import contextlib
import sys


def log(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # standard error may be closed
        print(f"galago: {line}", file=sys.stderr, flush=True)
