"""Recursive schemas: those that have a value are enforced as they are; of the others one reference is left out."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.schemas import DIGIT, SHORT, array, obj
from fakes.tool_schemas import ENDLESS, ref, with_definitions
from galago.models.errors import InvalidRequest
from galago.runtime.output.structured.json_schema import enforceable
from galago.runtime.output.structured.omissions import Omissions
from galago.runtime.types.warnings import Warnings

RECURSIVE: list[dict[str, Any]] = [
    with_definitions(A=array(ref("A"))),
    with_definitions(A=obj("n", n={"anyOf": [ref("A"), {"type": "null"}]})),
    with_definitions(A=obj("n", n={"allOf": [ref("A")], "nullable": True})),
    with_definitions(A=obj("kids name", kids=array(ref("A")), name=SHORT)),
    with_definitions(A={"anyOf": [obj("l r", l=ref("A"), r=ref("A")), obj("v", v=DIGIT)]}),
    with_definitions(A={"anyOf": [{"type": "string"}, ref("A")]}),
    with_definitions(A={"properties": {"a": ref("A")}, "required": ["a"]}),
]


@pytest.mark.parametrize(("given", "place"), ENDLESS, ids=[place for _, place in ENDLESS])
def test_the_reference_that_makes_a_schema_endless_is_left_out_or_refused_by_its_place(given: Any, place: str) -> None:
    noted = Warnings()
    enforceable(given, Omissions(noted, complete=False, tool="f"))
    (warning,) = noted
    assert warning.startswith(f"the tool 'f': $ref at #/$defs/{place} is not enforced: it leads back to itself")
    with pytest.raises(InvalidRequest, match="leads back to itself"):
        enforceable(given)


@pytest.mark.parametrize("given", RECURSIVE, ids=str)
def test_a_recursive_schema_with_a_value_is_enforced(given: Any) -> None:
    enforceable(given, Omissions(noted := Warnings()))
    assert not noted
