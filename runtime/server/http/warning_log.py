"""Logs the warnings that answers carry, each text once, for clients that do not show them."""

from __future__ import annotations

from collections.abc import Iterable

from ...log import log

_MAX_REMEMBERED = 256
_MAX_CHARACTERS = 500
_logged: dict[str, None] = {}
"""The most recently logged texts, oldest first."""


def log_new(warnings: Iterable[str]) -> None:
    """Logs each warning that is not among the last ones logged."""
    for text in warnings:
        if text in _logged:
            continue
        _logged[text] = None
        if len(_logged) > _MAX_REMEMBERED:
            del _logged[next(iter(_logged))]
        printable = "".join(c if c.isprintable() else "?" for c in text[:_MAX_CHARACTERS])
        log(f"warning (logged once): {printable}")
