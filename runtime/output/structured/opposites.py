"""Negations of JSON schemas, for keywords that llguidance lacks: `not`, `if`, `oneOf` with alternatives that overlap.

llguidance cannot negate a schema. Here each keyword with an opposite that can be written in other keywords is
replaced. Where none is exact, a narrower one is taken: a value that satisfies it always satisfies the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from . import patterns
from .keywords import TYPE_NAMES, Schema

Resolver: TypeAlias = Callable[[Schema], Schema]
"""The schema that a schema with only a reference points to, or the schema itself."""

_MAX_DEPTH = 6
_MAX_VALUES = 40
_MAX_FRACTIONS = 10

_VIOLATING_FORMATS = {
    **dict.fromkeys(("date", "date-time", "time", "ipv4"), "^[^0-9]"),
    **dict.fromkeys(("uri", "iri", "ipv6"), "^[^:]*$"),
    **dict.fromkeys(("email", "idn-email"), "^[^@]*$"),
    "uuid": "^[^0-9a-fA-F]",
    "duration": "^[^P]",
    "hostname": "^[^a-zA-Z0-9]",
}
"""For each format, a pattern of texts that certainly do not have it."""

_OPPOSITE_BOUNDS: dict[str, tuple[str, str, int]] = {
    "minimum": ("number", "exclusiveMaximum", 0),
    "maximum": ("number", "exclusiveMinimum", 0),
    "exclusiveMinimum": ("number", "maximum", 0),
    "exclusiveMaximum": ("number", "minimum", 0),
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
}


def violations(schema: Schema, resolve: Resolver, depth: int = 0) -> list[Schema]:
    """Schemas whose values all violate the given one. Some values that violate it may satisfy none of them."""
    schema = resolve(schema)
    if schema is False:
        return [True]
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return []
    rules: list[Schema] = []
    for keyword, value in schema.items():
        rules += _violating(keyword, value, resolve, depth + 1)
    return rules


def separated(alternatives: list[Schema], resolve: Resolver) -> list[Schema]:
    """Alternatives of `oneOf` without the values that satisfy another of them, too.

    Alternatives with no values left, and those for which this cannot be written, are left out.
    """
    if _are_distinct_values(alternatives, resolve):
        return alternatives
    exclusive = []
    for i, alternative in enumerate(alternatives):
        overlapping = [
            other for j, other in enumerate(alternatives) if j != i and not _disjoint(alternative, other, resolve)
        ]
        kinds = _types(resolve(alternative))
        apart = [[schema for schema in violations(other, resolve) if kinds & _types(schema)] for other in overlapping]
        if all(apart):
            exclusive.append({"allOf": [alternative, *({"anyOf": other} for other in apart)]} if apart else alternative)
    return exclusive


def _are_distinct_values(alternatives: list[Schema], resolve: Resolver) -> bool:
    """Whether each alternative lists its values, and none occurs twice. There may be thousands of them."""
    values: list[Any] = []
    for alternative in map(resolve, alternatives):
        listed = _values(alternative) if isinstance(alternative, dict) else None
        if listed is None:
            return False
        values += [(type(value), value) for value in listed]
    return len(set(values)) == len(values)


def _disjoint(one: Schema, other: Schema, resolve: Resolver, depth: int = 0) -> bool:
    """Whether two schemas visibly exclude each other: by their types, their values, or those of a property."""
    one, other = resolve(one), resolve(other)
    if one is False or other is False:
        return True
    if not isinstance(one, dict) or not isinstance(other, dict) or depth > _MAX_DEPTH:
        return False
    common = _types(one) & _types(other)
    if not common:
        return True
    values, others = _values(one), _values(other)
    if values is not None and others is not None:
        return not any(type(value) is type(known) and value == known for value in values for known in others)
    required = [name for schema in (one, other) for name in schema.get("required") or () if isinstance(name, str)]
    return common == {"object"} and any(
        _disjoint(_property(one, name), _property(other, name), resolve, depth + 1) for name in required
    )


def _values(schema: dict[str, Any]) -> list[Any] | None:
    """All values that a schema allows, if it lists them and they are strings and booleans."""
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return values if isinstance(values, list) and all(isinstance(value, str | bool) for value in values) else None


def _property(schema: dict[str, Any], name: str) -> Schema:
    """The schema of an object's property."""
    properties = schema.get("properties")
    return properties.get(name, True) if isinstance(properties, dict) else True


def _types(schema: Schema) -> set[str]:
    """The types that a schema may allow, as far as it names them itself."""
    kinds = schema.get("type") if isinstance(schema, dict) else None
    names = {kinds} if isinstance(kinds, str) else {*kinds} if isinstance(kinds, list) else {*TYPE_NAMES}
    return names | ({"number"} if "integer" in names else set()) | ({"integer"} if "number" in names else set())


def conditional(schema: dict[str, Any], resolve: Resolver) -> Schema:
    """`if`, `then` and `else` as alternatives."""
    condition = schema["if"]
    branches = [{"allOf": [condition, schema.get("then", True)]}]
    if failing := violations(condition, resolve):
        branches.append({"allOf": [{"anyOf": failing}, schema.get("else", True)]})
    return {"anyOf": branches}


def dependent(names: dict[str, Any]) -> Iterator[Schema]:
    """For each property: either it is absent, or its rule holds. A rule is a schema, or names that are required."""
    for name, rule in names.items():
        present = {"required": rule} if isinstance(rule, list) else {"required": [name], "allOf": [rule]}
        yield {"anyOf": [{"properties": {name: False}}, present]}


