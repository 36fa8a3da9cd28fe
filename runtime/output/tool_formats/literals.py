"""Arguments as literals of a language other than JSON: a grammar made from the schema, and a transcoder to JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ....models.errors import InvalidRequest
from ...types.messages import Tool
from ..structured.json_schema import constraining_keywords
from .notation import Transcoder, json_rule, parameters_schema

_ALWAYS_ALLOWED = {"type", "$defs", "definitions"}
_NUMBER_KEYWORDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_STRING_KEYWORDS = {"minLength", "maxLength", "pattern", "format"}
_PROPERTY_NAME = re.compile(r"[A-Za-z_][\w-]*")
_TYPES = ("string", "number", "boolean", "null", "array", "object")
_MAX_QUOTE_LENGTH = 16


@dataclass(frozen=True)
class LiteralNotation:
    """How a language writes values.

    `words`: the literals for true, false and null. `quotes`: the pairs of string delimiters that are read, of which
    the first is written. `escapes`: strings have backslash escapes. `brackets`: delimit the arguments. Argument names
    are unquoted and followed by `assign`; so are the keys of inner objects unless `quoted_keys` is set. `sorted_keys`:
    arguments are written in alphabetical order.
    """

    words: Mapping[str, str]
    quotes: tuple[tuple[str, str], ...]
    escapes: bool
    brackets: tuple[str, str]
    assign: str
    comma: str
    quoted_keys: bool
    sorted_keys: bool = False

    @property
    def bracket(self) -> str:
        return self.brackets[0]

    @property
    def tags(self) -> tuple[str, ...]:
        return self.quotes[0] if len(self.quotes[0][0]) > 1 else ()

    def render(self, arguments: dict[str, Any]) -> str:
        begin, end = self.brackets
        return begin + self.comma.join(f"{k}{self.assign}{self.literal(v)}" for k, v in self.items(arguments)) + end

    def items(self, value: Mapping[str, Any]) -> list[tuple[str, Any]]:
        return sorted(value.items(), key=lambda item: item[0].lower()) if self.sorted_keys else list(value.items())

    def literal(self, value: Any) -> str:
        if isinstance(value, str):
            return self.string(value)
        if isinstance(value, list):
            return "[" + self.comma.join(map(self.literal, value)) + "]"
        if isinstance(value, dict):
            items = ((self.string(k) + ": " if self.quoted_keys else k + ":", v) for k, v in self.items(value))
            return "{" + self.comma.join(k + self.literal(v) for k, v in items) + "}"
        word = json.dumps(value)
        return self.words.get(word, word)

    def string(self, text: str) -> str:
        begin, end = self.quotes[0]
        return json.dumps(text, ensure_ascii=False) if self.escapes else begin + text + end

    def transcoder(self, tool: Tool) -> Transcoder:
        return _LiteralTranscoder(self)

    def grammar(self, tool: Tool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        return _ArgumentsGrammar(self, parameters_schema(tool), name, rules, spell).arguments()


@dataclass
class _ArgumentsGrammar:
    """Makes the grammar of one tool's arguments. Every schema keyword is enforced, or refused by name."""

    notation: LiteralNotation
    root: dict[str, Any]
    name: str
    rules: list[str]
    spell: Callable[[str], str]
    rule_names: dict[str, str] = field(default_factory=dict)

    def arguments(self) -> str:
        begin, end = self.notation.brackets
        return self._object(self.root, begin, end, top_level=True)

    def _value(self, schema: Any) -> str:
        if schema is True or schema == {}:
            return self._rule("any", lambda: " | ".join(self._typed({}, kind) for kind in _TYPES))
        if not isinstance(schema, dict):
            raise self._refusal(f"the schema {schema!r}")
        if "$ref" in schema:
            return self._rule(str(schema["$ref"]), lambda: self._value(self._resolved(schema["$ref"])))
        if "enum" in schema or "const" in schema:
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            return "(" + " | ".join(self._literal(v) for v in values) + ")"
        if "anyOf" in schema:
            self._check(schema, {"anyOf"})
            return "(" + " | ".join(map(self._value, schema["anyOf"])) + ")"
        kinds = schema.get("type", "object" if "properties" in schema else _TYPES)
        kinds = [kinds] if isinstance(kinds, str) else kinds
        return "(" + " | ".join(self._typed(schema, kind) for kind in kinds) + ")"

    def _literal(self, value: Any) -> str:
        """An expression for one value: its quotes spelled with the vocabulary's tokens, its text verbatim."""
        if isinstance(value, str) and not self.notation.escapes:
            begin, end = self.notation.quotes[0]
            return f"{self.spell(begin)} {_text(value)} {self.spell(end)}"
        return _text(self.notation.literal(value))

    def _typed(self, schema: dict[str, Any], kind: str) -> str:
        words, only_type = self.notation.words, len(schema) <= 1 or not isinstance(schema.get("type"), list)
        if kind in ("integer", "number"):
            bounded = _NUMBER_KEYWORDS | {"format"}
            self._check(schema, bounded, only_type)
            bounds = {k: v for k, v in schema.items() if k in bounded}
            return json_rule({"type": kind, **bounds})
        if kind == "string":
            return self._string(schema, only_type)
        if kind == "boolean":
            self._check(schema, set(), only_type)
            return f"({_text(words.get('true', 'true'))} | {_text(words.get('false', 'false'))})"
        if kind == "null":
            self._check(schema, set(), only_type)
            return _text(words.get("null", "null"))
        if kind == "array":
            return self._array(schema, only_type)
        if kind == "object":
            return self._object(schema, "{", "}", only_type=only_type)
        raise self._refusal(f"the type {kind!r}")

    def _string(self, schema: dict[str, Any], only_type: bool) -> str:
        self._check(schema, _STRING_KEYWORDS if self.notation.escapes else {"minLength", "maxLength"}, only_type)
        limits = {k: v for k, v in schema.items() if k in _STRING_KEYWORDS}
        if self.notation.escapes:
            return json_rule({"type": "string", **limits})
        begin, end = map(self.spell, self.notation.quotes[0])
        min_length, max_length = limits.get("minLength", 0), limits.get("maxLength", "")
        key = f"string {min_length} {max_length}"
        lazy = "" if end.startswith("<[") else "[lazy]"
        repeat = f"{{{min_length},{max_length}}}" if limits else "*"
        return f"{begin} " + self._rule(key, lambda: f"/(.|\\n){repeat}/ {end}", lazy)

    def _array(self, schema: dict[str, Any], only_type: bool) -> str:
        self._check(schema, {"items", "minItems", "maxItems"}, only_type)
        item, comma = self._new_rule(self._value(schema.get("items", True))), _text(self.notation.comma)
        min_items, max_items = schema.get("minItems", 0), schema.get("maxItems")
        max_more = "" if max_items is None else max(max_items - 1, 0)
        more = f"({comma} {item}){{{max(min_items - 1, 0)},{max_more}}}"
        inner = "" if max_items == 0 else f"({item} {more})" + ("" if min_items else "?")
        return f'"[" {inner} "]"'

    def _object(
        self, schema: dict[str, Any], begin: str, end: str, *, top_level: bool = False, only_type: bool = True
    ) -> str:
        self._check(schema, {"properties", "required", "additionalProperties"}, only_type)
        if schema.get("additionalProperties", False) is not False:
            raise self._refusal("additionalProperties")
        properties, required = schema.get("properties", {}), set(schema.get("required", ()))
        if unknown := required - set(properties):
            raise self._refusal(f"required: {sorted(unknown)[0]!r}, which is not among the properties,")
        comma = _text(self.notation.comma)
        alternatives: list[str] = []  # each property that may come first, with those that may follow it
        rest = ""
        for key, value in reversed(self.notation.items(properties)):
            member = self._new_rule(f"{self._key(key, top_level)} {self._value(value)}")
            alternatives = [f"{member} {rest}", *([] if key in required else alternatives)]
            rest = self._new_rule(f"({comma} {member}){'' if key in required else '?'} {rest}")
        inner = f"({' | '.join(alternatives)})" + ("" if required else "?") if alternatives else ""
        return f"{_text(begin)} {inner} {_text(end)}"

    def _key(self, key: str, top_level: bool) -> str:
        if self.notation.quoted_keys and not top_level:
            return _text(self.notation.string(key) + ": ")
        if not _PROPERTY_NAME.fullmatch(key):
            raise self._refusal(f"the property name {key!r}")
        return _text(key + (self.notation.assign if top_level else ":"))

    def _rule(self, key: str, make: Callable[[], str], attribute: str = "") -> str:
        """The name of the rule for `key`. Adds the rule on first use; it may be recursive."""
        if key not in self.rule_names:
            name = self.rule_names[key] = f"{self.name}_{len(self.rule_names)}"
            self.rules.append(f"{name}{attribute}: {make()}")
        return self.rule_names[key]

    def _new_rule(self, expression: str) -> str:
        """Adds a rule for an expression that is used more than once, and returns its name."""
        name = f"{self.name}_n{len(self.rules)}"
        self.rules.append(f"{name}: {expression}")
        return name

    def _resolved(self, reference: str) -> Any:
        value: Any = self.root
        try:
            for step in reference.removeprefix("#/").split("/"):
                value = value[step]
        except (KeyError, TypeError) as error:
            raise self._refusal(f"$ref: {reference!r}") from error
        return value

    def _check(self, schema: dict[str, Any], known: set[str], only_type: bool = True) -> None:
        """Refuses keywords outside `known`. If a value may have several types, keywords of the other types are fine."""
        if not only_type:
            known = known | _NUMBER_KEYWORDS | {"minLength", "maxLength", "items", "minItems", "maxItems"}
            known |= {"properties", "required", "additionalProperties"}
        if refused := sorted(constraining_keywords(schema) - known - _ALWAYS_ALLOWED):
            raise self._refusal(refused[0])

    def _refusal(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"{what} cannot be expressed in this model's tool-call format", "tools")


