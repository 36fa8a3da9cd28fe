"""How the arguments of a call are written. Here: as JSON, which most dialects do. `literals.py` has the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from ...types.messages import Tool
from ..structured.json_schema import enforceable

SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""llguidance's options for JSON spaced as `json.dumps` does."""

_ALTERNATIVES = {"$ref", "allOf", "anyOf", "oneOf"}
_ALTERNATIVES |= {"patternProperties", "additionalProperties", "unevaluatedProperties", "propertyNames"}


class Transcoder(Protocol):
    """Reads arguments piece by piece, from their first bracket on, and gives them as JSON text."""

    done: bool

    def feed(self, text: str) -> tuple[str, int]:
        """JSON text, and how many characters it took; the rest of `text` is to come again, with what follows it."""


class Notation(Protocol):
    """A way of writing arguments. `bracket` is how they begin; `marks` may be control tokens in a vocabulary."""

    @property
    def bracket(self) -> str: ...

    @property
    def marks(self) -> tuple[str, ...]: ...

    def grammar(self, tool: Tool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        """An expression for all arguments that the tool's schema allows. May add rules whose names begin with `name`.

        Raises `InvalidRequest` naming what it cannot enforce, and what Python does where the schema is none.
        """

    def write(self, arguments: dict[str, Any]) -> str: ...

    def transcoder(self, tool: Tool) -> Transcoder: ...


class JsonNotation:
    """JSON as it is."""

    bracket = "{"
    marks: tuple[str, ...] = ()

    def grammar(self, tool: Tool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        return json_rule(parameters(tool))

    def write(self, arguments: dict[str, Any]) -> str:
        return json.dumps(arguments, ensure_ascii=False)

    def transcoder(self, tool: Tool) -> Transcoder:
        return _JsonTranscoder()


JSON_NOTATION = JsonNotation()


def json_rule(schema: dict[str, Any] | bool) -> str:
    """A schema as an expression within a grammar, for JSON text spaced as `json.dumps` does."""
    checked, _ = enforceable(schema)
    return "%json " + json.dumps({**checked, "x-guidance": SPACING})


class _JsonTranscoder:
    """Passes an object on as it comes, and notices its end."""

    def __init__(self) -> None:
        self.done = False
        self._depth = 0
        self._quoted = self._escaped = False

    def feed(self, text: str) -> tuple[str, int]:
        for at, char in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = char == "\\"
                self._quoted = char != '"'
            elif char == '"':
                self._quoted = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.done = True
                    return text[: at + 1], at + 1
        return text, len(text)


def parameters(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: an object, without further properties unless the schema speaks of them."""
    schema = tool.parameters or {"type": "object", "properties": {}}
    closed = not _ALTERNATIVES & set(schema)
    return {"type": "object", **schema, **({"additionalProperties": False} if closed else {})}
