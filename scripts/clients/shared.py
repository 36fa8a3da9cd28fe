"""Settings and data that the suites of the Python clients share: server address, media, a schema."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

URL, KEY, MODEL = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"], "builtin"
SAMPLES = Path(os.environ["GALAGO_SAMPLES"])
PICTURE, SOUND = SAMPLES / "picture-5.png", SAMPLES / "sound-1.wav"

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "color": {"type": "string", "enum": ["red", "blue"]},
        "sure": {"type": "boolean"},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["color", "sure", "count"],
    "additionalProperties": False,
}
CITIES = ("Bern", "Rom")


def check_shape(value: Any) -> None:
    assert list(value) == ["color", "sure", "count"]
    assert value["color"] in ("red", "blue") and isinstance(value["sure"], bool) and value["count"] in range(10)


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