class _LiteralTranscoder:
    """Turns literals into JSON text, character by character."""

    def __init__(self, notation: LiteralNotation) -> None:
        self.done = False
        self._notation = notation
        self._words = {word: name for name, word in notation.words.items()}
        self._depth = 0
        self._closing_quote: str | None = None
        self._word = ""

    def feed(self, text: str) -> tuple[str, int]:
        out: list[str] = []
        at = 0
        while at < len(text) and not self.done:
            consumed = (
                self._read_plain(text, at, out) if self._closing_quote is None else self._read_quoted(text, at, out)
            )
            if not consumed:
                break
            at += consumed
        return "".join(out), at

    def _read_plain(self, text: str, at: int, out: list[str]) -> int:
        char, ahead = text[at], text[at : at + _MAX_QUOTE_LENGTH]
        for begin, end in self._notation.quotes:
            if ahead.startswith(begin):
                self._closing_quote = end
                out.append('"')
                return len(begin)
            if begin.startswith(ahead):
                return 0
        if char in "({[":
            self._depth += 1
            out.append("{" if self._depth == 1 else char)
        elif char in ")}]":
            self._flush_word(out)
            self._depth -= 1
            self.done = self._depth == 0
            out.append("}" if self.done else char)
        elif char == ",":
            self._flush_word(out)
            out.append(", ")
        elif char in ":=":
            out.append((json.dumps(self._word) if self._word else "") + ": ")
            self._word = ""
        elif not char.isspace():
            self._word += char
        return 1

    def _flush_word(self, out: list[str]) -> None:
        out.append(self._words.get(self._word, self._word))
        self._word = ""

    def _read_quoted(self, text: str, at: int, out: list[str]) -> int:
        assert self._closing_quote is not None
        ahead = text[at : at + _MAX_QUOTE_LENGTH]
        if ahead.startswith(self._closing_quote):
            out.append('"')
            consumed, self._closing_quote = len(self._closing_quote), None
            return consumed
        if self._closing_quote.startswith(ahead):
            return 0
        if ahead[0] == "\\" and self._notation.escapes:
            return _escape(ahead, out)
        out.append(json.dumps(ahead[0], ensure_ascii=False)[1:-1])
        return 1


def _escape(ahead: str, out: list[str]) -> int:
    """Translates a backslash escape of Python or JSON. Returns its length, or 0 if it is not complete yet."""
    if len(ahead) < 2:
        return 0
    if ahead[1] == "x":
        if len(ahead) < 4:
            return 0
        out.append("\\u00" + ahead[2:4])
        return 4
    if ahead[1] in '"\\/bfnrtu':
        out.append(ahead[:2])
    elif ahead[1] == "'":
        out.append("'")
    else:
        out.append("\\\\" + json.dumps(ahead[1], ensure_ascii=False)[1:-1])
    return 2


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
