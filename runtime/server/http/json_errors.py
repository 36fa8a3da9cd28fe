"""Explains why a request body could not be decoded. Entered only after decoding has failed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ....models.errors import InvalidRequest

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_INVALID_TAG = re.compile(r"Invalid value '(.*)'")
_MAX_NAME = 80


def invalid_json(body: bytes, error: Exception) -> InvalidRequest:
    """The error for a body that msgspec does not read as JSON."""
    field, problem = _unreadable_field(body)
    if field is not None:
        return InvalidRequest(f"{field[:_MAX_NAME]} {problem}", field[:_MAX_NAME])
    return InvalidRequest(f"the body is not valid JSON: {error}")


def _unreadable_field(body: bytes) -> tuple[str | None, str]:
    """The top-level field that msgspec rejects although Python's `json` reads it, and the problem with it.

    Such a field holds NaN, an infinity, a number out of range, or a lone surrogate in a string.
    """
    try:
        raw = json.loads(body, parse_int=lambda digits: int(digits) if len(digits) < 300 else math.inf)
        for name, value in raw.items() if isinstance(raw, dict) else ():
            if (problem := _problem(name) or _problem(value)) is not None:
                return name.encode("utf-8", "replace").decode(), problem
    except (ValueError, RecursionError):
        pass
    return None, ""


def _problem(value: Any) -> str | None:
    if isinstance(value, dict):
        return next(filter(None, (_problem(inner) for pair in value.items() for inner in pair)), None)
    if isinstance(value, list):
        return next(filter(None, map(_problem, value)), None)
    if isinstance(value, str) and _LONE_SURROGATE.search(value):
        return "contains a lone surrogate (half of a surrogate pair), which is not a valid character"
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a valid JSON number: NaN, infinite or too large"
    return None


def invalid_fields(message: str, accepted_values: Mapping[str, str]) -> InvalidRequest:
    """The error for JSON that does not fit its struct: msgspec's message, with the field's path as the API names it.

    `accepted_values` lists the supported values of tagged fields by the end of their paths.
    """
    where, missing = _PATH.search(message), _MISSING.search(message)
    path = [where[1]] if where else []
    path += [missing[1]] if missing else []
    param = ".".join(path) or None
    text = message[: where.start()] if where else message
    if param and (invalid := _INVALID_TAG.fullmatch(text)):
        accepted = next((values for ending, values in accepted_values.items() if param.endswith(ending)), None)
        if accepted:
            return InvalidRequest(f"{param}: {invalid[1]!r} is not supported; use {accepted}", param)
    return InvalidRequest(f"{param}: {text}" if param else text, param)
