"""Makes sure that no keyword of a JSON schema is silently ignored. Works around gaps of llguidance.

llguidance refuses most keywords that it cannot enforce (docs/json_schema.md in its repository). It accepts some others
without enforcing them, as trying each keyword with version 1.9 showed. Those are refused here, or rewritten in
keywords that it does enforce.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import permutations
from typing import Any
from urllib.parse import unquote

from ....models.errors import InvalidRequest

JsonSchemaValue = dict[str, Any]

_ONE, _LIST, _MAP = range(3)
_NESTED = {
    **dict.fromkeys(("items", "additionalItems", "additionalProperties"), _ONE),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems", "items"), _LIST),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), _MAP),
}
"""Keywords whose values hold schemas. `items` holds one, or in older drafts a list of them."""

_ENFORCED = {"type", "enum", "const", "required", "pattern", "format", "multipleOf", "$ref"} | {
    f"{bound}{what}" for bound in ("min", "max") for what in ("imum", "Length", "Items", "Properties")
} | {"exclusiveMinimum", "exclusiveMaximum"}  # fmt: skip
_ANNOTATIONS = frozenset(
    "$schema $id id $anchor $comment title description default examples example deprecated readOnly writeOnly "
    "discriminator".split()
)
"""Keywords that do not constrain a value."""

_NO_EFFECT_VALUES: dict[str, tuple[object, ...]] = {
    "uniqueItems": (False,),
    "nullable": (False,),
    "unevaluatedItems": (True,),
    "unevaluatedProperties": (True,),
}
"""Values with no effect, of keywords that are refused with any other value."""

_REFUSED = {
    "nullable": 'is not part of JSON Schema; write "type": ["string", "null"] with the type you need',
    "x-guidance": "would change how the schema is enforced",
} | dict.fromkeys(
    "contains minContains maxContains not if then else dependentSchemas dependencies "
    "unevaluatedItems unevaluatedProperties contentEncoding contentMediaType contentSchema "
    "$dynamicRef $recursiveRef".split(),
    "cannot be enforced during generation",
)

_REWRITTEN = frozenset({"uniqueItems", "propertyNames", "dependentRequired"})
"""Keywords unknown to llguidance. They are rewritten in terms of others."""

_KNOWN = {*_NESTED, *_ENFORCED, *_ANNOTATIONS, *_NO_EFFECT_VALUES, *_REFUSED, *_REWRITTEN}

_LEAP_DAY = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29"
_NINE_DIGITS = r"(?:\.\d{1,9})?[Zz+-]"
_DATES = [
    {"pattern": r"^(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"},
    {"pattern": rf"^(?:\d{{4}}-(?:0[13-9]|1[0-2])|\d{{4}}-02-(?:[01]|2[0-8])|{_LEAP_DAY})"},
]
"""No year 0, which few programs can read, and February 29 in leap years only."""
_FORMATS: dict[str, list[JsonSchemaValue]] = {
    **dict.fromkeys(("email", "hostname", "ipv4", "ipv6", "uuid", "uri"), []),
    "date": _DATES,
    "date-time": [*_DATES, {"pattern": r"^.{17}[0-5]"}, {"pattern": rf"^.{{19}}{_NINE_DIGITS}"}],
    "time": [{"pattern": r"^.{6}[0-5]"}, {"pattern": rf"^.{{8}}{_NINE_DIGITS}"}],
    "duration": [{"pattern": r"^(?:\D*\d{1,9}\D+)*$"}],
}
"""String formats, with additional rules for each. Leap seconds are excluded: very few minutes ever had one.

Fractions are limited to nine digits, although the standards have no limit: small models often do not stop.
"""
_EXTRA_FORMATS: dict[str, list[JsonSchemaValue]] = {
    **dict.fromkeys(("password", "binary", "path", "file-path", "directory-path"), []),
    "byte": [{"pattern": "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"}],
}
"""Formats unknown to llguidance. The first ones, from OpenAPI and Pydantic, do not constrain a string."""
_NUMBER_FORMATS: dict[str, list[JsonSchemaValue]] = {
    "int32": [{"minimum": -(2**31), "maximum": 2**31 - 1}],
    "int64": [{"minimum": -(2**63) + 1024, "maximum": 2**63 - 1024}],
    "float": [],
    "double": [],
}
"""OpenAPI's number formats. The bounds of int64 are the widest that llguidance accepts."""

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_NINE_DECIMALS = {"multipleOf": 1e-9}
"""Added to the bounds of a number: if digits need not end, small models often write zeros forever."""
_MAX_BOUND_DECIMALS = 6
"""Between bounds with more decimals than this there may be no number that `_NINE_DECIMALS` allows."""

_MAX_UNIQUE_ITEMS = 4
"""The largest enum for which every order of unique items is listed. Their number grows with the factorial."""