def containing(schema: dict[str, Any], resolve: Resolver) -> Schema | None:
    """`contains` with its limits: the first items satisfy it. `None` if the limits cannot be kept."""
    item, least, most = schema["contains"], schema.get("minContains", 1), schema.get("maxContains")
    if not isinstance(least, int) or least > _MAX_VALUES:
        return None
    rule: dict[str, Any] = {"prefixItems": [item] * least, "minItems": least} if least else {}
    if most is not None:
        failing = violations(item, resolve)
        rule |= {"items": {"anyOf": failing}} if failing else {"maxItems": most}
    return rule


def closed(schema: dict[str, Any], resolve: Resolver) -> Schema | None:
    """`unevaluatedProperties: false`: properties of the schema itself and of the schemas that it refers to."""
    names = _evaluated(schema, resolve)
    if names is None:
        return None
    branches = schema.get("anyOf") or schema.get("oneOf") or []
    rules = []
    for branch in branches:
        more = _evaluated(resolve(branch), resolve)
        if more is not None:
            rules.append({"allOf": [branch, _only(names | more)]})
    return {"anyOf": rules} if rules else _only(names)


def _only(names: dict[str, str]) -> Schema:
    rule: dict[str, Any] = {"additionalProperties": False}
    for keyword in ("properties", "patternProperties"):
        if named := {name: True for name, kind in names.items() if kind == keyword}:
            rule[keyword] = named
    return rule


def _evaluated(schema: Schema, resolve: Resolver, depth: int = 0) -> dict[str, str] | None:
    """The properties and patterns that a schema evaluates for any value. `None` if it evaluates all."""
    rules: dict[str, str] = {}
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return rules
    if "additionalProperties" in schema:
        return None
    for keyword in ("properties", "patternProperties"):
        named = schema.get(keyword)
        rules |= dict.fromkeys(named if isinstance(named, dict) else (), keyword)
    parts = [resolve({"$ref": schema["$ref"]})] if "$ref" in schema else []
    for part in [*parts, *map(resolve, schema.get("allOf") or ())]:
        more = _evaluated(part, resolve, depth + 1)
        if more is None:
            return None
        rules |= more
    return rules


def _violating(keyword: str, value: Any, resolve: Resolver, depth: int) -> list[Schema]:
    """Schemas whose values violate one keyword."""
    match keyword, value:
        case "type", str() | list():
            return _other_types([value] if isinstance(value, str) else value)
        case "const", _:
            return _other_values([value])
        case "enum", list():
            return _other_values(value)
        case "pattern", str():
            rules = patterns.opposite(value)
            return [{"type": "string", "allOf": [{"pattern": one} for one in rules]}] if rules else []
        case "format", str():
            known = _VIOLATING_FORMATS.get(value)
            return [{"type": "string", "pattern": known}] if known else []
        case "required", list():
            return [{"type": "object", "properties": {name: False}} for name in value]
        case "properties", dict():
            tried = {name: violations(inner, resolve, depth) for name, inner in value.items()}
            return [
                {"type": "object", "required": [name], "properties": {name: {"anyOf": failing}}}
                for name, failing in tried.items()
                if failing
            ]
        case "items", dict() | False:
            failing = violations(value, resolve, depth)
            return [{"type": "array", "minItems": 1, "prefixItems": [{"anyOf": failing}]}] if failing else []
        case "anyOf" | "oneOf", list():
            each = [violations(inner, resolve, depth) for inner in value]
            return [{"allOf": [{"anyOf": failing} for failing in each]}] if all(each) else []
        case "allOf", list():
            return [failing for inner in value for failing in violations(inner, resolve, depth)]
        case "not", _:
            return [value]
        case "$ref", str():
            return violations({"$ref": value}, resolve, depth)
    return _beyond(keyword, value)


def _beyond(keyword: str, value: Any) -> list[Schema]:
    if keyword not in _OPPOSITE_BOUNDS or not isinstance(value, int | float) or isinstance(value, bool):
        return []
    kind, bound, step = _OPPOSITE_BOUNDS[keyword]
    return [] if value + step < 0 and step else [{"type": kind, bound: value + step}]


def _other_types(types: list[Any]) -> list[Schema]:
    """All other types. Numbers that are not integers are covered only near 0: each whole part takes a rule."""
    excluded = {*types} | ({"integer"} if "number" in types else {"number"} if "integer" in types else set())
    others = [kind for kind in TYPE_NAMES if kind not in excluded and kind != "integer"]
    fractions = range(-_MAX_FRACTIONS, _MAX_FRACTIONS) if "integer" in types and "number" not in types else ()
    between = [{"type": "number", "exclusiveMinimum": whole, "exclusiveMaximum": whole + 1} for whole in fractions]
    return ([{"type": others}] if others else []) + between


def _other_values(values: list[Any]) -> list[Schema]:
    """Every value but these, as far as that can be written."""
    if len(values) > _MAX_VALUES:
        return []
    kinds = {type(value) for value in values}
    texts = [patterns.not_equal(value) for value in values if isinstance(value, str)]
    rules: list[Schema] = []
    if None not in texts:
        rules.append({"type": "string", "allOf": [{"pattern": pattern} for pattern in texts]})
    numbers = sorted({value for value in values if isinstance(value, int | float) and not isinstance(value, bool)})
    lower: dict[str, Any] = {}
    for number in numbers:
        rules.append({"type": "number", **lower, "exclusiveMaximum": number})
        lower = {"exclusiveMinimum": number}
    rules.append({"type": "number", **lower})
    rules += [{"const": truth} for truth in (True, False) if not any(value is truth for value in values)]
    rules += [{"type": "null"}] if None not in values else []
    rules += [{"type": "array"}] if list not in kinds else []
    return rules + ([{"type": "object"}] if dict not in kinds else [])
