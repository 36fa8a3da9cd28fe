"""The order for a grammar, as it is sent to the process that compiles it, and whether it needs that process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...models.errors import GalagoError
from ..types.limits import limit, limit_error
from ..types.messages import Tool
from ..types.request import Request
from .structured.keywords import ANNOTATIONS, MAP, NESTED
from .structured.patterns import is_simple

_PLAIN_KEYWORDS = frozenset(
    "type properties required items prefixItems additionalProperties anyOf enum const format pattern nullable $ref "
    "minimum maximum exclusiveMinimum exclusiveMaximum minLength maxLength minItems maxItems".split()
)
_ALONE = ({"anyOf"}, {"$ref"})
_MAX_PLAIN_CHARACTERS = 512 << 10
_MAX_PLAIN_ENTRIES = 256
"""Most properties or alternatives in a plain schema: llguidance's time can grow with their square."""
_MAX_PLAIN_DEPTH = 16
_MAX_PLAIN_REFERENCES = 32


@dataclass(frozen=True, slots=True)
class GrammarOrder:
    """The parts of a request that constrain its answer, with its tools unless they may not be called."""

    tools: tuple[Tool, ...]
    required: bool
    parallel: bool
    strict: bool
    json_schema: dict[str, Any] | bool | None
    grammar: str | None
    regex: str | None

    @classmethod
    def of(cls, request: Request) -> GrammarOrder:
        tools = tuple(Tool(tool.name, None, tool.parameters, tool.strict) for tool in request.callable_tools)
        required = request.tool_choice == "required"
        forms = request.json_schema, request.grammar, request.regex
        return cls(tools, required, request.parallel_tool_calls, request.strict, *forms)

    @classmethod
    def from_json(cls, text: str) -> GrammarOrder:
        tools, *rest = json.loads(text)
        return cls(tuple(Tool(name, None, parameters, strict) for name, parameters, strict in tools), *rest)

    def to_json(self) -> str | None:
        """The same order always has the same text. `None` if a schema is no JSON."""
        tools = [(tool.name, tool.parameters, tool.strict) for tool in self.tools]
        forms = [self.required, self.parallel, self.strict, self.json_schema, self.grammar, self.regex]
        try:
            return json.dumps([tools, *forms])
        except (TypeError, ValueError, RecursionError):
            return None

    @property
    def field(self) -> str:
        """The request's field that the grammar is made from."""
        if self.tools:
            return "tools"
        return "json_schema" if self.json_schema is not None else "grammar" if self.grammar is not None else "regex"

    @property
    def tools_are_optional(self) -> bool:
        """Whether the tools' schemas may stay unenforced, in part or as a whole."""
        return not self.strict and self.json_schema is None and not any(tool.strict for tool in self.tools)

    def check_size(self) -> None:
        """Raises `InvalidRequest` if the answer's schema or grammar exceeds a limit. Tools are checked later."""
        for name in ("grammar", "regex"):
            text = getattr(self, name)
            if text is not None and len(text) > limit("grammar_characters"):
                raise limit_error("grammar_characters", f"the {name} has {len(text):,} characters", name)
        if self.json_schema is not None and (problem := too_large(self.json_schema)) is not None:
            raise problem

    @property
    def is_plain(self) -> bool:
        """Whether it is certain to compile in moderate time. Only schemas with common keywords are plain."""
        text = self.to_json()
        if text is None:
            return True  # schemas that are not JSON are refused or left out
        if self.grammar is not None or self.regex is not None or len(text) > _MAX_PLAIN_CHARACTERS:
            return False
        schemas: list[Any] = [tool.parameters for tool in self.tools if tool.parameters is not None]
        schemas += [] if self.json_schema is None else [self.json_schema]
        references = 0
        for depth, schema in _subschemas(schemas):
            if isinstance(schema, dict):
                references += "$ref" in schema
                if depth > _MAX_PLAIN_DEPTH or references > _MAX_PLAIN_REFERENCES or not _is_plain(schema):
                    return False
        return True


def _is_plain(schema: dict[str, Any]) -> bool:
    """Whether a schema has a moderate number of entries, and nothing that is combined with other rules."""
    rules = schema.keys() - ANNOTATIONS
    if not rules <= _PLAIN_KEYWORDS or (rules & {"anyOf", "$ref"} and rules - {"type", "nullable"} not in _ALONE):
        return False
    if "pattern" in rules and not (isinstance(schema["pattern"], str) and is_simple(schema)):
        return False
    entries = (value for keyword, value in schema.items() if keyword != "enum" and isinstance(value, dict | list))
    return max(map(len, entries), default=0) <= _MAX_PLAIN_ENTRIES


def too_large(schema: Any, field: str = "json_schema") -> GalagoError | None:
    """The error that says which limit a schema exceeds, if it does."""
    deepest = limit("schema_depth")
    if any(depth > deepest for depth, _ in _values(schema, deepest)):
        return limit_error("schema_depth", "the JSON schema is nested too deeply", field)
    try:
        size = len(json.dumps(schema))
    except (TypeError, ValueError):
        return None  # not JSON; reported elsewhere
    if size > limit("schema_bytes"):
        return limit_error("schema_bytes", f"the JSON schema has {size:,} bytes", field)
    return None


def _subschemas(schemas: list[Any]) -> Iterator[tuple[int, Any]]:
    """The schemas and every schema in them, each with its depth."""
    pending = [(0, schema) for schema in schemas]
    while pending:
        depth, schema = pending.pop()
        yield depth, schema
        if depth > _MAX_PLAIN_DEPTH or not isinstance(schema, dict):
            continue
        for keyword, value in schema.items():
            kind = MAP if keyword in ("$defs", "definitions") else NESTED.get(keyword)
            if kind == MAP and isinstance(value, dict):
                pending += [(depth + 1, inner) for inner in value.values()]
            elif kind is not None:
                pending += [(depth + 1, inner) for inner in (value if isinstance(value, list) else [value])]


def _values(value: Any, deepest: int) -> Iterator[tuple[int, Any]]:
    """The objects and lists in a value, each with its depth, one level deeper than `deepest` at most."""
    pending = [(1, value)]
    while pending:
        depth, one = pending.pop()
        if isinstance(one, dict | list | tuple):
            yield depth, one
            if depth <= deepest:
                pending += [(depth + 1, inner) for inner in (one.values() if isinstance(one, dict) else one)]
