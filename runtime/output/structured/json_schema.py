"""Makes sure that nothing in a JSON schema is passed over. Knows llguidance's gaps, and no tokens.

llguidance refuses most of what it cannot enforce (docs/json_schema.md in its repository). Some of the rest it accepts
without enforcing it, which was found by trying each keyword with version 1.9: that is refused here, or put in words
that it does enforce.
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
_NOTES = frozenset(
    "$schema $id id $anchor $comment title description default examples example deprecated readOnly writeOnly "
    "discriminator".split()
)
"""Ask nothing of a value."""

_EMPTY: dict[str, tuple[object, ...]] = {
    "uniqueItems": (False,),
    "nullable": (False,),
    "unevaluatedItems": (True,),
    "unevaluatedProperties": (True,),
}
"""Values that ask for nothing, of keywords that are refused otherwise."""

_REFUSED = {
    "nullable": 'is not part of JSON Schema; write "type": ["string", "null"], or whatever the other type is',
    "x-guidance": "would change how the schema is enforced",
} | dict.fromkeys(
    "contains minContains maxContains not if then else dependentSchemas dependencies "
    "unevaluatedItems unevaluatedProperties contentEncoding contentMediaType contentSchema "
    "$dynamicRef $recursiveRef".split(),
    "cannot be enforced while an answer is made",
)

_REWRITTEN = frozenset({"uniqueItems", "propertyNames", "dependentRequired"})
"""llguidance does not know them; they are said by others."""

_KNOWN = {*_NESTED, *_ENFORCED, *_NOTES, *_EMPTY, *_REFUSED, *_REWRITTEN}

_LEAP_DAY = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29"
_NINE_DIGITS = r"(?:\.\d{1,9})?[Zz+-]"
_DATES = [
    {"pattern": r"^(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"},
    {"pattern": rf"^(?:\d{{4}}-(?:0[13-9]|1[0-2])|\d{{4}}-02-(?:[01]|2[0-8])|{_LEAP_DAY})"},
]
"""No year 0, which few programs can read, and a 29th of February in leap years only."""
_FORMATS: dict[str, list[JsonSchemaValue]] = {
    **dict.fromkeys(("email", "hostname", "ipv4", "ipv6", "uuid", "uri"), []),
    "date": _DATES,
    "date-time": [*_DATES, {"pattern": r"^.{17}[0-5]"}, {"pattern": rf"^.{{19}}{_NINE_DIGITS}"}],
    "time": [{"pattern": r"^.{6}[0-5]"}, {"pattern": rf"^.{{8}}{_NINE_DIGITS}"}],
    "duration": [{"pattern": r"^(?:\D*\d{1,9}\D+)*$"}],
}
"""Formats of text, and what to ask beside them. A leap second is left out: it comes in few minutes of history.

Digits end after the ninth, although the standards know no end: a small model often finds none either.
"""
_OWN_FORMATS: dict[str, list[JsonSchemaValue]] = {
    **dict.fromkeys(("password", "binary", "path", "file-path", "directory-path"), []),
    "byte": [{"pattern": "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"}],
}
"""Formats that llguidance does not know. The first ones, of OpenAPI and Pydantic, ask nothing of a text."""
_NUMBER_FORMATS: dict[str, list[JsonSchemaValue]] = {
    "int32": [{"minimum": -(2**31), "maximum": 2**31 - 1}],
    "int64": [{"minimum": -(2**63) + 1024, "maximum": 2**63 - 1024}],
    "float": [],
    "double": [],
}
"""OpenAPI's formats of numbers; the bounds of int64 are the widest that llguidance takes."""

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_DIGITS = {"multipleOf": 1e-9}
"""Asked of a number beside its bounds: where digits need not end, small models often write zeros for ever."""
_COARSE = 6
"""Bounds with more digits behind the point than this may have nothing between them that `_DIGITS` allows."""

_MOST_ORDERS = 4
"""Different items of an array that may come in any order; the number of orders grows with the factorial."""

