# ruff: noqa: E501 - a table reads best with one schema after the other
"""JSON schemas of every keyword family: those that are enforced, and those that are rejected with the keyword's name."""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

import jsonschema

Schema = Any

INT, NUM, TEXT, BOOL, NULL = ({"type": t} for t in ("integer", "number", "string", "boolean", "null"))
SHORT = {"type": "string", "maxLength": 4}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}


def obj(required: str = "", /, closed: bool = True, **properties: Any) -> Schema:
    """An object schema with these properties; `required` lists the required ones."""
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required.split()
    return schema | ({"additionalProperties": False} if closed else {})


def array(items: Schema, **rules: Schema) -> Schema:
    return {"type": "array", "items": items, **rules}


def text(**rules: Schema) -> Schema:
    return {"type": "string", **rules}


def whole(**rules: Schema) -> Schema:
    return {"type": "integer", **rules}


def number(**rules: Schema) -> Schema:
    return {"type": "number", **rules}


TREE = obj("value children", value=DIGIT, children=array({"$ref": "#/$defs/tree"}, maxItems=2))
PAIR = obj("value", value=DIGIT, next=array({"$ref": "#/$defs/pair"}, maxItems=0))
LIST = obj("head tail", head=DIGIT, tail={"anyOf": [{"$ref": "#/$defs/list"}, NULL]})
CIRCLE = obj("kind radius", kind={"const": "circle"}, radius=DIGIT)
SQUARE = obj("kind side", kind={"const": "square"}, side=DIGIT)

