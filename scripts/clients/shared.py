"""Shared by the suites of the Python clients: addresses, media, a schema, the script and the tools that it calls.

Annotations are evaluated here, because LlamaIndex does not resolve those of a function within a function.
"""

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pydantic

URL, KEY, MODEL = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"], "builtin"
VECTORS_URL, SCRIPTED_URL = os.environ["GALAGO_VECTORS_URL"], os.environ["GALAGO_SCRIPTED_URL"]
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

Call: TypeAlias = tuple[str, dict[str, Any]]
_SCRIPT: list[dict[str, Any]] = json.loads(Path(os.environ["GALAGO_SCRIPT"]).read_text("utf-8"))
SCRIPTED_CALLS: list[list[Call]] = [
    [(call["name"], call["arguments"]) for call in answer["calls"]] for answer in _SCRIPT if "calls" in answer
]
"""The calls of each answer of the scripted model, before its `FINAL_TEXT`."""
FINAL_TEXT, NEXT_TEXT = (answer["text"] for answer in _SCRIPT if "calls" not in answer)
"""The answer after the last call, and the answer to a further question."""


class Side(pydantic.BaseModel):
    length: int = pydantic.Field(ge=0, le=99)
    label: str | None = pydantic.Field(max_length=8)


class Shape(pydantic.BaseModel):
    """A shape in a picture."""

    color: Literal["red", "blue"]
    count: int = pydantic.Field(ge=0, le=9)
    sides: list[Side] = pydantic.Field(min_length=1, max_length=2)
    sure: bool


def recorded_tools() -> tuple[list[Call], tuple[Callable[..., Any], ...]]:
    """The functions that the script calls, and the list to which they add each call."""
    calls: list[Call] = []

    def get_temperature(city: str, unit: Literal["celsius", "fahrenheit"]) -> str:
        """Measures the temperature of a city.

        Args:
            city: The name of the city.
            unit: The unit of the answer.
        """
        calls.append(("get_temperature", {"city": city, "unit": unit}))
        return f"20 degrees in {city}"

    def add(first: int, second: int) -> int:
        """Adds two numbers.

        Args:
            first: One number.
            second: The other.
        """
        calls.append(("add", {"first": first, "second": second}))
        return first + second

    return calls, (get_temperature, add)


def check_script(calls: list[Call]) -> None:
    """Checks that these are the calls of the script. Calls of the same answer may come in any order."""
    assert len(calls) == sum(map(len, SCRIPTED_CALLS)), calls
    remaining = iter(calls)
    for expected in SCRIPTED_CALLS:
        made = [next(remaining) for _ in expected]
        assert sorted(made, key=str) == sorted(expected, key=str)


def check_shape(value: Any) -> None:
    assert list(value) == ["color", "sure", "count"]
    assert value["color"] in ("red", "blue") and isinstance(value["sure"], bool) and value["count"] in range(10)


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
