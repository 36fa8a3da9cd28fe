"""The keywords of JSON schemas: how each is handled, which values it may have, and the formats of texts."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, TypeAlias

JsonSchemaValue: TypeAlias = dict[str, Any]
Schema: TypeAlias = Any
"""A JSON schema: an object or a boolean, or anything else that a client sent instead."""

ONE, LIST, MAP = range(3)
NESTED = {
    **dict.fromkeys(("items", "additionalItems", "additionalProperties"), ONE),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), LIST),
    **dict.fromkeys(("properties", "patternProperties"), MAP),
}
"""Keywords that llguidance enforces, whose values hold schemas. `items` may also hold a list, as in older drafts."""

BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_COUNTS = tuple(f"{bound}{what}" for bound in ("min", "max") for what in ("Length", "Items", "Properties"))
_PLAIN = frozenset({"type", "enum", "const", "required", "pattern", "format", "multipleOf", "$ref", *_COUNTS, *BOUNDS})
ANNOTATIONS = frozenset(
    "$schema $id id $anchor $dynamicAnchor $vocabulary $comment title description default examples example deprecated "
    "readOnly writeOnly discriminator xml externalDocs $defs definitions".split()
)
"""Keywords that do not constrain a value."""

REWRITTEN = frozenset(
    "uniqueItems propertyNames dependentRequired dependentSchemas dependencies not if contains "
    "unevaluatedItems unevaluatedProperties contentEncoding".split()
)
"""Keywords that llguidance lacks. They are rewritten in terms of others, or partly so."""
HELPERS = frozenset("then else minContains maxContains".split())
"""Keywords that have a meaning only next to one of `REWRITTEN`."""

IGNORED = {
    "contentMediaType": "describes the text, which is not checked",
    "contentSchema": "describes the text, which is not checked",
}
"""Keywords that have no effect by the standard, although authors of schemas may expect one."""

NULLABLE = "nullable"
"""OpenAPI's keyword for a value that may also be null. Read before the others, see `nullable.py`."""

REFUSED = dict.fromkeys(("$dynamicRef", "$recursiveRef"), "cannot be enforced during generation") | {
    "x-guidance": "would change how the schema is enforced"
}

KNOWN = {*NESTED, *_PLAIN, *ANNOTATIONS, *REWRITTEN, *HELPERS, *IGNORED, *REFUSED, NULLABLE}
CONSTRAINING = {*NESTED, *_PLAIN}
"""The keywords that a rewritten schema may have, besides annotations and `$defs`."""

_MEANT = {keyword.lower(): keyword for keyword in sorted({*CONSTRAINING, *REWRITTEN, *HELPERS} - {"$ref"})}
_MEANT_SIMILARITY = 0.85


def meant_keyword(unknown: str) -> str | None:
    """The constraining keyword that an unknown one probably means, such as `minLength` for `min_length`."""
    letters = unknown.lower().replace("_", "").replace("-", "")
    close = difflib.get_close_matches(letters, _MEANT, 1, _MEANT_SIMILARITY)
    return _MEANT[close[0]] if close else None


NO_EFFECT: dict[str, tuple[object, ...]] = {
    "uniqueItems": (False,),
    NULLABLE: (False,),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
    "propertyNames": (True, {}),
    "contentEncoding": ("7bit", "8bit", "binary", ""),
}
"""Values with which a keyword has no effect."""

