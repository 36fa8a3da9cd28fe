"""OpenAPI's `nullable` allows null besides what the rest of the schema allows."""

from __future__ import annotations

from typing import Any

import pytest

from galago.runtime.output.structured.json_schema import enforceable
from galago.runtime.output.structured.nullable import with_null
from galago.runtime.output.structured.omissions import Omissions
from galago.runtime.python_api import LocalModel
from galago.runtime.types.warnings import Warnings

NULL = {"type": "null"}
MEANINGS: list[tuple[Any, Any]] = [
    ({"type": "string", "maxLength": 3}, {"type": ["string", "null"], "maxLength": 3}),
    ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
    ({"type": "string", "enum": ["a"]}, {"type": ["string", "null"], "enum": ["a", None]}),
    ({"enum": ["a", None]}, {"enum": ["a", None]}),
    ({"$ref": "#/$defs/x"}, {"anyOf": [{"$ref": "#/$defs/x"}, NULL]}),
    ({"type": "string", "const": "a"}, {"anyOf": [{"type": "string", "const": "a"}, NULL]}),
    ({"type": "object", "allOf": [{}]}, {"anyOf": [{"type": "object", "allOf": [{}]}, NULL]}),
    ({"properties": {"nullable": {"const": True}}}, {"properties": {"nullable": {"const": True}}}),
    ({"default": {"nullable": True}}, {"default": {"nullable": True}}),
]


@pytest.mark.parametrize(("given", "meant"), MEANINGS, ids=str)
def test_nullable_is_read_as_an_alternative_that_is_null_wherever_the_schema_is(given: Any, meant: Any) -> None:
    nullable = {**given, "nullable": True}
    assert with_null(nullable) == meant
    assert with_null({"items": [nullable], "$defs": {"x": nullable}}) == {"items": [meant], "$defs": {"x": meant}}


def test_null_is_an_answer_without_a_warning(model: LocalModel) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "enum": [], "nullable": True}},
        "required": ["a"],
    }
    reply = model.chat("x", json_schema=schema | {"additionalProperties": False}, max_tokens=20)
    assert reply.text == '{"a": null}' and not reply.warnings


@pytest.mark.parametrize("written", ["yes", 1, None])
def test_nullable_that_is_no_truth_value_is_named(written: Any) -> None:
    enforceable({"type": "string", "nullable": written}, Omissions(noted := Warnings(), complete=False, tool="f"))
    assert len(noted) == 1 and "nullable at #" in noted[0]