_SET_OPERATION = re.compile(r"(?<!\\)\[(?:\\.|[^\]\\])*?(?:&&|--|~~|(?<!\\)\[)")
"""In a class of characters, where llguidance reads operators and JavaScript single characters."""


def enforceable(schema: JsonSchemaValue | bool) -> tuple[JsonSchemaValue, list[str]]:
    """A schema of the same meaning that llguidance enforces whole or refuses, and warnings of unknown keywords.

    Raises `InvalidRequest` naming the keyword that cannot be enforced.
    """
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    walk = _Walk(schema)
    checked = walk.schema(schema, "#")
    walk.check_references()
    return checked, walk.warnings


def demands(schema: JsonSchemaValue) -> set[str]:
    """The keywords of a schema that ask something of a value: neither notes nor unknown ones."""
    return set(schema) & _KNOWN - _NOTES


class _Walk:
    """Goes through a schema once; knows where schemas stand in it and what they refer to."""

    def __init__(self, root: JsonSchemaValue) -> None:
        self._root = root
        self.warnings: list[str] = []
        self._places: set[str] = set()
        self._references: list[tuple[str, str]] = []

    def schema(self, schema: Any, place: str) -> Any:
        self._places.add(place)
        if not isinstance(schema, dict):
            return schema  # true, false, or an error that llguidance names
        checked: JsonSchemaValue = {}
        for keyword, value in schema.items():
            if value not in _EMPTY.get(keyword, ()) and not _replaced(keyword, value):
                checked[keyword] = self._nested(keyword, value, place)
        further = [rule for keyword in schema for rule in self._rules(keyword, schema, place)]
        if further:
            checked["allOf"] = [*checked.get("allOf", []), *further]
        return checked

    def _nested(self, keyword: str, value: Any, place: str) -> Any:
        """The value of a keyword, the schemas in it checked."""
        kind, inside = _NESTED.get(keyword), f"{place}/{_escaped(keyword)}"
        if kind is None:
            return value
        if isinstance(value, list):
            return [self.schema(item, f"{inside}/{i}") for i, item in enumerate(value)]
        if kind == _MAP and isinstance(value, dict):
            return {name: self.schema(item, f"{inside}/{_escaped(name)}") for name, item in value.items()}
        return self.schema(value, inside)

    def _rules(self, keyword: str, schema: JsonSchemaValue, place: str) -> Iterator[JsonSchemaValue]:
        """What must be asked beside a keyword so that it is enforced whole."""
        value = schema[keyword]
        if keyword in _REFUSED and value not in _EMPTY.get(keyword, ()):
            raise _refusal(keyword, place, _REFUSED[keyword])
        if keyword == "format":
            yield from _format_rules(value, schema.get("type"), place)
        elif keyword == "pattern" and isinstance(value, str) and _SET_OPERATION.search(value):
            raise _refusal(keyword, place, "holds a class of characters with &&, --, ~~ or [, which is ambiguous")
        elif keyword == "minProperties":
            _check_count(value, schema, place)
        elif keyword == "type":
            yield from _ends(schema)
        elif keyword == "uniqueItems" and value not in _EMPTY[keyword]:
            yield from self._unique(schema, place)
        elif keyword == "propertyNames":
            yield self._names(value, schema, place)
        elif keyword == "dependentRequired":
            yield from _dependent(value, place)
        elif keyword == "$ref":
            self._references.append((place, value))
        elif keyword not in _KNOWN and not keyword.startswith("x-"):
            self.warnings.append(f"the JSON schema's keyword {keyword[:80]!r} at {place[:200]} is unknown here")

    def _unique(self, schema: JsonSchemaValue, place: str) -> Iterator[JsonSchemaValue]:
        """Every order of different items, where they are few."""
        most = schema.get("maxItems")
        if isinstance(most, int) and most < 2:
            return
        items = None if "prefixItems" in schema else self._resolved(schema.get("items"))
        values = items.get("enum") if isinstance(items, dict) else None
        if not isinstance(values, list) or len(values) > _MOST_ORDERS or not _distinct(values):
            reason = f"can be enforced only of items from an enum of at most {_MOST_ORDERS} texts or whole numbers"
            raise _refusal("uniqueItems", place, reason)
        orders = (order for count in range(len(values) + 1) for order in permutations(values, count))
        yield {"anyOf": [_exactly(order) for order in orders]}

    def _names(self, value: Any, schema: JsonSchemaValue, place: str) -> JsonSchemaValue:
        """Names from an enum or of a pattern, where an object names no properties itself."""
        names = self._resolved(value)
        asked = set(names) - _NOTES if isinstance(names, dict) else set()
        if not asked & {"enum", "pattern"} or asked - {"type"} not in ({"enum"}, {"pattern"}):
            raise _refusal("propertyNames", place, "can be enforced only by one enum or one pattern")
        if {"properties", "patternProperties"} & set(schema) or names.get("type", "string") != "string":
            raise _refusal("propertyNames", place, "can be enforced only of texts, where no properties are named")
        if "enum" in names:
            named = {name: True for name in names["enum"] if isinstance(name, str)}
            return {"properties": named, "additionalProperties": False}
        return {"patternProperties": {names["pattern"]: True}, "additionalProperties": False}

    def _resolved(self, schema: Any) -> Any:
        """A schema, or the one under `$defs` or `definitions` that it does nothing but refer to."""
        target = schema.get("$ref") if isinstance(schema, dict) and not set(schema) - _NOTES - {"$ref"} else None
        for key in ("$defs", "definitions"):
            if isinstance(target, str) and target.startswith(f"#/{key}/") and isinstance(self._root.get(key), dict):
                name = unquote(target.removeprefix(f"#/{key}/"))
                return self._root[key].get(name.replace("~1", "/").replace("~0", "~"))
        return schema

    def check_references(self) -> None:
        """Refuses references to places that were not gone through, where anything might stand."""
        for place, target in self._references:
            if isinstance(target, str) and "#/" in target and unquote(target) not in self._places:
                raise _refusal("$ref", place, f"points to {target[:200]!r}, and no schema stands there")


