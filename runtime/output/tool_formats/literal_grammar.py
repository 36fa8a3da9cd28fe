"""The grammar of arguments that are written as literals of a language other than JSON, made from the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..structured.branches import TooManyBranches, allows, branches
from ..structured.keywords import CONSTRAINING
from ..structured.references import escaped
from .notation import EnforcedTool, json_rule, object_branches
from .texts import UNWRITABLE_NAME, literal_text, one_of, other_names, text_rule

if TYPE_CHECKING:
    from .literals import LiteralNotation

_NUMBER_KEYWORDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_NAME_CHARS = r"\"'(){}\[\],:=<>|\\"
_PROPERTY_NAME = re.compile(rf"[^\s{_NAME_CHARS}](?:[^\r\n\t{_NAME_CHARS}]*[^\s{_NAME_CHARS}])?")
_OTHER_NAME = r"[A-Za-z_][\w-]{0,63}"
_TYPES = ("string", "number", "boolean", "null", "array", "object")
_UNWRITABLE = ("patternProperties", "minProperties", "maxProperties")
_COUNTED = frozenset({"minProperties", "maxProperties"})


@dataclass
class ArgumentsGrammar:
    """Makes the grammar of one tool's arguments. What cannot be expressed is left out and named."""

    notation: LiteralNotation
    tool: EnforcedTool
    name: str
    rules: list[str]
    spell: Callable[[str], str]
    rule_names: dict[object, str] = field(default_factory=dict)

    def arguments(self) -> str:
        begin, end = self.notation.brackets
        alternatives = object_branches(self.tool)
        return _any_of([self._object(branch, begin, end, "#", top_level=True) for branch in alternatives])

    def _value(self, schema: Any, place: str) -> str | None:
        """An expression for the values that a schema allows, or `None` if it allows none."""
        if schema is False:
            return None
        if not isinstance(schema, dict) or not schema.keys() & CONSTRAINING:
            return self._rule("any", lambda: " | ".join(self._typed({}, kind, place) or "" for kind in _TYPES))
        reference = str(schema["$ref"]).removeprefix("#/$defs/") if "$ref" in schema else None
        if reference is not None and schema.keys() & CONSTRAINING == {"$ref"}:
            target = self.tool.definitions.get(reference, True)
            return self._rule(reference, lambda: self._value(target, f"#/$defs/{reference}"))
        if schema.keys() & {"$ref", "anyOf", "allOf"}:  # it may contain itself
            return self._rule(id(schema), lambda: self._branches(schema, place))
        return self._branches(schema, place)

    def _branches(self, schema: dict[str, Any], place: str) -> str | None:
        try:
            alternatives = branches(schema, self.tool.definitions)
        except TooManyBranches:
            self.tool.cannot_write("anyOf", place, "has too many combinations and ")
            alternatives = branches({"type": schema["type"]} if "type" in schema else {}, {})
        expressions = [expression for branch in alternatives for expression in self._branch(branch, place)]
        return _any_of(list(dict.fromkeys(expressions))) if expressions else None

    def _branch(self, branch: dict[str, Any], place: str) -> list[str]:
        if "enum" in branch:
            for keyword in {"pattern", "format", "properties", "items"} & branch.keys():
                self.tool.cannot_write(keyword, place, "next to enum ")
            return self._literals([value for value in branch["enum"] if allows(branch, value)])
        typed = (self._typed(branch, kind, place) for kind in branch.get("types", _TYPES))
        return [expression for expression in typed if expression is not None]

    def _literals(self, values: list[Any]) -> list[str]:
        """Expressions for values: quotes spelled with the vocabulary's tokens, texts verbatim."""
        verbatim = [value for value in values if isinstance(value, str) and not self.notation.escapes]
        others = [self.notation.literal(value) for value in values if value not in verbatim]
        begin, end = map(self.spell, self.notation.quotes[0])
        expressions = [f"{begin} {one_of(verbatim)} {end}"] if verbatim else []
        return expressions + ([one_of(others)] if others else [])

    def _typed(self, branch: dict[str, Any], kind: str, place: str) -> str | None:
        words = self.notation.words
        match kind:
            case "integer" | "number":
                bounds = {keyword: value for keyword, value in branch.items() if keyword in _NUMBER_KEYWORDS}
                return json_rule({"type": kind, **bounds})
            case "string":
                return self._string(branch, place)
            case "boolean":
                return f"({_text(words.get('true', 'true'))} | {_text(words.get('false', 'false'))})"
            case "null":
                return _text(words.get("null", "null"))
            case "array":
                return self._array(branch, place)
        return self._object(branch, "{", "}", place)

    def _string(self, branch: dict[str, Any], place: str) -> str | None:
        if self.notation.escapes:
            lengths = {keyword: value for keyword, value in branch.items() if keyword in ("minLength", "maxLength")}
            rules = [{key: rule} for key in ("pattern", "format") for rule in branch.get(key, ())]
            return json_rule({"type": "string", **lengths, **({"allOf": rules} if rules else {})})
        begin, end = map(self.spell, self.notation.quotes[0])
        keywords: dict[str, Any] = {
            key: branch[key] for key in ("minLength", "maxLength", "pattern", "format") if key in branch
        }
        key = f"string {json.dumps(keywords)}"
        if key not in self.rule_names:
            self.rule_names[key] = text_rule(keywords, end, self.tool, place, self.name, self.rules) or ""
        return f"{begin} {self.rule_names[key]}"

    def _array(self, branch: dict[str, Any], place: str) -> str | None:
        first = branch.get("prefixItems", ())
        rest = branch.get("items", True)
        least, most = branch.get("minItems", 0), branch.get("maxItems")
        comma = _text(self.notation.comma)
        positions: list[str] = []
        for i, schema in enumerate(first[:most]):
            value = self._value(schema, f"{place}/prefixItems/{i}")
            if value is None:
                most = i
                break
            positions.append(self._new_rule(value))
        item = self._value(rest, f"{place}/items")
        if least > (most if most is not None else least) or (item is None and least > len(positions)):
            return None
        return f'"[" {_sequence(positions, item and self._new_rule(item), comma, least, most)} "]"'

    def _object(self, branch: dict[str, Any], begin: str, end: str, place: str, *, top_level: bool = False) -> str:
        required = set(branch.get("required", ()))
        properties = branch.get("properties", {})
        is_map = not properties and not required
        for keyword in _UNWRITABLE:
            if keyword in branch and not (is_map and keyword in _COUNTED):
                self.tool.cannot_write(keyword, place)
        if top_level and "enum" in branch:
            self.tool.cannot_write("enum", place)
        other = branch.get("additionalProperties", not (properties or top_level))
        properties = properties | {key: other or True for key in sorted(required) if key not in properties}
        comma = _text(self.notation.comma)
        alternatives: list[str] = []  # each property that may come first, with those that may follow it
        rest = ""
        if other is not False and (member := self._other_member(list(properties), other, place, top_level)):
            if is_map:
                counts = branch.get("minProperties", 0), branch.get("maxProperties")
                return f"{_text(begin)} {_sequence([], member, comma, *counts)} {_text(end)}"
            rest = self._new_rule(f"({comma} {member})*")
            alternatives = [f"{member} {rest}"]
        for key, schema in reversed(self.notation.items(properties)):
            inside = f"{place}/properties/{escaped(key)}"
            name, value = self._key(key, inside, top_level), self._value(schema, inside)
            if name is None or value is None:
                if name is not None and key in required:
                    self.tool.omissions.omit("required", place, f"names {key!r}, for which no value is allowed")
                required.discard(key)
                continue
            member = self._new_rule(f"{name} {value}")
            alternatives = [f"{member} {rest}", *([] if key in required else alternatives)]
            rest = self._new_rule(f"({comma} {member}){'' if key in required else '?'} {rest}")
        inner = f"({' | '.join(alternatives)})" + ("" if required else "?") if alternatives else ""
        return f"{_text(begin)} {inner} {_text(end)}"

    def _other_member(self, listed: list[str], schema: Any, place: str, top_level: bool) -> str | None:
        """A property that is not listed, as a rule."""
        value = self._value(schema, f"{place}/additionalProperties")
        if value is None:
            return None
        if self.notation.quoted_keys and not top_level:
            return self._new_rule(f'{json_rule({"type": "string"})} ": " {value}')
        name = f"{self.name}_K{len(self.rules)}".upper()
        self.rules.append(f"{name}: {other_names(listed, _OTHER_NAME)}")
        return self._new_rule(f"{name} {_text(self.notation.assign if top_level else ':')} {value}")

    def _key(self, key: str, place: str, top_level: bool) -> str | None:
        if self.notation.quoted_keys and not top_level:
            return _text(self.notation.string(key) + ": ")
        if not _PROPERTY_NAME.fullmatch(key):
            self.tool.omissions.omit("the property", place, UNWRITABLE_NAME)
            return None
        return _text(key + (self.notation.assign if top_level else ":"))

    def _rule(self, key: object, make: Callable[[], str | None]) -> str | None:
        """The name of the rule for `key`. Adds the rule on first use; it may be recursive."""
        if key not in self.rule_names:
            name = self.rule_names[key] = f"{self.name}_{len(self.rule_names)}"
            expression = make()
            self.rules.append(f"{name}: {expression or _NOTHING}")
        return self.rule_names[key]

    def _new_rule(self, expression: str) -> str:
        """Adds a rule for an expression that is used more than once, and returns its name."""
        name = f"{self.name}_n{len(self.rules)}"
        self.rules.append(f"{name}: {expression}")
        return name


_NOTHING = '%json {"enum": []}'


def _sequence(positions: list[str], item: str | None, comma: str, least: int, most: int | None) -> str:
    """Items separated by commas: those of `positions`, then others."""
    if not positions:
        if item is None or most == 0:
            return ""
        more = f"({comma} {item}){{{max(least - 1, 0)},{'' if most is None else max(most - 1, 0)}}}"
        return f"({item} {more})" + ("" if least else "?")
    count = len(positions)
    tail = ""
    if item is not None and (most is None or most > count):
        tail = f"({comma} {item}){{{max(least - count, 0)},{'' if most is None else most - count}}}"
    for i in range(count - 1, 0, -1):
        tail = f"({comma} {positions[i]} {tail})" + ("" if i < least else "?")
    return f"({positions[0]} {tail})" + ("" if least else "?")


def _any_of(expressions: list[str]) -> str:
    return expressions[0] if len(expressions) == 1 else f"({' | '.join(expressions)})"


def _text(text: str) -> str:
    return literal_text(text) if text else ""