_SET_OPERATION = re.compile(r"(?<!\\)\[(?:\\.|[^\]\\])*?(?:&&|--|~~|(?<!\\)\[)")
"""In a character class, a text that llguidance reads as a set operator and JavaScript as single characters."""


def keywords() -> dict[str, list[str]]:
    """Every known keyword and format by what becomes of it, for the reference page."""
    partly = {"oneOf", "patternProperties", "propertyNames", "uniqueItems"}
    return {
        "enforced": sorted({*_NESTED, *_ENFORCED, *_REWRITTEN} - partly - {"$defs", "definitions"}),
        "enforced in part": sorted(partly),
        "annotations": sorted({*_ANNOTATIONS, "$defs", "definitions"}),
        "formats": sorted({*_FORMATS, *_EXTRA_FORMATS, *_NUMBER_FORMATS}),
        "refused": sorted(_REFUSED),
    }


def enforceable(schema: JsonSchemaValue | bool) -> tuple[JsonSchemaValue, list[str]]:
    """An equivalent schema that llguidance enforces completely or refuses, and warnings about unknown keywords.

    Raises `InvalidRequest` naming a keyword that cannot be enforced.
    """
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    walk = _Walk(schema)
    checked = walk.schema(schema, "#")
    walk.check_references()
    return checked, walk.warnings


def constraining_keywords(schema: JsonSchemaValue) -> set[str]:
    """The keywords of a schema that constrain a value: neither annotations nor unknown keywords."""
    return set(schema) & _KNOWN - _ANNOTATIONS


class _Walk:
    """Walks a schema once, and collects the places of its subschemas and its references."""

    def __init__(self, root: JsonSchemaValue) -> None:
        self._root = root
        self.warnings: list[str] = []
        self._places: set[str] = set()
        self._references: list[tuple[str, str]] = []

    def schema(self, schema: Any, place: str) -> Any:
        self._places.add(place)
        if not isinstance(schema, dict):
            return schema  # true, false, or an error that llguidance reports
        checked: JsonSchemaValue = {}
        for keyword, value in schema.items():
            if value not in _NO_EFFECT_VALUES.get(keyword, ()) and not _replaced(keyword, value):
                checked[keyword] = self._nested(keyword, value, place)
        extra_rules = [rule for keyword in schema for rule in self._rules(keyword, schema, place)]
        if extra_rules:
            checked["allOf"] = [*checked.get("allOf", []), *extra_rules]
        return checked

    def _nested(self, keyword: str, value: Any, place: str) -> Any:
        """The value of a keyword, with its subschemas checked."""
        kind, inside = _NESTED.get(keyword), f"{place}/{_escaped(keyword)}"
        if kind is None:
            return value
        if isinstance(value, list):
            return [self.schema(item, f"{inside}/{i}") for i, item in enumerate(value)]
        if kind == _MAP and isinstance(value, dict):
            return {name: self.schema(item, f"{inside}/{_escaped(name)}") for name, item in value.items()}
        return self.schema(value, inside)

    def _rules(self, keyword: str, schema: JsonSchemaValue, place: str) -> Iterator[JsonSchemaValue]:
        """Additional schemas that make llguidance enforce a keyword completely."""
        value = schema[keyword]
        if keyword in _REFUSED and value not in _NO_EFFECT_VALUES.get(keyword, ()):
            raise _refusal(keyword, place, _REFUSED[keyword])
        if keyword == "format":
            yield from _format_rules(value, schema.get("type"), place)
        elif keyword == "pattern" and isinstance(value, str) and _SET_OPERATION.search(value):
            raise _refusal(keyword, place, "contains a character class with &&, --, ~~ or [, which is ambiguous")
        elif keyword == "minProperties":
            _check_min_properties(value, schema, place)
        elif keyword == "type":
            yield from _digit_limits(schema)
        elif keyword == "uniqueItems" and value not in _NO_EFFECT_VALUES[keyword]:
            yield from self._unique(schema, place)
        elif keyword == "propertyNames":
            yield self._names(value, schema, place)
        elif keyword == "dependentRequired":
            yield from _dependent(value, place)
        elif keyword == "$ref":
            self._references.append((place, value))
        elif keyword not in _KNOWN and not keyword.startswith("x-"):
            self.warnings.append(f"the unknown keyword {keyword[:80]!r} at {place[:200]} of the JSON schema is ignored")

    def _unique(self, schema: JsonSchemaValue, place: str) -> Iterator[JsonSchemaValue]:
        """Every order of unique items, if there are few of them."""
        most = schema.get("maxItems")
        if isinstance(most, int) and most < 2:
            return
        items = None if "prefixItems" in schema else self._resolved(schema.get("items"))
        values = items.get("enum") if isinstance(items, dict) else None
        if not isinstance(values, list) or len(values) > _MAX_UNIQUE_ITEMS or not _distinct(values):
            reason = f"can be enforced only for items from an enum of at most {_MAX_UNIQUE_ITEMS} strings or integers"
            raise _refusal("uniqueItems", place, reason)
        orders = (order for count in range(len(values) + 1) for order in permutations(values, count))
        yield {"anyOf": [_exactly(order) for order in orders]}

    def _names(self, value: Any, schema: JsonSchemaValue, place: str) -> JsonSchemaValue:
        """Property names from an enum or a pattern, for an object that lists no properties itself."""
        names = self._resolved(value)
        asked = set(names) - _ANNOTATIONS if isinstance(names, dict) else set()
        if not asked & {"enum", "pattern"} or asked - {"type"} not in ({"enum"}, {"pattern"}):
            raise _refusal("propertyNames", place, "can be enforced only with a single enum or a single pattern")
        if {"properties", "patternProperties"} & set(schema) or names.get("type", "string") != "string":
            raise _refusal("propertyNames", place, "can be enforced only for strings and without listed properties")
        if "enum" in names:
            named = {name: True for name in names["enum"] if isinstance(name, str)}
            return {"properties": named, "additionalProperties": False}
        return {"patternProperties": {names["pattern"]: True}, "additionalProperties": False}

    def _resolved(self, schema: Any) -> Any:
        """A schema, or the one under `$defs` or `definitions` if it is only a reference to that."""
        target = schema.get("$ref") if isinstance(schema, dict) and not set(schema) - _ANNOTATIONS - {"$ref"} else None
        for key in ("$defs", "definitions"):
            if isinstance(target, str) and target.startswith(f"#/{key}/") and isinstance(self._root.get(key), dict):
                name = unquote(target.removeprefix(f"#/{key}/"))
                return self._root[key].get(name.replace("~1", "/").replace("~0", "~"))
        return schema

    def check_references(self) -> None:
        """Refuses references to places that are not subschemas, because those were not checked."""
        for place, target in self._references:
            if isinstance(target, str) and "#/" in target and unquote(target) not in self._places:
                raise _refusal("$ref", place, f"points to {target[:200]!r}, which is not a schema")