def _format_rules(name: object, types: object, place: str) -> list[JsonSchemaValue]:
    kinds = set(types if isinstance(types, list) else [types])
    formats = _NUMBER_FORMATS if kinds <= {"integer", "number", "null"} else _FORMATS | _OWN_FORMATS
    if not isinstance(name, str) or name not in formats:
        raise _refusal("format", place, f"asks for {name!r}; {', '.join(formats)} can be enforced here")
    return formats[name]


def _replaced(keyword: str, value: object) -> bool:
    """Whether other keywords say all that this one says."""
    unknown_format = keyword == "format" and isinstance(value, str) and value in _OWN_FORMATS
    return unknown_format or keyword in _REWRITTEN


def _ends(schema: JsonSchemaValue) -> Iterator[JsonSchemaValue]:
    """Lets the digits of a number end, where its schema does not.

    A whole number fits 64 bits. One with bounds has nine digits behind its point, unless the bounds have about as many.
    """
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    bounds = [schema[bound] for bound in _BOUNDS if bound in schema]
    if "number" in kinds:
        coarse = all(isinstance(b, int | float) and abs(b) < 1e9 and round(b, _COARSE) == b for b in bounds)
        if bounds and coarse and "multipleOf" not in schema:
            yield _DIGITS
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
    """For each property either none of it, or those it depends on."""
    if not isinstance(value, dict) or not all(isinstance(names, list) for names in value.values()):
        raise _refusal("dependentRequired", place, "must hold a list of names for each property")
    return [{"anyOf": [{"properties": {name: False}}, {"required": names}]} for name, names in value.items()]


def _check_count(least: object, schema: JsonSchemaValue, place: str) -> None:
    """Refuses what llguidance would count wrongly: a property that comes twice is only one."""
    required = schema.get("required")
    certain = len(required) if isinstance(required, list) else 0
    closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    if isinstance(least, int) and least > certain + 1 and not closed:
        raise _refusal("minProperties", place, "cannot be enforced where names may repeat; list names in required")


def _escaped(name: str) -> str:
    """A name as it stands in a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _refusal(keyword: str, place: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{keyword} at {place[:200]} {reason}", "json_schema")