ENFORCED: dict[str, list[Schema]] = {
    "types": [
        INT, NUM, TEXT, BOOL, NULL, {}, True,
        *({"type": [one, "null"]} for one in ("integer", "number", "string", "boolean", "array", "object")),
        {"type": ["integer", "string"]}, {"type": ["boolean", "null", "number"]}, {"type": "object"},
    ],
    "bounds of whole numbers": [
        *(whole(minimum=low, maximum=high) for low, high in
          [(0, 9), (1, 1), (-5, 5), (10, 99), (7, 1234), (-1000, -7), (0, 2**31 - 1), (-(2**53), 2**53), (2, 3)]),
        whole(minimum=3), whole(minimum=2**62), whole(maximum=-4), whole(exclusiveMinimum=3), whole(exclusiveMaximum=3),
        whole(exclusiveMinimum=0, exclusiveMaximum=2), whole(minimum=1.5, maximum=2.5),
        whole(multipleOf=7), whole(multipleOf=5, minimum=12, maximum=33), whole(multipleOf=100), whole(multipleOf=3),
        whole(format="int32"), whole(format="int64"), whole(format="int32", minimum=0), number(format="float"),
    ],
    "bounds of numbers": [
        *(number(minimum=low, maximum=high) for low, high in
          [(0, 1), (-0.5, 0.25), (1.1, 1.1), (1e-7, 1e-6), (-1e6, 1e6), (0.1, 0.123456), (-3.25, -3.2), (99.5, 100)]),
        number(minimum=0), number(maximum=0), number(exclusiveMinimum=0), number(exclusiveMaximum=-0.5),
        number(exclusiveMinimum=0, exclusiveMaximum=1), number(multipleOf=0.5), number(multipleOf=0.01, maximum=9),
        number(multipleOf=0.25, minimum=-1, maximum=1), number(format="double"), {"minimum": 3, "maximum": 5},
    ],
    "lengths of text": [
        *(text(minLength=low, maxLength=high) for low, high in [(0, 0), (1, 1), (3, 5), (2, 20), (10, 10), (0, 3)]),
        text(minLength=1), text(minLength=8), text(maxLength=30), {"maxLength": 2}, text(minLength=5, maxLength=6),
    ],
    "patterns": [
        *(text(pattern=p) for p in [
            "^a+b$", "^\\d{3}$", "^\\d{3}-\\d{4}$", "^[A-Z]{2}\\d{2}$", "^(red|green|blue)$", "^[a-z]{1,8}$",
            "^[^aeiou]{3}$", "^\\w{2,5}$", "^\\s{2}$", "^\\S{3}$", "^\\D$", "^\\W$", "^.$", "^.{2,4}$", "^[\\s\\S]{2}$",
            "^#[0-9a-fA-F]{6}$", "^(\\+|-)?[1-9][0-9]{0,3}$", "^[\\u4e00-\\u9fff]{2}$", "^\\/a$", "^\\$\\d$", "^a$|^b$",
            "^(?:ab){2}$", "^(?:a|b){0,5}?c$", "^\\x41\\u0042$", "^[.*+]{2}$", "^\\\\d$", "^\"\\\\n\"$", "^v\\d{1,3}\\.\\d{1,3}\\.\\d{1,3}$",
            "^$", "^[a-z0-9]+(?:-[a-z0-9]+)*$", "^ISBN \\d{9}[\\dX]$", "^(?i)yes$", "^\\t\\n$",
        ]),
        text(pattern="^[a-c]+$", maxLength=4), text(pattern="^a", maxLength=4), text(pattern="b$", maxLength=4),
        text(pattern="^a{0,5}$", minLength=2), {"pattern": "^a$"}, text(pattern="^(a|bc)+$", minLength=3, maxLength=5),
    ],
    "formats": [
        *(text(format=f) for f in "date time date-time duration ipv4 ipv6 uuid hostname".split()),
        text(format="email", maxLength=16), text(format="uri", maxLength=16), text(format="date", pattern="^20[0-2]"),
        text(format="hostname", maxLength=10), {"format": "date"}, text(format="date", pattern="-02-29$"),
        text(format="date-time", pattern="Z$"), obj("at", at=text(format="date-time")),
    ],
    "enums and constants": [
        *({"enum": e} for e in [
            ["a"], ["red", "green", "blue"], [1, 2, 3], [1, "a", None, True, 2.5], [[1], {"a": 2}], ["", " "], [0, -1],
            ["\u00e9", "\u65e5\u672c", "\U0001f600"], ['"', "\\", "\n", "\t", "\u0000"], [{}, []], [1e3, 1e-3], ["a", "ab", "abc"],
        ]),
        *({"const": c} for c in [1, "a", None, False, 1.5, [], {}, {"a": [1, {"b": None}]}, "a\"b\\c", [1, "x"]]),
        text(enum=["a", 1]), {"enum": ["abc", "d"], "maxLength": 1}, {"enum": [1, 5], "minimum": 3},
        {"enum": ["ab", "cd"], "pattern": "^c"}, whole(const=4), obj("k", k={"enum": ["x", "y"]}),
    ],
    "arrays": [
        *(array(DIGIT, minItems=low, maxItems=high) for low, high in [(0, 0), (1, 1), (2, 3), (0, 4), (5, 5)]),
        array(BOOL, minItems=2, maxItems=4), array(SHORT, maxItems=2), array(array(DIGIT, maxItems=2), maxItems=2), array(False),
        array({"enum": ["a", "b"]}, minItems=1, maxItems=3), array(obj("a", a=DIGIT), maxItems=2), {"items": DIGIT},
        {"type": "array", "prefixItems": [DIGIT, SHORT], "items": False},
        {"type": "array", "prefixItems": [DIGIT, SHORT], "items": False, "minItems": 2},
        {"type": "array", "prefixItems": [DIGIT], "items": BOOL, "minItems": 2, "maxItems": 4},
        {"type": "array", "prefixItems": [BOOL, NULL], "minItems": 2, "maxItems": 2},
        {"type": "array", "items": [DIGIT, SHORT], "additionalItems": False, "minItems": 2},
        {"type": "array", "items": [DIGIT], "additionalItems": BOOL, "minItems": 2, "maxItems": 3},
        array(DIGIT, maxItems=3, uniqueItems=False), {"minItems": 1, "type": "array", "maxItems": 2}, array({}, maxItems=1),
    ],
    "objects": [
        obj(), obj(a=DIGIT), obj("a", a=DIGIT), obj("a", a=DIGIT, b=SHORT), obj("b", a=DIGIT, b=SHORT),
        obj("a b", a=DIGIT, b=SHORT), obj("b a", a=DIGIT, b=BOOL), obj("a", closed=False, a=DIGIT), obj(a=False, b=DIGIT),
        obj("a", a=True), obj("a", a={}), obj("a", a=obj("b", b=obj("c", c=DIGIT))), obj("", True, **{"with space": DIGIT, "\u00e9": DIGIT}),
        obj("a", True, **{"a": DIGIT, '"quoted"': DIGIT, "back\\slash": BOOL}), obj("", True, **{n: BOOL for n in "abcdefgh"}),
        {"type": "object", "required": ["a"], "additionalProperties": DIGIT},
        {"type": "object", "required": ["b", "a"], "properties": {"a": DIGIT}},
        {"type": "object", "additionalProperties": DIGIT, "maxProperties": 2},
        {"type": "object", "additionalProperties": BOOL, "minProperties": 1, "maxProperties": 1},
        {"type": "object", "additionalProperties": SHORT, "maxProperties": 0},
        {"type": "object", "patternProperties": {"^x": DIGIT}, "additionalProperties": False, "maxProperties": 2},
        {"type": "object", "patternProperties": {"^n_": DIGIT, "^s_": SHORT}, "additionalProperties": False},
        {"type": "object", "properties": {"xa": SHORT}, "patternProperties": {"^y": DIGIT}, "additionalProperties": False},
        obj(a=DIGIT, b=DIGIT) | {"minProperties": 1}, obj("a b", a=DIGIT, b=DIGIT) | {"minProperties": 2},
        {"properties": {"a": DIGIT}, "required": ["a"], "type": "object", "unevaluatedProperties": True},
    ],
    "alternatives": [
        {"anyOf": [DIGIT, SHORT]}, {"anyOf": [BOOL, NULL, DIGIT]}, {"anyOf": [CIRCLE, SQUARE]}, {"anyOf": [SHORT, False]},
        {"anyOf": [DIGIT, {"type": "integer", "minimum": 100, "maximum": 120}]}, {"anyOf": [DIGIT, array(DIGIT, maxItems=2)]},
        {"oneOf": [DIGIT, SHORT]}, {"oneOf": [CIRCLE, SQUARE]}, {"oneOf": [{"const": "a"}, {"const": "b"}]},
        {"oneOf": [BOOL, NULL]}, {"oneOf": [array(DIGIT, maxItems=2), obj("a", a=DIGIT)]},
        {"oneOf": [CIRCLE, SQUARE], "discriminator": {"propertyName": "kind"}}, {"anyOf": [DIGIT], "maximum": 5},
        obj("shape", shape={"oneOf": [CIRCLE, SQUARE]}), array({"anyOf": [DIGIT, SHORT]}, maxItems=3),
        {"type": "object", "properties": {"a": DIGIT}, "anyOf": [{"required": ["a"]}, {"additionalProperties": False}]},
    ],
    "all of several": [
        {"allOf": [INT, {"minimum": 3}, {"maximum": 9}]}, {"allOf": []}, {"allOf": [SHORT]}, {"allOf": [{}, DIGIT]},
        {"allOf": [obj("a", closed=False, a=DIGIT), obj("b", closed=False, b=SHORT)]},
        {"allOf": [{"pattern": "^a"}, {"pattern": "b$"}], "type": "string", "maxLength": 4},
        {"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]}, {"allOf": [whole(multipleOf=2), whole(maximum=8, minimum=0)]},
        {"allOf": [array(DIGIT, minItems=1), array(INT, maxItems=2)]}, {"allOf": [{"anyOf": [DIGIT, SHORT]}, INT]},
        {"type": "object", "allOf": [{"properties": {"a": DIGIT}}, {"required": ["a"]}], "maxProperties": 1},
    ],
    "sets": [
        array({"enum": ["a", "b", "c"]}, uniqueItems=True), array({"enum": [1, 2]}, uniqueItems=True, minItems=2),
        array({"enum": ["x", "y", "z", "w"]}, uniqueItems=True, minItems=1, maxItems=3), array(DIGIT, uniqueItems=True, maxItems=1),
        obj("colors", colors=array({"$ref": "#/$defs/Color"}, uniqueItems=True)) | {"$defs": {"Color": {"enum": ["r", "g"], "title": "Color", "type": "string"}}},
    ],
    "names of properties": [
        {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": DIGIT},
        {"type": "object", "propertyNames": {"pattern": "^k[0-9]$"}, "additionalProperties": BOOL, "maxProperties": 2},
        {"type": "object", "propertyNames": {"$ref": "#/$defs/Key"}, "additionalProperties": SHORT, "$defs": {"Key": {"enum": ["x", "y"], "type": "string"}}},
        obj("scores", scores={"type": "object", "propertyNames": {"enum": ["en", "de"], "title": "Language"}, "additionalProperties": DIGIT}),
    ],
    "dependent properties": [
        obj(a=DIGIT, b=DIGIT) | {"dependentRequired": {"a": ["b"]}}, obj(a=DIGIT, b=DIGIT, c=BOOL) | {"dependentRequired": {"a": ["b", "c"], "c": ["a"]}},
        obj("name", name=SHORT, card=text(pattern="^\\d{4}$"), address=SHORT) | {"dependentRequired": {"card": ["address"]}},
    ],
    "formats that ask little": [
        text(format="byte", maxLength=12), text(format="password", maxLength=6), text(format="path", maxLength=8),
        text(format="binary", minLength=2, maxLength=4), obj("secret", secret=text(format="password", writeOnly=True, minLength=1, maxLength=4)),
        text(format="file-path", pattern="^/[a-z]{1,6}$"),
    ],
    "references": [
        {"$ref": "#/$defs/n", "$defs": {"n": DIGIT}}, {"$ref": "#/definitions/n", "definitions": {"n": SHORT}},
        {"$ref": "#/$defs/n", "minimum": 5, "$defs": {"n": DIGIT}}, {"$ref": "#/$defs/pair", "$defs": {"pair": PAIR}},
        {"$ref": "#/$defs/list", "$defs": {"list": LIST}}, {"$ref": "#n", "$defs": {"x": {"$anchor": "n"} | DIGIT}},
        obj("a b", a=DIGIT, b={"$ref": "#/properties/a"}), {"$ref": "#/$defs/a~1b", "$defs": {"a/b": DIGIT}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": DIGIT}},
        {"$id": "https://example.com/root", "$ref": "#/$defs/n", "$defs": {"n": BOOL}},
        array({"$ref": "#/$defs/p"}, maxItems=2) | {"$defs": {"p": obj("x y", x=DIGIT, y=DIGIT)}},
        obj("a", a={"anyOf": [{"$ref": "#/$defs/c"}, NULL]}) | {"$defs": {"c": {"enum": ["r", "g"]}}},
    ],
    "notes and dialects": [
        {"title": "t", "description": "d", "default": 1, "examples": [1], "deprecated": True, "$comment": "c"} | DIGIT,
        {"$schema": "https://json-schema.org/draft/2020-12/schema"} | DIGIT, {"x-order": 1, "readOnly": True} | SHORT,
        {"$schema": "http://json-schema.org/draft-07/schema#"} | obj("a", a=DIGIT), {"nullable": False} | DIGIT,
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [DIGIT], "minItems": 1, "maxItems": 2},
        {"default": {"not": 5}, "examples": [{"format": "x"}], "enum": [{"uniqueItems": True}, {"$ref": "#/x"}]},
    ],
    "opposites": [
        {"not": TEXT}, {"not": {"enum": ["a", 1, None, True]}}, obj("a", a={"not": {"const": 1}} | DIGIT), {"anyOf": [{"not": {}}, DIGIT]},
        text(maxLength=4, **{"not": {"const": "abc"}}), text(maxLength=4, **{"not": {"pattern": "^a"}}), {"not": {"not": DIGIT}}, number(**{"not": {"minimum": 3}}),
        obj(a=DIGIT, b=DIGIT) | {"not": {"required": ["a"]}}, obj(a=DIGIT) | {"not": {"properties": {"a": {"maximum": 4}}}}, array(DIGIT, maxItems=3) | {"not": {"minItems": 2}},
        {"oneOf": [whole(minimum=3), whole(maximum=5)]}, {"oneOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]},
        {"oneOf": [obj("a", closed=False, a=DIGIT), obj("b", closed=False, b=DIGIT)]}, obj(a=DIGIT, b=DIGIT) | {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"oneOf": [{"$ref": "#/$defs/c"}, {"$ref": "#/$defs/s"}], "$defs": {"c": CIRCLE, "s": SQUARE}},
    ],
    "conditions": [
        {"if": INT, "then": {"minimum": 3}}, obj("a", a={"if": {"const": 1}, "else": DIGIT}), {"then": False}, {"if": True, "then": DIGIT},
        obj("kind", kind={"enum": ["a", "b"]}, x=DIGIT) | {"if": {"properties": {"kind": {"const": "a"}}}, "then": {"required": ["x"]}, "else": {"properties": {"x": False}}},
        obj(a=DIGIT, b=DIGIT) | {"dependentSchemas": {"a": {"required": ["b"]}}}, obj(a=DIGIT, b=DIGIT) | {"dependencies": {"a": ["b"], "b": {"properties": {"a": {"minimum": 3}}}}},
        array(DIGIT, contains={"const": 1}, maxItems=4), array(DIGIT, contains={"minimum": 5}, minContains=2, maxContains=2, maxItems=4), array(BOOL, contains={"const": True}, minContains=0),
    ],
    "what was not evaluated": [
        obj(closed=False, a=DIGIT) | {"unevaluatedProperties": False}, {"type": "array", "prefixItems": [DIGIT], "unevaluatedItems": False},
        {"allOf": [obj(closed=False, a=DIGIT)], "type": "object", "properties": {"b": DIGIT}, "unevaluatedProperties": False},
        {"type": "object", "anyOf": [obj("a", closed=False, a=DIGIT), obj("b", closed=False, b=BOOL)], "unevaluatedProperties": False},
        {"$ref": "#/$defs/n", "unevaluatedProperties": False, "$defs": {"n": obj(closed=False, a=DIGIT)}},
    ],
    "counted properties": [
        obj(a=DIGIT, b=DIGIT, c=DIGIT) | {"maxProperties": 2}, obj("a", a=DIGIT, b=DIGIT, c=DIGIT) | {"minProperties": 2, "maxProperties": 2}, obj(a=DIGIT, b=DIGIT, c=DIGIT) | {"minProperties": 2},
        {"type": "object", "propertyNames": {"maxLength": 3}, "additionalProperties": DIGIT, "maxProperties": 2}, {"type": "object", "propertyNames": {"type": "string", "minLength": 1}, "maxProperties": 1},
        obj(a=DIGIT, b=DIGIT) | {"propertyNames": {"enum": ["a"]}}, {"type": "object", "propertyNames": False}, {"type": "object", "propertyNames": {"type": "string"}, "maxProperties": 1},
        {"type": "object", "patternProperties": {"^a": {}, "b$": {}}, "maxProperties": 1}, array(BOOL, uniqueItems=True),
    ],
    "look-ahead and boundaries": [
        *(text(pattern=p, maxLength=12) for p in ["^(?=.*[0-9])(?=.*[a-z]).{4,}$", "^(?!a)", "^(?!(?:ab|cd)$)[a-d]{2}$", "\\bok\\b", "^(?!.*--)[a-z-]+$", "^(?!con|aux)[a-z]+$", "^\\w+\\b$", "^(?!$)", "^ab(?!c)", "(?<=a)b", "(?<!a)b", "^[a-z]+(?=0)"]),
        text(format="email", pattern="^(?!\\.)(?!.*\\.\\.)([a-z0-9_'+\\-\\.]*)[a-z0-9_+-]@([a-z0-9][a-z0-9\\-]*\\.)+[a-z]{2,}$", maxLength=14),
    ],
    "other formats": [
        *(text(format=f, maxLength=14) for f in "url uri-reference iri iri-reference idn-email idn-hostname regex json-pointer relative-json-pointer uri-template".split()),
        *(whole(format=f) for f in "uint uint8 uint16 uint32 uint64 int8 int16 int".split()), {"format": "int32"}, text(contentEncoding="base64", maxLength=12),
    ],
    "wide bounds": [number(minimum=-1.7976931348623157e308), number(maximum=1e308, minimum=0), whole(minimum=0, maximum=2**64 - 1), {"type": ["number", "null"], "maximum": 1e300}],
    "references to anywhere": [
        {"$ref": "#/properties/a", "properties": {"a": DIGIT}}, obj("a b", a={"anyOf": [DIGIT, BOOL]}, b={"$ref": "#/properties/a/anyOf/1"}),
        {"$id": "https://example.com/s", "$ref": "https://example.com/s#/$defs/n", "$defs": {"n": DIGIT}}, {"$schema": "https://example.com/any", "$ref": "#/$defs/a%20b", "$defs": {"a b": BOOL}},
    ],
    "tools and forms": [
        obj("city", city=text(maxLength=20, description="The city"), unit={"type": "string", "enum": ["c", "f"]}),
        obj("location days", location=SHORT, days=whole(minimum=1, maximum=14), hourly={"type": "boolean", "default": False}),
        obj("path", path=text(pattern="^/[a-z/]{0,12}$"), recursive=BOOL, depth={"anyOf": [DIGIT, NULL], "default": None}),
        obj("to subject body", to=array(text(format="email", maxLength=12), minItems=1, maxItems=2), subject=SHORT, body=SHORT),
        obj("query", query=SHORT, filters=array(obj("field op value", field=SHORT, op={"enum": ["eq", "lt", "gt"]}, value={"anyOf": [NUM, SHORT, BOOL]}), maxItems=1)),
        obj("name age", name=SHORT, age=whole(minimum=0, maximum=130), tags=array(SHORT, maxItems=2), address={"$ref": "#/$defs/A"}) | {"$defs": {"A": obj("street zip", street=SHORT, zip=text(pattern="^\\d{5}$"))}},
        obj("steps final_answer", steps=array(obj("explanation output", explanation=SHORT, output=SHORT), maxItems=2), final_answer=SHORT),
        obj("sentiment confidence", sentiment={"enum": ["positive", "negative", "neutral"]}, confidence=number(minimum=0, maximum=1)),
        obj("invoice items total", invoice=text(pattern="^INV-\\d{4}$"), items=array(obj("sku qty", sku=text(pattern="^[A-Z]{3}$"), qty=whole(minimum=1, maximum=99)), minItems=1, maxItems=2), total=number(minimum=0, multipleOf=0.01)),
        obj("box label", box=array(number(minimum=0, maximum=1), minItems=4, maxItems=4), label=SHORT),
        obj("start end", start=text(format="date-time"), end=text(format="date-time"), all_day=BOOL),
        obj("id", id=text(format="uuid"), parent={"type": ["string", "null"], "format": "uuid"}),
        obj("sql", sql=SHORT, params={"type": "object", "additionalProperties": {"type": ["string", "number"], "maxLength": 3}, "maxProperties": 2}),
        obj("entities", entities=array(obj("text type", text=SHORT, type={"enum": ["PER", "ORG", "LOC"]}), maxItems=3)),
        obj("answer", answer={"enum": ["A", "B", "C", "D"]}), obj("score", score=whole(minimum=1, maximum=5), why=SHORT),
        obj("command", command={"oneOf": [obj("op n", op={"const": "move"}, n=DIGIT), obj("op", op={"const": "stop"})]}),
        obj("host port", host=text(format="hostname", maxLength=10), port=whole(minimum=1, maximum=65535)),
        obj("ip", ip={"anyOf": [text(format="ipv4"), text(format="ipv6")]}), obj("color", color=text(pattern="^#[0-9a-f]{6}$")),
        obj("thought action", thought=SHORT, action={"enum": ["search", "finish"]}, action_input={"type": "object", "maxProperties": 0}),
    ],
    "tools in use": [
        # file systems, shells and browsers of agents
        obj("path old_text new_text", path=text(pattern="^/[a-z]{1,8}$"), old_text=SHORT, new_text=SHORT, dry_run={"type": "boolean", "default": False}),
        obj("command", command=text(minLength=1, maxLength=12), timeout=whole(minimum=1, maximum=600, default=120), run_in_background=BOOL),
        obj("url", url=text(format="uri", maxLength=20), method={"enum": ["GET", "POST"], "default": "GET"}, max_length=whole(exclusiveMinimum=0, exclusiveMaximum=1000000)),
        obj("pattern", pattern=SHORT, glob={"anyOf": [SHORT, NULL], "default": None}, output_mode={"enum": ["content", "files", "count"]}),
        obj("todos", todos=array(obj("content status priority", content=SHORT, status={"enum": ["pending", "done"]}, priority={"enum": ["high", "low"]}), minItems=1, maxItems=2)),
        obj("x y button", x=whole(minimum=0, maximum=4096), y=whole(minimum=0, maximum=4096), button={"enum": ["left", "right", "middle"]}, clicks=whole(minimum=1, maximum=3)),
        obj("entities", entities=array(obj("name entityType observations", name=SHORT, entityType=SHORT, observations=array(SHORT, maxItems=1)), maxItems=1)) | {"$schema": "http://json-schema.org/draft-07/schema#"},
        # mail, calendars, shops, maps
        obj("to subject", to=array(text(format="email", maxLength=12), minItems=1, maxItems=2), cc={"anyOf": [array(text(format="email", maxLength=12), maxItems=1), NULL]}, subject=SHORT),
        obj("title start attendees", title=SHORT, start=text(format="date-time"), attendees=array(text(format="email", maxLength=10), maxItems=1), reminder={"enum": [5, 10, 30]}),
        obj("origin destination date cabin", origin=text(pattern="^[A-Z]{3}$"), destination=text(pattern="^[A-Z]{3}$"), date=text(format="date"), cabin={"enum": ["economy", "business"]}, adults=whole(minimum=1, maximum=9)),
        obj("latitude longitude", latitude=number(minimum=-90, maximum=90), longitude=number(minimum=-180, maximum=180), units={"enum": ["metric", "imperial"]}),
        obj("price currency", price=number(exclusiveMinimum=0, maximum=9999), currency=text(pattern="^[A-Z]{3}$"), in_stock=BOOL),
        obj("card", card=obj("number expiry", number=text(pattern="^\\d{16}$"), expiry=text(pattern="^(0[1-9]|1[0-2])/\\d{2}$"))),
        # homes and music
        obj("device state", device={"enum": ["lamp", "fan", "heater"]}, state={"enum": ["on", "off"]}, level={"anyOf": [whole(minimum=0, maximum=100), NULL]}),
        obj("mode", mode={"const": "alarm"}, at=text(format="time"), days=array({"enum": ["mo", "tu", "we", "th"]}, uniqueItems=True, maxItems=3)),
        obj("action", action={"oneOf": [obj("type text", type={"const": "say"}, text=SHORT), obj("type seconds", type={"const": "wait"}, seconds=number(minimum=0, maximum=60)), obj("type", type={"const": "done"})]}),
        # what Pydantic, Zod and OpenAPI generators write
        obj("user", user={"$ref": "#/$defs/User"}) | {"title": "Reply", "$defs": {"User": obj("id name", id=text(format="uuid", title="Id"), name=text(minLength=1, maxLength=6, title="Name"), born={"anyOf": [text(format="date"), NULL], "default": None}) | {"title": "User"}}},
        obj("items", items=array({"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}, maxItems=2)) | {"$defs": {"A": CIRCLE, "B": SQUARE}},
        obj("pet", pet={"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}], "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}}}) | {"$defs": {"Cat": obj("kind", kind={"const": "cat"}, lives=DIGIT), "Dog": obj("kind", kind={"const": "dog"}, tricks=array(SHORT, maxItems=1))}},
        obj("pair", pair={"type": "array", "prefixItems": [DIGIT, SHORT], "minItems": 2, "maxItems": 2}), obj("t", t={"type": "array", "prefixItems": [number(minimum=0, maximum=9)], "items": False}),
        obj("limits", limits={"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9}, "maxProperties": 2}) | {"title": "Dict"},
        obj("amount", amount={"anyOf": [number(minimum=0, maximum=100), text(pattern="^\\d{1,3}\\.\\d{2}$")]}),
        obj("password", password=text(format="password", minLength=4, maxLength=8), url={"anyOf": [text(format="uri", minLength=1, maxLength=12), NULL]}),
        obj("a b", a=text(examples=["x"], maxLength=3), b=DIGIT) | {"$id": "https://example.com/ab.json", "deprecated": False},
        # answers of evaluations and extractions
        obj("reasoning verdict", reasoning=text(maxLength=20), verdict={"enum": ["pass", "fail"]}, score=number(minimum=0, maximum=1, multipleOf=0.1)),
        obj("labels", labels={"type": "object", "properties": {n: BOOL for n in ("spam", "toxic", "ad")}, "required": ["spam", "toxic", "ad"], "additionalProperties": False}),
        obj("boxes", boxes=array(obj("label xyxy", label={"enum": ["cat", "dog"]}, xyxy=array(whole(minimum=0, maximum=999), minItems=4, maxItems=4)), maxItems=2)),
        obj("segments", segments=array(obj("start end text", start=number(minimum=0), end=number(minimum=0), text=SHORT), maxItems=1)),
        obj("rows", rows=array(array({"type": ["string", "number", "null"], "maxLength": 3, "minimum": 0, "maximum": 9}, minItems=2, maxItems=2), maxItems=2)),
        obj("people", people=array(obj("name", name=SHORT, phone={"anyOf": [text(pattern="^\\+?\\d{7,9}$"), NULL]}, email={"anyOf": [text(format="email", maxLength=10), NULL]}), maxItems=1)),
    ],
}  # fmt: skip
"""Keyword family -> schemas that are enforced."""

OPEN: list[Schema] = [
    {"type": "array"},
    array(BOOL, minItems=2),
    obj("t", t={"type": "array", "prefixItems": [NUM], "items": False}),
    text(pattern="^v\\d+\\.\\d+\\.\\d+$"),
    text(pattern="^(?:a|b)*?c$"),
    text(pattern="^x?y*z{2}$"),
    {"$ref": "#/$defs/tree", "$defs": {"tree": TREE}},
    obj(x={"$ref": "#"}),
    obj("ui", ui={"$ref": "#/$defs/node"})
    | {"$defs": {"node": obj("type children", type={"enum": ["div"]}, children=array({"$ref": "#/$defs/node"}))}},
]
"""Schemas without an upper bound: the model decides when to end, and a complete answer must be valid."""

NOTED: list[tuple[Schema, str]] = [
    (text(format="phone"), "format at # is 'phone', which is not enforced"),
    (text(format="int64"), "format at # is 'int64', which is not enforced"),
    (whole(format="date"), "format at # is 'date', which is not enforced"),
    (
        text(contentMediaType="text/html"),
        "contentMediaType at # describes the text, which is not checked; it is ignored",
    ),
    (text(contentEncoding="base32"), "contentEncoding at # is 'base32', which is not enforced"),
    ({"type": "object", "properties": {"a": DIGIT}, "required": None}, "required at # is null; it is ignored"),
    (array(None), "items at # is null; it is ignored"),
    ({"type": "any", "enum": ["a", 1]}, "type at # is 'any', which is not a type; it is read as every type"),
    ({"type": "int"}, "type at # is 'int', which is not a type; it is read as 'integer'"),
    ({"type": "STRING", "maxLength": 3}, "type at # is 'STRING', which is not a type; it is read as 'string'"),
    (
        {"oneOf": [TEXT, text(format="date")]},
        "oneOf at # has alternatives that allow only what others do; it is narrowed",
    ),
    ({"oneOf": [INT, NUM]}, "oneOf at # has alternatives that allow only what others do; it is narrowed"),
    ({"type": "integer", "ordering": 3}, "the keyword 'ordering' at #"),
]
"""Schemas that are enforced with a note, and how the note begins."""

REFUSED: dict[str, list[Schema]] = {
    "uniqueItems": [
        array(INT, uniqueItems=True),
        obj("a", a=array(SHORT, uniqueItems=True)),
        array({"enum": list("abcde")}, uniqueItems=True),
        array({"enum": [1, 1.0]}, uniqueItems=True),
        array({"enum": ["a"]}, uniqueItems=True, prefixItems=[{"const": "b"}]),
    ],
    "contains": [{"type": "array", "contains": DIGIT, "minContains": 1000}],
    "not": [{"not": {"pattern": "^(a|b+)+$"}}, obj(a={"not": {"multipleOf": 3}})],
    "dependentRequired": [{"dependentRequired": {"a": "b"}}, {"dependentRequired": ["a"]}],
    "propertyNames": [{"type": "object", "propertyNames": {"pattern": "^a", "enum": ["a", "b"]}}],
    "unevaluatedProperties": [{"type": "object", "unevaluatedProperties": {"type": "string"}}],
    "x-guidance": [{"x-guidance": {"lenient": True}, "type": "array", "uniqueItems": False}],
    "$dynamicRef": [{"$dynamicRef": "#n", "$defs": {"n": {"$dynamicAnchor": "n"}}}],
    "$ref": [
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.com/a#/b"},
        {"$ref": "#/properties/a/items/3", "properties": {"a": {"items": [True]}}},
    ],
    "format": [obj(a={"format": 5})],
    "pattern": [
        *(text(pattern=p) for p in ["(?=a)b", "a(?!b)c", "^(\\w)\\1$", "^(?<=a)b", "[", "^a$\\n", "a{,3}", "^\\b\\W"]),
        *(text(pattern=p) for p in ["^[a-z&&[^b]]$", "^[[a]$", "^[a--b]$", "^[a~~b]$"]),
        text(pattern=5),
    ],
    "patternProperties": [{"type": "object", "patternProperties": {"^a": INT, "b$": TEXT}}],
    "minProperties": [
        {"type": "object", "additionalProperties": DIGIT, "minProperties": 2},
        {"type": "object", "patternProperties": {"^x": DIGIT}, "additionalProperties": False, "minProperties": 3},
        obj("a", closed=False, a=DIGIT) | {"minProperties": 3},
    ],
    "oneOf": [{"oneOf": [TEXT, TEXT]}],
    "minimum": [whole(minimum=5, maximum=3), whole(minimum="3"), whole(minimum=2**63)],
    "no text satisfies": [
        text(format="time", pattern="^..:..:6"),
        text(format="date-time", pattern="^.{17}6"),
        text(format="date", pattern="^0000"),
        text(format="date", pattern="^1900-02-29$"),
        text(pattern="^a$", minLength=2),
    ],
    "type": [{"type": "nonsense"}, {"type": ["integer", "x"]}, {"type": 5}],
    "required": [obj("a", a=False), {"type": "object", "required": "a"}, obj("gone")],
    "Items": [array(DIGIT, minItems=3, maxItems=1), array(DIGIT, minItems=-1)],
    "Length": [text(minLength=4, maxLength=2), text(minLength=-1)],
    "the schema": [array("string"), {"properties": {"a": 5}}],
    "leads back to itself": [{"$ref": "#"}, obj("a", a={"$ref": "#"})],
    "is an empty list": [{"oneOf": []}, {"anyOf": []}, obj(a={"enum": []})],
    "write 'minimum'": [whole(minimun=3)],
    "write 'minLength'": [text(min_length=3)],
    "nsatisfiable": [False, whole(const="x"), {"allOf": [False]}],
}
"""Words of the error message -> schemas that are rejected."""


def _matches(_validator: Any, pattern: str, instance: object, _schema: Any) -> Any:
    """Matches patterns as JSON Schema defines them: classes such as backslash w are ASCII, as in JavaScript."""
    if isinstance(instance, str) and not re.search(pattern.replace("^(?i)", "(?i)^"), instance, re.ASCII):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


_OLD = jsonschema.validators.extend(jsonschema.Draft7Validator, {"pattern": _matches})
_NEW = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _matches})


def check_valid(answer: str, schema: Schema) -> None:
    """Raises an error unless an answer is JSON that matches the schema; numbers are compared as decimals."""
    schema = json.loads(json.dumps(schema), parse_float=Decimal)
    old = isinstance(schema, dict) and isinstance(schema.get("items"), list)
    validator = _OLD if old else _NEW
    formats = (jsonschema.Draft7Validator if old else jsonschema.Draft202012Validator).FORMAT_CHECKER
    with localcontext(prec=1000):
        validator(schema, format_checker=formats).validate(json.loads(answer, parse_float=_number))


def _number(written: str) -> Decimal | float:
    try:
        return Decimal(written)
    except InvalidOperation:  # the exponent is too large
        return float(written)
