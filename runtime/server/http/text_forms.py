"""Reads texts that are written as other JSON values, for the dialects of all APIs."""

from __future__ import annotations

import json
from typing import Any

from ...types.warnings import Warnings

_TEXT_FIELDS = ("text", "content", "value")
"""Fields that hold the text of an object."""


def as_text(given: Any, path: str, warnings: Warnings) -> str:
    """A text; or, with a warning, the text of parts, or any other value as JSON."""
    if isinstance(given, str):
        return given
    shown = json.dumps(given, ensure_ascii=False)
    problem = f"{path} is {shown if len(shown) <= 60 else shown[:57] + '...'}, not a text"
    warnings.add_unless_strict(problem, path, instead="it is read as one")
    return _text_in(given)


def _text_in(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(map(_text_in, value))
    if isinstance(value, dict):
        field = next((name for name in _TEXT_FIELDS if isinstance(value.get(name), str | int | float | list)), None)
        if field is not None:
            return _text_in(value[field])
    return json.dumps(value, ensure_ascii=False)
