"""How the arguments of a tool call are written. Here: as JSON, as in most formats; see `literals.py`, `tagged.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ...types.messages import Tool
from ...types.warnings import Warnings
from ..structured.branches import TooManyBranches, branches
from ..structured.json_schema import enforceable
from ..structured.omissions import Omissions

JSON_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""llguidance's options for JSON with the spaces of `json.dumps`."""
ANY_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}

_OPEN_OBJECT_KEYWORDS = frozenset(
    "$ref allOf anyOf oneOf if enum const patternProperties additionalProperties unevaluatedProperties propertyNames "
    "dependentSchemas dependencies".split()
)


@dataclass(frozen=True)
class EnforcedTool:
    """A tool with the schema of its arguments as it is enforced, and the parts that are not enforced.

    The schema is an object's. Its references are to `$defs`.
    """

    name: str
    schema: dict[str, Any]
    omissions: Omissions

    @property
    def definitions(self) -> dict[str, Any]:
        definitions: dict[str, Any] = self.schema.get("$defs", {})
        return definitions

    def cannot_write(self, keyword: str, place: str, what: str = "") -> None:
        """Leaves out a keyword that the model's tool-call format cannot express."""
        self.omissions.omit(keyword, place, f"{what}cannot be expressed in this model's tool-call format")


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

    def grammar(self, tool: EnforcedTool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        """An expression for all arguments that the tool's schema allows. May add rules whose names start with `name`.

        Says in the tool's omissions what it cannot enforce.
        """

    def render(self, arguments: dict[str, Any]) -> str: ...

    def transcoder(self, tool: Tool) -> Transcoder: ...


class JsonNotation:
    """Arguments as a JSON object."""

    bracket = "{"
    tags: tuple[str, ...] = ()

    def grammar(self, tool: EnforcedTool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        return json_rule(tool.schema)

    def render(self, arguments: dict[str, Any]) -> str:
        return json.dumps(arguments, ensure_ascii=False)

    def transcoder(self, tool: Tool) -> Transcoder:
        return _JsonTranscoder()


JSON_NOTATION = JsonNotation()


def json_rule(schema: dict[str, Any]) -> str:
    """A rewritten schema as an expression within a grammar, for JSON text with the spaces of `json.dumps`."""
    return "%json " + json.dumps({**schema, "x-guidance": JSON_SPACING})


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


def enforced_tool(tool: Tool, warnings: Warnings, *, complete: bool = False) -> EnforcedTool:
    """A tool with its schema rewritten. With `complete`, raises `InvalidRequest` if part of it cannot be enforced."""
    omissions = Omissions(warnings, complete=complete, field="tools", tool=tool.name)
    try:
        json.dumps(tool.parameters)
        return EnforcedTool(tool.name, enforceable(_arguments_schema(tool, omissions), omissions), omissions)
    except (TypeError, ValueError):
        omissions.omit("the schema", "#", "is not JSON")
    except RecursionError:
        omissions.omit("the schema", "#", "is nested too deeply")
    return EnforcedTool(tool.name, ANY_OBJECT, omissions)


def _arguments_schema(tool: Tool, omissions: Omissions) -> dict[str, Any]:
    """The schema of a tool's arguments: an object, closed to other properties unless the schema mentions them."""
    schema = tool.parameters or {}
    kinds = schema.get("type", "object")
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        if str(kinds).lower() not in ("object", "dict", "none"):
            omissions.omit("type", "#", f"is {str(kinds)[:40]!r}, but arguments are always an object")
            return ANY_OBJECT
    schema = {**schema, "type": "object", "nullable": False}
    if _OPEN_OBJECT_KEYWORDS & {keyword for keyword, value in schema.items() if value is not None}:
        return schema
    properties = schema.get("properties") or {}
    if not isinstance(properties, dict):
        return {**schema, "additionalProperties": False}
    required = schema.get("required")
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    listed = properties | {name: True for name in names if name not in properties}
    return {**schema, "properties": listed, "additionalProperties": False}


def object_branches(tool: EnforcedTool) -> list[dict[str, Any]]:
    """The alternatives of a tool's arguments, for notations that write the arguments one by one."""
    try:
        alternatives = [
            branch for branch in branches(tool.schema, tool.definitions) if "object" in branch.get("types", ("object",))
        ]
    except TooManyBranches:
        tool.cannot_write("anyOf", "#", "has too many combinations and ")
        plain = ("type", "properties", "required", "additionalProperties")
        return branches({k: v for k, v in tool.schema.items() if k in plain}, {})
    if not alternatives:
        tool.omissions.omit("the schema", "#", "allows no arguments")
    return alternatives or [{"additionalProperties": True}]
