"""How the arguments of a tool call are written. Here: as JSON, as in most formats; see `literals.py`, `tagged.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from ...types.messages import Tool
from ..structured.json_schema import enforceable

JSON_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""llguidance's options for JSON with the spaces of `json.dumps`."""

_OPEN_OBJECT_KEYWORDS = {"$ref", "allOf", "anyOf", "oneOf"}
_OPEN_OBJECT_KEYWORDS |= {"patternProperties", "additionalProperties", "unevaluatedProperties", "propertyNames"}


class Transcoder(Protocol):
    """Reads arguments piece by piece, from their first bracket, and returns them as JSON text."""

    done: bool

    def feed(self, text: str) -> tuple[str, int]:
        """Returns JSON text and the number of characters consumed. Pass the rest of `text` again with what follows."""


class Notation(Protocol):
    """A way of writing arguments. It starts with `bracket`; its `tags` may be control tokens of a vocabulary."""

    @property
    def bracket(self) -> str: ...

    @property
    def tags(self) -> tuple[str, ...]: ...

    def grammar(self, tool: Tool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        """An expression for all arguments that the tool's schema allows. May add rules whose names start with `name`.

        Raises `InvalidRequest` naming a keyword that cannot be enforced, and Python's errors for an invalid schema.
        """

    def render(self, arguments: dict[str, Any]) -> str: ...

    def transcoder(self, tool: Tool) -> Transcoder: ...


class JsonNotation:
    """Arguments as a JSON object."""

    bracket = "{"
    tags: tuple[str, ...] = ()

    def grammar(self, tool: Tool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        return json_rule(parameters_schema(tool))

    def render(self, arguments: dict[str, Any]) -> str:
        return json.dumps(arguments, ensure_ascii=False)

    def transcoder(self, tool: Tool) -> Transcoder:
        return _JsonTranscoder()


JSON_NOTATION = JsonNotation()


def json_rule(schema: dict[str, Any] | bool) -> str:
    """A schema as an expression within a grammar, for JSON text with the spaces of `json.dumps`."""
    checked, _ = enforceable(schema)
    return "%json " + json.dumps({**checked, "x-guidance": JSON_SPACING})


class _JsonTranscoder:
    """Passes a JSON object through and detects its end."""

    def __init__(self) -> None:
        self.done = False
        self._depth = 0
        self._in_string = self._escaped = False

    def feed(self, text: str) -> tuple[str, int]:
        for at, char in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = char == "\\"
                self._in_string = char != '"'
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.done = True
                    return text[: at + 1], at + 1
        return text, len(text)


def parameters_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: an object, closed to other properties unless the schema mentions them."""
    schema = tool.parameters or {"type": "object", "properties": {}}
    closed = not _OPEN_OBJECT_KEYWORDS & set(schema)
    return {"type": "object", **schema, **({"additionalProperties": False} if closed else {})}
