"""Finds what llguidance cannot compile in a rewritten JSON schema, and replaces it or leaves it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from .keywords import MAP, NESTED, JsonSchemaValue
from .omissions import Omissions
from .references import escaped

CompileError: TypeAlias = Callable[[Any], str | None]
"""Why llguidance cannot compile a schema, or `None` if it can."""

_DROPPED_FIRST = (
    "pattern format patternProperties multipleOf minimum maximum exclusiveMinimum exclusiveMaximum minLength "
    "maxLength minItems maxItems minProperties maxProperties $ref allOf anyOf enum const additionalProperties required "
    "items prefixItems properties type"
).split()
"""The order in which keywords are tried: dropping the first one that helps keeps the most."""


def repaired(schema: JsonSchemaValue, compile_error: CompileError, omissions: Omissions) -> JsonSchemaValue:
    """A schema that compiles, for one that does not. Says in `omissions` what it lacks."""
    repair = _Repair(compile_error, omissions)
    definitions = schema.get("$defs", {})
    repair.definitions |= dict.fromkeys(definitions, True)
    for name, definition in definitions.items():
        repair.definitions[name] = repair.schema(definition, f"#/$defs/{escaped(name)}")
    rest = repair.schema({keyword: value for keyword, value in schema.items() if keyword != "$defs"}, "#")
    return {**rest, "$defs": repair.definitions} if definitions else rest


class _Repair:
    """Descends only into what does not compile. Definitions are repaired in turn; until then they allow anything."""

    def __init__(self, compile_error: CompileError, omissions: Omissions) -> None:
        self._compile_error = compile_error
        self._omissions = omissions
        self.definitions: dict[str, Any] = {}

    def schema(self, schema: Any, place: str) -> Any:
        if not isinstance(schema, dict) or self._error(schema) is None:
            return schema
        schema = {keyword: self._nested(keyword, value, place) for keyword, value in schema.items()}
        if self._error(schema) is None:
            return schema
        return self._without_keywords(schema, place)

    def _nested(self, keyword: str, value: Any, place: str) -> Any:
        inside = f"{place}/{escaped(keyword)}"
        if keyword not in NESTED:
            return value
        if isinstance(value, list):
            return [self.schema(item, f"{inside}/{i}") for i, item in enumerate(value)]
        if NESTED[keyword] == MAP:
            return {name: self.schema(item, f"{inside}/{escaped(name)}") for name, item in value.items()}
        return self.schema(value, inside)

    def _without_keywords(self, schema: JsonSchemaValue, place: str) -> Any:
        """The schema without the fewest keywords that make it compile."""
        error = self._error(schema)
        keywords = [keyword for keyword in _DROPPED_FIRST if keyword in schema]
        for keyword in keywords:
            rest = {other: value for other, value in schema.items() if other != keyword}
            if error is not None and self._error(rest) is None:
                self._omissions.omit(keyword, place, f"cannot be compiled: {error}")
                return rest
        while error is not None and keywords:
            keyword = keywords.pop(0)
            self._omissions.omit(keyword, place, f"cannot be compiled: {error}")
            schema = {other: value for other, value in schema.items() if other != keyword}
            error = self._error(schema)
        return schema

    def _error(self, schema: JsonSchemaValue) -> str | None:
        return self._compile_error({**schema, "$defs": self.definitions} if self.definitions else schema)
