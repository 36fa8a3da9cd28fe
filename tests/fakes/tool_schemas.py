# ruff: noqa: E501 - a table reads best with one schema after the other
"""Schemas as tools of other programs declare them: valid constructs, sloppy ones, and those of all arguments."""

from __future__ import annotations

from typing import Any

from fakes.schemas import DIGIT, SHORT, TEXT, array, number, obj, text, whole

EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"

CONSTRUCTS: list[Any] = [
    # texts
    text(pattern=r"\S"), text(pattern=r"^\d+$"), text(pattern=r"^[\w-]+$"), text(pattern=r"^\d{4,4}$"), text(pattern=EMAIL, format="email"),
    text(pattern=r"\bok\b"), text(pattern="^(?=.*[0-9]).{3,}$"), text(pattern="^v[0-9]+$", maxLength=5), text(minLength=2, maxLength=5), text(format="date-time"),
    text(format="uri"), text(format="url"), text(format="uri-reference"), text(format="json-pointer"), text(format="regex"), text(format="phone"), text(format="int64"),
    text(contentEncoding="base64"), text(contentMediaType="text/html"), {"type": ["string", "null"]}, text(enum=["x", "y"]), {"type": "string", "enum": ["x", None]},
    text(deprecated=True), text(**{"not": {"const": "x"}}), {"const": "only"}, text(enum=[f"value {i}" for i in range(300)]),
    # numbers
    *(whole(format=f) for f in ("uint", "uint8", "uint32", "uint64", "int16", "int32")), whole(minimum=0, maximum=2**64 - 1), number(minimum=-1.7976931348623157e308),
    number(exclusiveMinimum=0, exclusiveMaximum=1), whole(multipleOf=5, minimum=0), {"enum": [1, 2.5, "a", None]},
    # anything
    {}, {"title": "A", "description": "x", "default": 3}, True, {"type": ["string", "number", "boolean", "array", "object", "null"]},
    # arrays
    array(TEXT, uniqueItems=True), {"type": "array"}, {"type": "array", "prefixItems": [whole(), TEXT], "items": False, "minItems": 1}, {"type": "array", "contains": whole()},
    array(obj("k", k=text(enum=["a", "b"]), n=whole()), minItems=1, maxItems=2), array(array(DIGIT, maxItems=2), maxItems=2),
    # objects
    {"type": "object", "additionalProperties": {}}, {"type": "object", "additionalProperties": {"type": "string"}}, {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {}},
    {"type": "object", "propertyNames": {"type": "string", "minLength": 1}, "additionalProperties": TEXT}, {"type": "object"}, {"type": "object", "minProperties": 2},
    {"type": "object", "patternProperties": {"^a": {}, "b$": {}}}, {"type": "object", "patternProperties": {"^x-": TEXT}, "additionalProperties": False}, obj(a=DIGIT, b=DIGIT) | {"minProperties": 1},
    obj(a=DIGIT) | {"unevaluatedProperties": False}, {"type": "object", "properties": {"a": DIGIT}, "dependencies": {"a": ["b"]}}, obj("x y", True, **{"x y": SHORT, "x": DIGIT, "y": DIGIT}),
    obj(k=DIGIT, v=DIGIT) | {"if": {"required": ["k"]}, "then": {"required": ["v"]}},
    # alternatives and references
    {"anyOf": [{"not": {}}, TEXT]}, {"oneOf": [TEXT, text(format="date")]}, {"oneOf": [whole(), number()]}, {"anyOf": [TEXT, {"type": "object", "properties": {"l": {"$ref": "#/properties/a/anyOf/0"}}}]},
    {"allOf": [obj(closed=False, p=DIGIT), obj("q", closed=False, q=DIGIT)]}, {"oneOf": [obj("k", k={"const": "a"}, v=SHORT), obj("k", k={"const": "b"}, w=DIGIT)]},
    {"type": "array", "items": {"$ref": "#/properties/a"}}, {"not": {"type": "null"}},
]  # fmt: skip
"""Valid schemas of one property `a`."""

REFUSED_IN_ANSWERS: list[Any] = [array(TEXT, uniqueItems=True), {"type": "object", "minProperties": 2}]
"""The constructs that no answer's schema may have."""

