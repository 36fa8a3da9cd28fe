"""Splits a rewritten JSON schema into simple alternatives, for notations other than JSON."""

from __future__ import annotations

import json
from typing import Any

from .keywords import TYPE_NAMES, Schema

MAX_BRANCHES = 32
_MAX_HOPS = 8
_GREATER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_SMALLER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_TEXT_RULES = ("pattern", "format")


class TooManyBranches(Exception):
    """A schema allows more combinations of alternatives than `MAX_BRANCHES`."""


def branches(schema: Schema, definitions: dict[str, Any], hops: int = 0) -> list[dict[str, Any]]:
    """The schema's alternatives, without `allOf`, `anyOf`, `$ref` and `const`: a value must satisfy one of them.

    Their subschemas may have them. `pattern` and `format` are lists: all of them must match. `types` is a list of
    types. An empty result means that no value satisfies the schema. Raises `TooManyBranches`, also if the schema
    consists of references to itself.
    """
    if schema is False:
        return []
    if not isinstance(schema, dict):
        return [{}]
    if hops > _MAX_HOPS:
        raise TooManyBranches
    own = {k: v for k, v in schema.items() if k not in ("allOf", "anyOf", "$ref", "const", "$defs", "type")}
    own |= {keyword: [own[keyword]] for keyword in _TEXT_RULES if keyword in own}
    if "type" in schema:
        own["types"] = [schema["type"]] if isinstance(schema["type"], str) else list(schema["type"])
    if "const" in schema:
        own = _merged(own, {"enum": [schema["const"]]})
    combined = [own]
    parts = [branches(part, definitions, hops + 1) for part in schema.get("allOf", ())]
    if "$ref" in schema:
        target = definitions.get(str(schema["$ref"]).removeprefix("#/$defs/"), True)
        parts.append(branches(target, definitions, hops + 1))
    if "anyOf" in schema:
        parts.append([branch for one in schema["anyOf"] for branch in branches(one, definitions, hops + 1)])
    for part in parts:
        combined = [_merged(first, second) for first in combined for second in part]
        if len(combined) > MAX_BRANCHES:
            raise TooManyBranches
    return [branch for branch in combined if branch.get("types") != []]


def allows(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value satisfies a branch's types, bounds and lengths."""
    kinds = schema.get("types", TYPE_NAMES)
    kind = kind_of(value)
    if kind not in kinds and not (kind == "integer" and "number" in kinds):
        return False
    if kind in ("integer", "number"):
        return (
            bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
            and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
            and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
        )
    if kind == "string":
        return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)))
    return True


def kind_of(value: Any) -> str:
    """The type of a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
    return "array" if isinstance(value, list) else "object"


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """A schema for the values that satisfy both."""
    merged = {**first, **second}
    for keyword in first.keys() & second.keys():
        one, other = first[keyword], second[keyword]
        if keyword in _GREATER:
            merged[keyword] = max(one, other)
        elif keyword in _SMALLER:
            merged[keyword] = min(one, other)
        elif keyword in _TEXT_RULES:
            merged[keyword] = [*one, *(rule for rule in other if rule not in one)]
        elif keyword == "enum":
            known = {json.dumps(value, sort_keys=True) for value in other}
            merged[keyword] = [value for value in one if json.dumps(value, sort_keys=True) in known]
        elif keyword == "required":
            merged[keyword] = list(dict.fromkeys([*one, *other]))
        elif keyword == "types":
            merged[keyword] = _common_types(one, other)
        elif keyword in ("items", "additionalProperties"):
            merged[keyword] = _both(one, other)
        elif keyword in ("properties", "patternProperties"):
            merged[keyword] = {name: _both(one.get(name, True), other.get(name, True)) for name in {**one, **other}}
    _close(merged, first, second)
    return merged


def _close(merged: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> None:
    """Applies the `additionalProperties` of each schema to the properties that only the other one lists."""
    for one, other in ((first, second), (second, first)):
        if "additionalProperties" in one and "patternProperties" not in one:
            for name in other.get("properties", {}).keys() - one.get("properties", {}).keys():
                merged["properties"] = {
                    **merged["properties"],
                    name: _both(merged["properties"][name], one["additionalProperties"]),
                }


def _both(one: Schema, other: Schema) -> Schema:
    if one is False or other is False:
        return False
    if one in (True, {}):
        return other
    return one if other in (True, {}) or one == other else {"allOf": [one, other]}


def _common_types(one: list[str], other: list[str]) -> list[str]:
    common = [kind for kind in one if kind in other or (kind == "integer" and "number" in other)]
    return common + [kind for kind in other if kind == "integer" and "number" in one and kind not in common]
