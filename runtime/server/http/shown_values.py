"""Shows values of types that no API here knows to the model: their type, and their fields as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

_MAX_WORD = 500
"""A longer text without spaces, such as a file in base64, counts as data."""
_SHOWN_OF_DATA = 100


def as_text(kind: object, fields: Mapping[str, Any], unseen: Collection[str] = ()) -> str:
    """The type and the fields, except the `unseen` ones. Only the beginning of data is shown."""
    seen = {name: _without_data(value) for name, value in fields.items() if name not in unseen}
    return f"[{str(kind)[:60]}] {json.dumps(seen, ensure_ascii=False)}"


def _without_data(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _MAX_WORD and " " not in value[:_MAX_WORD]:
        return f"{value[:_SHOWN_OF_DATA]}..."
    if isinstance(value, list):
        return [_without_data(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_data(item) for name, item in value.items()}
    return value