SLOPPY: list[Any] = [
    {"type": "object", "properties": {}, "required": None}, {"type": "any"}, {"type": "int"}, {"type": "STRING"}, obj("gone"), array(None), {"type": "object", "properties": None},
    {"enum": None, "type": "string"}, {"anyOf": []}, None, "string", 5, text(minLength="3"), text(maxLength=5.0), text(pattern="["), text(pattern=r"(?<=a+)b"), text(pattern=r"^(\w)\1$"), text(pattern="^a$", minLength=5),
    whole(minimum=5, maximum=3), {"$ref": "#/$defs/none"}, {"$ref": "https://example.com/a.json"}, {"$dynamicRef": "#x"}, {"type": "number", "minimum": 0, "exclusiveMinimum": True}, {"type": "array", "items": [TEXT]},
    {"type": "nonsense"}, {"type": "object", "required": "a"}, {"type": "object", "properties": {"a": 5}},
    {"not": {"required": [{}]}}, {"oneOf": [{"properties": [1]}, {"required": [[]]}]}, {"if": {"enum": 5, "$ref": []}, "then": None}, {"type": "array", "contains": [1], "maxContains": "x"},
]  # fmt: skip
"""What people write although it is wrong, or what no program can enforce."""

ARGUMENTS: list[Any] = [
    None, {}, {"type": "object"}, {"type": "object", "additionalProperties": {}}, {"type": ["object", "null"], "properties": {"a": TEXT}}, {"type": "object", "properties": None, "required": None},
    {"anyOf": [obj(closed=False, a=SHORT), obj(closed=False, b=SHORT)]}, obj(a=SHORT, b=DIGIT) | {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"$ref": "#/$defs/x", "$defs": {"x": obj("a", a=DIGIT)}},
    {"allOf": [{"$ref": "#/definitions/b"}, obj(closed=False, c={"type": "boolean"})], "definitions": {"b": obj("a", closed=False, a=SHORT)}}, obj(a=SHORT, b={"$ref": "#/properties/a"}), obj("zzz", closed=False, a=SHORT),
    obj("zzz", a=SHORT), {"$schema": "https://example.com/any#", **obj(a=SHORT)}, {"$id": "https://example.com/s", **obj(a={"$ref": "https://example.com/s#/$defs/k"}), "$defs": {"k": DIGIT}}, obj(x={"$ref": "#"}),
    obj(t={"$ref": "#/$defs/t"}) | {"$defs": {"t": obj(kids=array({"$ref": "#/$defs/t"}), name=SHORT)}}, {"type": "array", "items": TEXT}, {"type": "string"}, {"type": "object", "patternProperties": {"^x-": SHORT}},
    obj("a b", True, **{"a b": SHORT, "a\nb": SHORT, "<x>": SHORT, "$filter": SHORT, "@type": DIGIT, "": SHORT}), {"type": "object", "properties": {"a": DIGIT}, "required": ["a"], "additionalProperties": SHORT}, {"const": {"a": 1}},
]  # fmt: skip
"""Schemas of all arguments of a tool."""


def with_property(schema: Any) -> dict[str, Any]:
    """The schema of a tool's arguments that requires `a`."""
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def with_definitions(**definitions: Any) -> dict[str, Any]:
    """The schema of arguments that require an `A`."""
    return {**obj("a", a=ref("A")), "$defs": definitions}


ENDLESS: list[tuple[dict[str, Any], str]] = [
    (with_definitions(A=obj("b", b=ref("B")), B=obj("a", a=ref("A"))), "B/properties/a"),
    (with_definitions(A=ref("B"), B=ref("A")), "A"),
    (with_definitions(A={"allOf": [ref("A")]}), "A/allOf/0"),
    (with_definitions(A=obj("b", b=ref("A"))) | {"required": []}, "A/properties/b"),
    (with_definitions(A=array(ref("A"), minItems=1)), "A/items"),
    (with_definitions(A={"type": "array", "prefixItems": [SHORT, ref("A")], "minItems": 2}), "A/prefixItems/1"),
    (
        with_definitions(A={"type": "object", "additionalProperties": ref("A"), "minProperties": 1}),
        "A/additionalProperties",
    ),
    (
        with_definitions(
            A=obj("b", closed=False, b={"allOf": [ref("F"), ref("A")]}), F=obj("q", closed=False, q=SHORT)
        ),
        "A/properties/b/allOf/1",
    ),
    (with_definitions(A={"allOf": [ref("N"), {"required": ["n"]}]}, N=obj(closed=False, n=ref("A"))), "N/properties/n"),
    (with_definitions(A=obj(n={"allOf": [ref("A"), {"required": ["n"]}]})), "A/properties/n/allOf/0"),
    (with_definitions(A={"anyOf": [obj("x", x=ref("A")), obj("y", y=ref("A"))]}), "A/anyOf/0/properties/x"),
]
"""Schemas without a value somewhere, and the place of the reference that is left out."""