_LEAP_DAY = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29"
_NINE_DIGITS = r"(?:\.\d{1,9})?[Zz+-]"
_DATES = [
    {"pattern": r"^(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"},
    {"pattern": rf"^(?:\d{{4}}-(?:0[13-9]|1[0-2])|\d{{4}}-02-(?:[01]|2[0-8])|{_LEAP_DAY})"},
]
"""No year 0, which few programs can read, and February 29 in leap years only."""
FORMATS: dict[str, list[JsonSchemaValue]] = {
    **dict.fromkeys(("email", "hostname", "ipv4", "ipv6", "uuid", "uri"), []),
    "date": _DATES,
    "date-time": [*_DATES, {"pattern": r"^.{17}[0-5]"}, {"pattern": rf"^.{{19}}{_NINE_DIGITS}"}],
    "time": [{"pattern": r"^.{6}[0-5]"}, {"pattern": rf"^.{{8}}{_NINE_DIGITS}"}],
    "duration": [{"pattern": r"^(?:\D*\d{1,9}\D+)*$"}],
}
"""String formats, with additional rules for each. Leap seconds are excluded: very few minutes ever had one.

Fractions are limited to nine digits, although the standards have no limit: small models often do not stop.
"""
BASE64 = {"pattern": "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"}
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"
_REFERENCE_CHARS = r"(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})"
_REGEX_ATOM = r"(?:[A-Za-z0-9 _@#%&~:;,<>='\x22/!-]|\\[dDsSwW.\\/^$|?*+()\[\]{}]|\[\^?(?:[A-Za-z0-9_ ]|\\[dsw])+\])"
EXTRA_FORMATS: dict[str, list[JsonSchemaValue]] = {
    **dict.fromkeys(("password", "binary", "path", "file-path", "directory-path"), []),
    "byte": [BASE64],
    **dict.fromkeys(("url", "iri"), [{"format": "uri"}]),
    "idn-email": [{"format": "email"}],
    "idn-hostname": [{"format": "hostname"}],
    **dict.fromkeys(
        ("uri-reference", "iri-reference"),
        [{"pattern": rf"^(?:/?{_REFERENCE_CHARS}+)*/?(?:\?{_REFERENCE_CHARS}*)?(?:#{_REFERENCE_CHARS}*)?$"}],
    ),
    "uri-template": [{"pattern": rf"^(?:/?(?:{_REFERENCE_CHARS}|\{{[A-Za-z0-9_]+\}})+)*/?$"}],
    "json-pointer": [{"pattern": f"^{_POINTER}$"}],
    "relative-json-pointer": [{"pattern": f"^(?:0|[1-9][0-9]{{0,8}})(?:#|{_POINTER})$"}],
    "regex": [{"pattern": rf"^\^?(?:(?:{_REGEX_ATOM}|\((?:{_REGEX_ATOM}[*+?]?)+\))[*+?]?)*\$?$"}],
}
"""Formats unknown to llguidance. The first ones, from OpenAPI and Pydantic, do not constrain a string.

For some of the standard's formats the rules allow less than the format does.
"""
NUMBER_FORMATS: dict[str, list[JsonSchemaValue]] = {
    **{f"int{bits}": [{"minimum": -(2 ** (bits - 1)), "maximum": 2 ** (bits - 1) - 1}] for bits in (8, 16, 32)},
    **{f"uint{bits}": [{"minimum": 0, "maximum": 2**bits - 1}] for bits in (8, 16, 32)},
    "uint64": [{"minimum": 0, "maximum": 2**63 - 1024}],
    "uint": [{"minimum": 0}],
    "int64": [{"minimum": -(2**63) + 1024, "maximum": 2**63 - 1024}],
    "int": [],
    "float": [],
    "double": [],
}
"""Number formats of OpenAPI and Rust. The bounds of 64 bits are the widest that llguidance accepts."""

TYPE_NAMES = ("string", "number", "integer", "boolean", "null", "array", "object")
TYPE_ALIASES = {
    **dict.fromkeys(("str", "text"), "string"),
    **dict.fromkeys(("int", "long"), "integer"),
    **dict.fromkeys(("float", "double", "decimal"), "number"),
    "bool": "boolean",
    **dict.fromkeys(("dict", "map", "record"), "object"),
    **dict.fromkeys(("list", "tuple", "set"), "array"),
    "none": "null",
}
"""Names of other languages. `any` stands for every type."""


def keyword_groups() -> dict[str, list[str]]:
    """Every known keyword and format by how it is handled, for the reference page."""
    partly = {"oneOf", "patternProperties", "minProperties", "propertyNames", *(REWRITTEN - {"dependentRequired"})}
    return {
        "enforced": sorted({*NESTED, *_PLAIN, NULLABLE, "dependentRequired"} - partly),
        "enforced in part": sorted({*partly, *HELPERS}),
        "annotations": sorted(ANNOTATIONS),
        "ignored": sorted(IGNORED),
        "formats": sorted({*FORMATS, *EXTRA_FORMATS, *NUMBER_FORMATS}),
        "refused": sorted(REFUSED),
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_schema_list(value: object) -> bool:
    return isinstance(value, list)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("minimum", "maximum", "multipleOf"), (_is_number, "a number")),
    **dict.fromkeys(
        ("exclusiveMinimum", "exclusiveMaximum"), (lambda v: _is_number(v) or isinstance(v, bool), "a number")
    ),
    **dict.fromkeys((*_COUNTS, "minContains", "maxContains"), (_is_count, "a whole number of at least 0")),
    **dict.fromkeys(("pattern", "format", "$ref"), (lambda v: isinstance(v, str), "a text")),
    NULLABLE: (lambda v: isinstance(v, bool), "true or false"),
    "required": (_are_texts, "a list of names"),
    "enum": (lambda v: isinstance(v, list), "a list of values"),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), (_is_schema_list, "a list of schemas")),
    **dict.fromkeys(
        ("properties", "patternProperties", "dependentSchemas", "dependencies"),
        (lambda v: isinstance(v, dict), "an object"),
    ),
    "dependentRequired": (
        lambda v: isinstance(v, dict) and all(map(_are_texts, v.values())),
        "a list of names for each property",
    ),
}


def expected_shape(keyword: str, value: object) -> str | None:
    """What the value of a keyword should be, if it is something else."""
    fits, shape = _SHAPES.get(keyword, (None, ""))
    return None if fits is None or fits(value) else shape
