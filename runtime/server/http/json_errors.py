"""Explains why a request body could not be decoded. Entered only after decoding has failed."""

from __future__ import annotations

import json
import math
from typing import Any

from ....models.errors import InvalidRequest

_MAX_NAME = 80
_MAX_EXPLAINED_BYTES = 1 << 20


def invalid_json(body: bytes | bytearray, error: Exception) -> InvalidRequest:
    """The error for a body that msgspec does not read as JSON."""
    field, problem = _unreadable_field(body)
    if field is not None:
        return InvalidRequest(f"{field[:_MAX_NAME]} {problem}", field[:_MAX_NAME])
    if not body.strip():
        return InvalidRequest("the body is empty; send a JSON object")
    problem = "it ends too early" if "truncated" in str(error) else str(error)
    return InvalidRequest(f"the body is not valid JSON: {problem}")


def _unreadable_field(body: bytes | bytearray) -> tuple[str | None, str]:
    """The top-level field that msgspec rejects although Python's `json` reads it, and the problem with it.

    Such a field holds NaN, an infinity, or a number out of range. It is not looked for in long bodies, which Python's
    `json` reads slowly and in several times their memory.
    """
    if len(body) > _MAX_EXPLAINED_BYTES:
        return None, ""
    try:
        raw = json.loads(body, parse_int=lambda digits: int(digits) if len(digits) < 300 else math.inf)
        for name, value in raw.items() if isinstance(raw, dict) else ():
            if (problem := _problem(value)) is not None:
                return name.encode("utf-8", "replace").decode(), problem
    except (ValueError, RecursionError):
        pass
    return None, ""


def _problem(value: Any) -> str | None:
    if isinstance(value, dict):
        return next(filter(None, map(_problem, value.values())), None)
    if isinstance(value, list):
        return next(filter(None, map(_problem, value)), None)
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a valid JSON number: NaN, infinite or too large"
    return None