def _format_rules(name: object, types: object, place: str) -> list[JsonSchemaValue]:
    kinds = set(types if isinstance(types, list) else [types])
    formats = _NUMBER_FORMATS if kinds <= {"integer", "number", "null"} else _FORMATS | _EXTRA_FORMATS
    if not isinstance(name, str) or name not in formats:
        raise _refusal("format", place, f"is {name!r}; the formats that can be enforced are {', '.join(formats)}")
    return formats[name]


def _replaced(keyword: str, value: object) -> bool:
    """Whether a keyword is left out because other keywords replace it."""
    unknown_format = keyword == "format" and isinstance(value, str) and value in _EXTRA_FORMATS
    return unknown_format or keyword in _REWRITTEN


def _digit_limits(schema: JsonSchemaValue) -> Iterator[JsonSchemaValue]:
    """Limits the digits of a number whose schema does not.

    An integer fits 64 bits. A number with bounds has at most nine decimals, unless the bounds have about as many.
    """
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    bounds = [schema[bound] for bound in _BOUNDS if bound in schema]
    if "number" in kinds:
        few_decimals = all(
            isinstance(b, int | float) and abs(b) < 1e9 and round(b, _MAX_BOUND_DECIMALS) == b for b in bounds
        )
        if bounds and few_decimals and "multipleOf" not in schema:
            yield _NINE_DECIMALS
    elif "integer" in kinds:
        for bound, value in _NUMBER_FORMATS["int64"][0].items():
            if bound not in schema and f"exclusive{bound.capitalize()}" not in schema:
                yield {bound: value}


def _distinct(values: list[Any]) -> bool:
    kinds = {type(value) for value in values}
    return kinds in ({str}, {int}) and len(set(values)) == len(values)


def _exactly(items: tuple[Any, ...]) -> JsonSchemaValue:
    prefix = [{"const": item} for item in items]
    return {"prefixItems": prefix, "items": False, "minItems": len(items), "maxItems": len(items)}


def _dependent(value: Any, place: str) -> list[JsonSchemaValue]:
    """For each property: either it is absent, or the properties that it requires are present."""
    if not isinstance(value, dict) or not all(isinstance(names, list) for names in value.values()):
        raise _refusal("dependentRequired", place, "must be a list of names for each property")
    return [{"anyOf": [{"properties": {name: False}}, {"required": names}]} for name, names in value.items()]


def _check_min_properties(min_properties: object, schema: JsonSchemaValue, place: str) -> None:
    """Refuses `minProperties` where llguidance would count a repeated property twice."""
    required = schema.get("required")
    certain = len(required) if isinstance(required, list) else 0
    closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    if isinstance(min_properties, int) and min_properties > certain + 1 and not closed:
        raise _refusal("minProperties", place, "cannot be enforced if names may repeat; list the names in required")


def _escaped(name: str) -> str:
    """Escapes a name for a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _refusal(keyword: str, place: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{keyword} at {place[:200]} {reason}", "json_schema")
