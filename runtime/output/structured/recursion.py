"""Finds the references of a rewritten JSON schema that make it endless: its smallest value would contain itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from .branches import TooManyBranches, branches
from .keywords import MAP, NESTED, TYPE_NAMES, JsonSchemaValue
from .omissions import Omissions
from .references import escaped

_MAX_STEPS = 5000
_MAX_DEPTH = 60
"""Schemas that are larger or deeper are assumed to have a value."""

SchemaKey: TypeAlias = Any

_ONLY_ITSELF = "leads back to itself and says nothing else, so nothing satisfies it; remove it"
_ENDLESS = "leads back to itself through required values only, so no value of it ends; let one be optional or null"


def without_endless(
    schema: JsonSchemaValue, definitions: dict[str, Any], places: dict[str, str], omissions: Omissions
) -> None:
    """Removes each reference that makes a schema endless from it or from its definitions, and says so in `omissions`.

    `places`: where each definition was in the schema as it was given.
    """
    if not _may_repeat(definitions):
        return
    roots = [("#", schema), *((places[name], definition) for name, definition in definitions.items())]
    parts = [one for root, start in roots for one in _subschemas(start, root)]
    for place, part in parts:
        if "$ref" in part and _returns(part, definitions) and not _is_grounded(part, definitions, ()):
            omissions.omit("$ref", place, _ONLY_ITSELF)
            del part["$ref"]
    place_of = {id(part): place for place, part in parts}
    search = _Search(definitions)
    for start in (schema, *(part for _, part in parts if part.keys() & {"$ref", "allOf"})):
        while (endless := search.endless_reference(start)) is not None:
            omissions.omit("$ref", place_of[id(endless)], _ENDLESS)
            del endless["$ref"]


def _subschemas(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema and every schema in it, each with its place."""
    if not isinstance(schema, dict):
        return
    yield place, schema
    for keyword in NESTED.keys() & schema.keys():
        value, inside = schema[keyword], f"{place}/{keyword}"
        if isinstance(value, list):
            for i, item in enumerate(value):
                yield from _subschemas(item, f"{inside}/{i}")
        elif NESTED[keyword] == MAP:
            for name, item in value.items():
                yield from _subschemas(item, f"{inside}/{escaped(name)}")
        else:
            yield from _subschemas(value, inside)


def _target(holder: dict[str, Any]) -> str:
    return str(holder["$ref"]).removeprefix("#/$defs/")


def _may_repeat(definitions: dict[str, Any]) -> bool:
    """Whether a definition refers to itself, directly or through others."""
    uses = {
        name: {_target(part) for _, part in _subschemas(one, "") if "$ref" in part} for name, one in definitions.items()
    }
    while leaves := [name for name, used in uses.items() if not used & uses.keys()]:
        for name in leaves:
            del uses[name]
    return bool(uses)


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and the parts of it that are about the same value, without what they refer to."""
    if isinstance(schema, dict):
        yield schema
        for part in (*schema.get("allOf", ()), *schema.get("anyOf", ())):
            yield from _parts(part)


def _is_grounded(schema: Any, definitions: dict[str, Any], inside: tuple[str, ...]) -> bool:
    """Whether a schema can be satisfied without a circle of references about the same value."""
    if not isinstance(schema, dict):
        return True
    if "$ref" in schema:
        name = _target(schema)
        if name in inside or not _is_grounded(definitions.get(name), definitions, (*inside, name)):
            return False
    alternatives = schema.get("anyOf", [True])
    return all(_is_grounded(part, definitions, inside) for part in schema.get("allOf", ())) and any(
        _is_grounded(part, definitions, inside) for part in alternatives
    )


def _returns(holder: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Whether a reference leads back to itself without a step into the value."""
    pending, seen = [_target(holder)], set()
    while pending:
        name = pending.pop()
        for part in _parts(definitions.get(name)):
            if part is holder:
                return True
            if "$ref" in part and _target(part) not in seen:
                seen.add(_target(part))
                pending.append(_target(part))
    return False


class _Search:
    """Looks for a value of a schema, from the outside in. A schema that occurs within itself has none in that place."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self._with_value: set[SchemaKey] = set()
        self._circle: list[Any] = []
        self._steps = 0

    def endless_reference(self, schema: Any) -> dict[str, Any] | None:
        """A reference without which the schema has a value, or the last one of several, if it is endless."""
        self._circle = []
        if self._has_value(schema, []):
            return None
        references = [part for outer in reversed(self._circle) for part in _parts(outer) if "$ref" in part]
        return next((one for one in references if self._helps(one, schema)), next(iter(references), None))

    def _helps(self, reference: dict[str, Any], schema: Any) -> bool:
        """Whether the schema has a value without a reference."""
        target = reference.pop("$ref")
        try:
            return _Search(self._definitions)._has_value(schema, [])
        finally:
            reference["$ref"] = target

    def _has_value(self, schema: Any, path: list[tuple[SchemaKey, Any]]) -> bool:
        """Whether a schema has a value; `path` leads to it."""
        if not isinstance(schema, dict):
            return schema is not False
        key = _key(schema)
        self._steps += 1
        if key in self._with_value or self._steps > _MAX_STEPS or len(path) > _MAX_DEPTH:
            return True
        outer_keys = [outer for outer, _ in path]
        if key in outer_keys:
            self._circle = self._circle or [outer for _, outer in path[outer_keys.index(key) :]]
            return False
        circle_before = self._circle
        inner_path = [*path, (key, schema)]
        try:
            alternatives = branches(schema, self._definitions)
        except TooManyBranches:
            return True
        if any(self._branch_has_value(branch, inner_path) for branch in alternatives):
            self._with_value.add(key)
            self._circle = circle_before
            return True
        return False

    def _branch_has_value(self, branch: dict[str, Any], path: list[tuple[SchemaKey, Any]]) -> bool:
        kinds = branch.get("types", TYPE_NAMES)
        if "enum" in branch or any(kind not in ("object", "array") for kind in kinds):
            return True

        def has_value(schema: Any) -> bool:
            return self._has_value(schema, path)

        return (
            "object" in kinds and _has_object(branch, has_value) or "array" in kinds and _has_array(branch, has_value)
        )


def _has_object(branch: dict[str, Any], has_value: Callable[[Any], bool]) -> bool:
    properties = branch.get("properties", {})
    patterns = branch.get("patternProperties", {})
    others = branch.get("additionalProperties", True)
    required = branch.get("required", ())
    if not all(has_value(properties.get(name, True if patterns else others)) for name in required):
        return False
    if required or not branch.get("minProperties"):
        return True
    return any(has_value(one) for one in (*properties.values(), *patterns.values(), others))


def _has_array(branch: dict[str, Any], has_value: Callable[[Any], bool]) -> bool:
    first, least = branch.get("prefixItems", [])[: branch.get("minItems", 0)], branch.get("minItems", 0)
    return all(map(has_value, first)) and (len(first) >= least or has_value(branch.get("items", True)))


def _key(schema: Any) -> SchemaKey:
    """Identifies a schema. One that `branches` has merged from two schemas of a property is identified by its parts."""
    parts = schema.get("allOf") if isinstance(schema, dict) and schema.keys() == {"allOf"} else None
    return id(schema) if parts is None else tuple(map(_key, parts))
