"""Makes sure that no keyword of a JSON schema is silently ignored. Works around gaps of llguidance.

llguidance refuses most keywords that it cannot enforce (docs/json_schema.md in its repository). It accepts some others
without enforcing them, as trying each keyword with version 1.9 showed. Those are rewritten in keywords that it does
enforce; what cannot be rewritten is omitted, which is an error where everything must be enforced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ...types.warnings import Warnings
from . import opposites, patterns
from .counting import max_properties, min_properties, unique_items
from .keywords import (
    ANNOTATIONS,
    BASE64,
    BOUNDS,
    CONSTRAINING,
    EXTRA_FORMATS,
    FORMATS,
    HELPERS,
    IGNORED,
    KNOWN,
    MAP,
    NESTED,
    NO_EFFECT,
    NUMBER_FORMATS,
    REFUSED,
    REWRITTEN,
    TYPE_ALIASES,
    TYPE_NAMES,
    JsonSchemaValue,
    expected_shape,
    meant_keyword,
)
from .nullable import with_null
from .omissions import Omissions, Omitted
from .recursion import without_endless
from .references import References, escaped

_NINE_DECIMALS = {"multipleOf": 1e-9}
"""Added to the bounds of a number: if digits need not end, small models often write zeros forever."""
_MAX_BOUND_DECIMALS = 6
"""Between bounds with more decimals than this there may be no number that `_NINE_DECIMALS` allows."""
_LARGEST_NUMBER_BOUND = 1e15
_LARGEST_INTEGER_BOUND = 2**63 - 1024
"""The largest bound that llguidance takes. Larger ones are lowered to this: few numbers are so large."""

_OVERLAP = "has alternatives that allow the same values; make them distinct or use anyOf"

_SET_OPERATION = re.compile(r"(?<!\\)\[(?:\\.|[^\]\\])*?(?:&&|--|~~|(?<!\\)\[)")
"""In a character class, a text that llguidance reads as a set operator and JavaScript as single characters."""


def enforceable(schema: JsonSchemaValue | bool, omissions: Omissions | None = None) -> JsonSchemaValue:
    """A schema that llguidance enforces completely or refuses. Its values satisfy the given one, except for omissions.

    By default the first omission raises `InvalidRequest`. All references are to `$defs`, which holds only those used.
    """
    omissions = omissions or Omissions(Warnings())
    schema = with_null(schema)
    rewriter = _Rewriter(schema, omissions)
    checked = rewriter.schema(schema, "#")
    if isinstance(checked, bool):
        return {} if checked else {"enum": []}
    definitions = rewriter.definitions
    without_endless(checked, definitions, rewriter.places, omissions)
    return {**checked, "$defs": definitions} if definitions else checked


def constraining_keywords(schema: JsonSchemaValue) -> set[str]:
    """The keywords of a rewritten schema that constrain a value."""
    return set(schema) & CONSTRAINING


class _Rewriter:
    """Walks a schema once and rewrites each subschema, with the places that its references point to."""

    def __init__(self, root: Any, omissions: Omissions) -> None:
        self._omissions = omissions
        self._references = References(root)
        self._names: dict[str, str] = {}
        self.definitions: dict[str, Any] = {}

    @property
    def places(self) -> dict[str, str]:
        """Where each definition was in the schema."""
        return {name: place for place, name in self._names.items()}

    def schema(self, schema: Any, place: str) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            self._omissions.omit("the schema", place, f"is {str(schema)[:40]!r}; it must be an object or a boolean")
            return True
        given = self._given(schema, place)
        checked: JsonSchemaValue = {}
        rules: list[Any] = []
        for keyword, value in given.items():
            try:
                if keyword in REWRITTEN:
                    rules += [self.schema(rule, place) for rule in self._rewritten(keyword, given, place)]
                elif keyword not in HELPERS:
                    kept, extra = self._kept(keyword, value, given, place)
                    checked |= kept
                    rules += extra
            except Omitted as omitted:
                self._omissions.omit(keyword, place, str(omitted))
            except (TypeError, ValueError, AttributeError, LookupError):
                self._omissions.omit(keyword, place, "contains something that is not a JSON schema")
        checked = _modern_items(checked)
        rules += _digit_limits(checked) if "type" in checked else ()
        return checked | ({"allOf": [*checked.get("allOf", []), *rules]} if rules else {})

    def _given(self, schema: JsonSchemaValue, place: str) -> JsonSchemaValue:
        """The keywords that may constrain a value, if their own values have the expected shape."""
        given: JsonSchemaValue = {}
        for keyword, value in schema.items():
            if keyword in ANNOTATIONS or keyword.startswith("x-") and keyword not in REFUSED:
                continue
            if any(value is one or (value == one and type(value) is type(one)) for one in NO_EFFECT.get(keyword, ())):
                continue
            if keyword not in KNOWN:
                if (meant := meant_keyword(keyword)) is not None:
                    self._omissions.omit(keyword[:80], place, f"is not a keyword of JSON Schema; write {meant!r}")
                else:
                    self._omissions.unknown(keyword, place)
            elif value is None and keyword not in ("const", "default"):
                self._omissions.change(keyword, place, "is null", "it is ignored")
            elif keyword in IGNORED:
                self._omissions.change(keyword, place, IGNORED[keyword], "it is ignored")
            elif keyword in REFUSED:
                self._omissions.omit(keyword, place, REFUSED[keyword])
            else:
                if isinstance(value, float) and value.is_integer() and keyword not in (*BOUNDS, "const", "multipleOf"):
                    value = int(value)
                if (shape := expected_shape(keyword, value)) is not None:
                    self._omissions.omit(keyword, place, f"is {str(value)[:60]!r}; it must be {shape}")
                else:
                    given[keyword] = value
        return _modern(given)

    def _kept(self, keyword: str, value: Any, schema: JsonSchemaValue, place: str) -> tuple[JsonSchemaValue, list[Any]]:
        """The replacement of a keyword that llguidance knows, and schemas that must be satisfied as well."""
        match keyword:
            case "type":
                kinds = self._types(value, place)
                return ({} if kinds is None else {"type": kinds}), []
            case "format":
                return self._format(value, _kinds(schema), place)
            case "pattern":
                rules = _patterns(value)
                return {"pattern": rules[0]}, [{"pattern": rule} for rule in rules[1:]]
            case "$ref":
                return {"$ref": self._reference(value, place)}, []
            case "required":
                return {"required": self._possible(value, schema, place)}, []
            case "minProperties":
                return min_properties(value, schema)
            case "maxProperties":
                return max_properties(value, schema)
            case "anyOf" | "oneOf" if not value:
                raise Omitted("is an empty list, which nothing satisfies; list at least one schema, or leave it out")
            case "enum" if not value:
                raise Omitted("is an empty list, which nothing satisfies; list at least one value, or leave it out")
            case "oneOf":
                exclusive = opposites.separated(value, self._references.resolve)
                if not exclusive:
                    self._omissions.omit(keyword, place, _OVERLAP)
                elif len(exclusive) < len(value):
                    self._omissions.change(
                        keyword, place, "has alternatives that allow only what others do", "it is narrowed"
                    )
                return {}, [{"anyOf": self._schemas(exclusive or value, f"{place}/oneOf")}]
            case "patternProperties":
                return self._pattern_properties(value, schema, place), []
            case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
                largest = _LARGEST_INTEGER_BOUND if _kinds(schema) == {"integer"} else _LARGEST_NUMBER_BOUND
                if abs(value) > largest and (value < 0) == keyword.endswith("inimum"):
                    return {keyword: -largest if value < 0 else largest}, []
        return {keyword: self._nested(keyword, value, f"{place}/{keyword}")}, []

    def _nested(self, keyword: str, value: Any, inside: str) -> Any:
        """The value of a keyword, with its subschemas rewritten."""
        kind = NESTED.get(keyword)
        if kind is None:
            return value
        if isinstance(value, list):
            return self._schemas(value, inside)
        if kind == MAP:
            return {name: self.schema(item, f"{inside}/{escaped(name)}") for name, item in value.items()}
        return self.schema(value, inside)

    def _schemas(self, schemas: list[Any], place: str) -> list[Any]:
        return [self.schema(item, f"{place}/{i}") for i, item in enumerate(schemas)]

    def _types(self, value: Any, place: str) -> Any:
        """The types by their right names, or `None` for any."""
        names = value if isinstance(value, list) else [value]
        kinds = []
        for name in names:
            lower = name.lower() if isinstance(name, str) else ""
            kind = lower if lower in TYPE_NAMES else TYPE_ALIASES.get(lower)
            if lower == "any":
                self._omissions.change("type", place, "is 'any', which is not a type", "it is read as every type")
                return None
            if kind is None:
                raise Omitted(f"is {str(value)[:60]!r}; the types are {', '.join(TYPE_NAMES)}")
            if kind != name:
                self._omissions.change("type", place, f"is {name!r}, which is not a type", f"it is read as {kind!r}")
            kinds.append(kind)
        return kinds if isinstance(value, list) else kinds[0]

    def _format(self, name: str, kinds: set[str], place: str) -> tuple[JsonSchemaValue, list[Any]]:
        """A format of texts or of numbers. By the standard, any other format is an annotation."""
        numbers = kinds <= {"integer", "number", "null"} or name in NUMBER_FORMATS
        formats = NUMBER_FORMATS if numbers else FORMATS | EXTRA_FORMATS
        if name not in formats or not kinds & ({"integer", "number"} if numbers else {"string"}):
            if name:
                self._omissions.change("format", place, f"is {name[:60]!r}, which is not enforced")
            return {}, []
        return ({"format": name} if name in FORMATS else {}), list(formats[name])

    def _pattern_properties(self, value: Any, schema: JsonSchemaValue, place: str) -> JsonSchemaValue:
        """Patterns of names. Those that allow every value matter only if there may be no other properties."""
        named: dict[str, Any] = {}
        may_add = schema.get("additionalProperties", True) in (True, {})
        for pattern, inner in value.items():
            if may_add and inner in (True, {}):
                continue
            try:
                name = _pattern_of_names(pattern)
            except Omitted as omitted:
                self._omissions.omit("patternProperties", place, str(omitted))
                continue
            named[name] = self.schema(inner, f"{place}/patternProperties/{escaped(pattern)}")
        return {"patternProperties": named} if named else {}

    def _rewritten(self, keyword: str, schema: JsonSchemaValue, place: str) -> Iterator[Any]:
        """Schemas in other keywords that replace one keyword. They must be rewritten themselves."""
        value, resolve = schema[keyword], self._references.resolve
        match keyword:
            case "uniqueItems":
                yield from unique_items(schema, resolve)
            case "propertyNames":
                yield from self._property_names(value)
            case "dependentRequired" | "dependentSchemas" | "dependencies":
                yield from opposites.dependent(value)
            case "not":
                failing = opposites.violations(value, resolve)
                if not failing and value not in (True, {}):
                    raise Omitted("cannot be enforced: no opposite of its schema is known")
                yield {"anyOf": failing} if failing else False
            case "if":
                yield opposites.conditional(schema, resolve)
            case "contains":
                rule = opposites.containing(schema, resolve)
                if rule is None:
                    raise Omitted("cannot be enforced with these limits")
                yield rule
            case "unevaluatedProperties" | "unevaluatedItems":
                yield self._unevaluated(keyword, schema)
            case "contentEncoding":
                if value == "base64":
                    yield BASE64
                else:
                    self._omissions.change(keyword, place, f"is {str(value)[:40]!r}, which is not enforced")

    def _unevaluated(self, keyword: str, schema: JsonSchemaValue) -> Any:
        if schema[keyword] is not False:
            raise Omitted("can be enforced only if it is true or false")
        if keyword == "unevaluatedProperties":
            rule = opposites.closed(schema, self._references.resolve)
            return True if rule is None else rule
        if "items" in schema and not isinstance(schema["items"], list):
            return True
        return {"maxItems": len(schema.get("prefixItems") or schema.get("items") or ())}

    def _possible(self, names: list[str], schema: JsonSchemaValue, place: str) -> list[str]:
        """The required properties that the schema allows."""
        properties = schema.get("properties", {})
        closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
        possible = [name for name in names if properties.get(name, not closed) is not False]
        for name in names if len(possible) < len(names) else ():
            if name not in possible:
                self._omissions.omit("required", place, f"names {name[:80]!r}, which the schema does not allow")
        return possible

    def _property_names(self, value: Any) -> Iterator[Any]:
        """Property names from an enum or with a pattern or a length."""
        names = self._references.resolve(value)
        if names is False:
            yield {"maxProperties": 0}
            return
        rules = {k: v for k, v in names.items() if k not in ANNOTATIONS} if isinstance(names, dict) else {}
        kind = rules.pop("type", "string")
        if kind != "string" and "string" not in kind:
            raise Omitted("can be enforced only for strings")
        if not rules:
            return
        if "const" in rules and len(rules) == 1:
            rules = {"enum": [rules["const"]]}
        lengths = rules.keys() <= {"minLength", "maxLength"}
        if lengths:
            rules = {"pattern": f"^(?s:.{{{rules.get('minLength', 0)},{rules.get('maxLength', '')}}})$"}
        if rules.keys() == {"enum"}:
            named = {name: True for name in rules["enum"] if isinstance(name, str)}
            yield {"properties": named, "additionalProperties": False}
        elif rules.keys() == {"pattern"}:
            _pattern_of_names(rules["pattern"])  # checked here, so that the error names the keyword as written
            yield {"patternProperties": {rules["pattern"]: True}, "additionalProperties": False}
        else:
            raise Omitted("can be enforced only with a single enum or a single pattern, or with lengths")

    def _reference(self, target: str, place: str) -> str:
        """A reference to the definition of what `target` points to, which is added on first use."""
        pointer = self._references.pointer(target, place)
        if pointer is None:
            raise Omitted(f"points to {target[:200]!r}, which is not a schema")
        if pointer not in self._names:
            name = self._names[pointer] = f"d{len(self._names)}"
            self.definitions[name] = True  # until it is rewritten: it may contain itself
            self.definitions[name] = self.schema(self._references.value(pointer), pointer)
        return f"#/$defs/{self._names[pointer]}"


def _modern(schema: JsonSchemaValue) -> JsonSchemaValue:
    """Converts bounds of older drafts, with `exclusiveMinimum: true`, to their present form."""
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if isinstance(schema.get(exclusive), bool):
            is_exclusive = schema.pop(exclusive)
            if is_exclusive and bound in schema:
                schema[exclusive] = schema.pop(bound)
    return schema


def _modern_items(schema: JsonSchemaValue) -> JsonSchemaValue:
    """Converts the list of `items` of older drafts to its present form."""
    others = schema.pop("additionalItems", None)
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        if others is not None:
            schema["items"] = others
    return schema


def _patterns(pattern: str) -> list[str]:
    """Patterns for llguidance that together match what one matches."""
    if _SET_OPERATION.search(pattern):
        raise Omitted("contains a character class with &&, --, ~~ or [, which is ambiguous")
    rules = patterns.without_looks(pattern)
    if rules is None:
        raise Omitted("contains look-around or a word boundary that cannot be enforced")
    return rules or [""]


def _pattern_of_names(pattern: str) -> str:
    """A pattern for llguidance that matches the same names. Raises `Omitted` if a single one cannot."""
    try:
        one, *more = _patterns(pattern)
    except Omitted as omitted:
        raise Omitted(f"has the pattern {pattern[:60]!r}, which {omitted}") from None
    if more:
        raise Omitted(f"has the pattern {pattern[:60]!r} with look-ahead")
    return one


def _digit_limits(schema: JsonSchemaValue) -> Iterator[JsonSchemaValue]:
    """Limits the digits of a number whose schema does not.

    An integer fits 64 bits. A number with bounds has at most nine decimals, unless the bounds have about as many.
    """
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    bounds = [schema[bound] for bound in BOUNDS if bound in schema]
    if "number" in kinds:
        few_decimals = all(abs(b) < 1e9 and round(b, _MAX_BOUND_DECIMALS) == b for b in bounds)
        if bounds and few_decimals and "multipleOf" not in schema:
            yield _NINE_DECIMALS
    elif "integer" in kinds:
        for bound, value in NUMBER_FORMATS["int64"][0].items():
            if bound not in schema and f"exclusive{bound.capitalize()}" not in schema:
                yield {bound: value}


def _kinds(schema: JsonSchemaValue) -> set[str]:
    """The types of a schema by their right names."""
    names = schema.get("type", TYPE_NAMES)
    names = [str(name).lower() for name in (names if isinstance(names, list | tuple) else [names])]
    return {*TYPE_NAMES} if "any" in names else {TYPE_ALIASES.get(name, name) for name in names}
