"""Rewrites the keywords of JSON schemas that count what llguidance does not: unique items, optional properties."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations
from math import comb
from typing import Any

from .keywords import JsonSchemaValue
from .omissions import Omitted
from .opposites import Resolver

_MAX_UNIQUE_ITEMS = 4
"""The largest enum for which every order of unique items is listed. Their number grows with the factorial."""

_MAX_COMBINATIONS = 40
"""How many combinations of optional properties are written out to count them."""


def unique_items(schema: JsonSchemaValue, resolve: Resolver) -> Iterator[Any]:
    """Every order of unique items, if there are few of them."""
    most = schema.get("maxItems")
    if isinstance(most, int) and most < 2:
        return
    items = None if "prefixItems" in schema else resolve(schema.get("items"))
    values = items.get("enum") if isinstance(items, dict) else None
    if isinstance(items, dict) and items.get("type") == "boolean":
        values = [True, False]
    if not isinstance(values, list) or len(values) > _MAX_UNIQUE_ITEMS or not _distinct(values):
        reason = f"can be enforced only for items from an enum of at most {_MAX_UNIQUE_ITEMS} strings or integers"
        raise Omitted(reason)
    orders = (order for count in range(len(values) + 1) for order in permutations(values, count))
    yield {"anyOf": [_exactly(order) for order in orders]}


def min_properties(count: int, schema: JsonSchemaValue) -> tuple[JsonSchemaValue, list[Any]]:
    """`minProperties`, or the properties to require: llguidance would count a repeated name twice."""
    required, optional = _listed(schema)
    missing = count - len(required)
    if missing <= 0:
        return {}, []
    if missing == 1 and not optional:
        return {"minProperties": count}, []
    if missing > len(optional) or comb(len(optional), missing) > _MAX_COMBINATIONS:
        raise Omitted("cannot be enforced if names may repeat; list the names in required")
    return {}, [{"anyOf": [{"required": list(names)} for names in combinations(optional, missing)]}]


def max_properties(count: int, schema: JsonSchemaValue) -> tuple[JsonSchemaValue, list[Any]]:
    """`maxProperties`, or the properties to leave out where llguidance cannot count."""
    required, optional = _listed(schema)
    room = count - len(required)
    if not optional or room < 0:
        return {"maxProperties": count}, []
    closed = {"additionalProperties": False, "properties": dict.fromkeys([*required, *optional], True)}
    if room >= len(optional):
        return {}, [] if schema.get("additionalProperties") is False else [closed]
    if comb(len(optional), room) > _MAX_COMBINATIONS:
        raise Omitted("cannot be enforced for so many optional properties")
    absent = combinations(optional, len(optional) - room)
    return {}, [closed, {"anyOf": [{"properties": dict.fromkeys(names, False)} for names in absent]}]


def _listed(schema: JsonSchemaValue) -> tuple[list[str], list[str]]:
    """The required properties, and the optional ones that are listed."""
    required = list(dict.fromkeys(schema.get("required") or ()))
    properties = schema.get("properties")
    listed = properties.items() if isinstance(properties, dict) else ()
    return required, [name for name, inner in listed if name not in required and inner is not False]


def _distinct(values: list[Any]) -> bool:
    kinds = {type(value) for value in values}
    return kinds in ({str}, {int}, {bool}) and len(set(values)) == len(values)


def _exactly(items: tuple[Any, ...]) -> JsonSchemaValue:
    prefix = [{"const": item} for item in items]
    return {"prefixItems": prefix, "items": False, "minItems": len(items), "maxItems": len(items)}
