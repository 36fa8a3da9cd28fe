"""Replaces OpenAPI's `nullable` by its equivalent in JSON Schema: a type, a value or an alternative that is null."""

from __future__ import annotations

from typing import Any

_BY_NAME = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies", "dependentRequired")
)
"""Keywords whose values hold schemas by name. These names are not keywords."""
_VALUES = frozenset(("enum", "const", "default", "example", "examples"))
_RESTRICTING_NULL = frozenset(("const", "allOf", "anyOf", "oneOf", "$ref", "not", "if"))
"""Keywords next to which adding the type null is not enough to allow null."""


def with_null(schema: Any) -> Any:
    """A copy of a schema whose parts with `nullable: true` allow null in their other keywords."""
    if isinstance(schema, list):
        return [with_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copied = {keyword: _copied(keyword, value) for keyword, value in schema.items()}
    if copied.get("nullable") is not True:
        return copied
    del copied["nullable"]
    return _or_null(copied)


def _copied(keyword: str, value: Any) -> Any:
    if keyword in _VALUES:
        return value
    if keyword in _BY_NAME and isinstance(value, dict):
        return {name: with_null(inner) for name, inner in value.items()}
    return with_null(value)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that allows null besides what it allows."""
    kinds = schema.get("type")
    if _RESTRICTING_NULL & schema.keys() or not isinstance(kinds, str | list | None):
        return {"anyOf": [schema, {"type": "null"}]}
    if kinds is not None:
        kinds = [kinds] if isinstance(kinds, str) else kinds
        schema = {**schema, "type": kinds if "null" in kinds else [*kinds, "null"]}
    if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
        schema = {**schema, "enum": [*schema["enum"], None]}
    return schema
