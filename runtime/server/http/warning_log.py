"""Logs the warnings that answers carry, each text once, for clients that do not show them.

Values that a warning quotes are left out: they may be parts of a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...log import log

_TEXT, _JSON = r"""'(?:\\.|[^'\\])*(?:'|$)|"(?:\\.|[^"\\])*(?:"|$)""", r"[{\[].*[}\]]|[{\[].*$"
_QUOTED = re.compile(rf"(?<![^\s(:=])(?:{_TEXT}|{_JSON})", re.DOTALL)
"""A text in quotation marks, or JSON, which may be cut off at the end."""

_MAX_REMEMBERED = 256
_MAX_CHARACTERS = 500
_logged: dict[str, None] = {}
"""The most recently logged texts, oldest first."""


def log_new(warnings: Iterable[str]) -> None:
    """Logs each warning that is not among the last ones logged."""
    for warning in warnings:
        text = _QUOTED.sub("...", warning)
        if text in _logged:
            continue
        _logged[text] = None
        if len(_logged) > _MAX_REMEMBERED:
            del _logged[next(iter(_logged))]
        printable = "".join(c if c.isprintable() else "?" for c in text[:_MAX_CHARACTERS])
        log(f"warning (logged once): {printable}")
