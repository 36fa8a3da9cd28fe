"""Arguments written as literals of another language than JSON: a grammar from the schema, and a reader to JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ....models.errors import InvalidRequest
from ...types.messages import Tool
from ..structured.json_schema import demands
from .notation import Transcoder, json_rule, parameters

_EVERYWHERE = {"type", "$defs", "definitions"}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_STRINGS = {"minLength", "maxLength", "pattern", "format"}
_PROPERTY = re.compile(r"[A-Za-z_][\w-]*")
_TYPES = ("string", "number", "boolean", "null", "array", "object")
_LONGEST_MARK = 16


@dataclass(frozen=True)
class LiteralNotation:
    """Values as a language writes them.

    `words` are those for true, false and null; strings stand between `quotes`, the first pair being the one that is
    written, and know backslashes where `escapes` says so. Arguments stand between `brackets`, their names, and those
    of inner objects unless `quoted_keys`, are bare, and followed by `assign`. `sorted_keys` are written in order.
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
    def marks(self) -> tuple[str, ...]:
        return self.quotes[0] if len(self.quotes[0][0]) > 1 else ()

    def write(self, arguments: dict[str, Any]) -> str:
        begin, end = self.brackets
        return begin + self.comma.join(f"{k}{self.assign}{self._value(v)}" for k, v in self._items(arguments)) + end

    def _items(self, value: Mapping[str, Any]) -> list[tuple[str, Any]]:
        return sorted(value.items(), key=lambda item: item[0].lower()) if self.sorted_keys else list(value.items())

    def _value(self, value: Any) -> str:
        if isinstance(value, str):
            return self._string(value)
        if isinstance(value, list):
            return "[" + self.comma.join(map(self._value, value)) + "]"
        if isinstance(value, dict):
            items = ((self._string(k) + ": " if self.quoted_keys else k + ":", v) for k, v in self._items(value))
            return "{" + self.comma.join(k + self._value(v) for k, v in items) + "}"
        written = json.dumps(value)
        return self.words.get(written, written)

    def _string(self, text: str) -> str:
        begin, end = self.quotes[0]
        return json.dumps(text, ensure_ascii=False) if self.escapes else begin + text + end

    def transcoder(self, tool: Tool) -> Transcoder:
        return _LiteralTranscoder(self)

    def grammar(self, tool: Tool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        return _Schema(self, parameters(tool), name, rules, spell).arguments()


@dataclass
class _Schema:
    """Makes the grammar of one tool's arguments. Every keyword is enforced, or refused by name."""

    notation: LiteralNotation
    root: dict[str, Any]
    name: str
    rules: list[str]
    spell: Callable[[str], str]
    named: dict[str, str] = field(default_factory=dict)

    def arguments(self) -> str:
        begin, end = self.notation.brackets
        return self._object(self.root, begin, end, outermost=True)

    def _value(self, schema: Any) -> str:
        if schema is True or schema == {}:
            return self._rule("any", lambda: " | ".join(self._typed({}, kind) for kind in _TYPES))
        if not isinstance(schema, dict):
            raise self._refusal(f"the schema {schema!r}")
        if "$ref" in schema:
            return self._rule(str(schema["$ref"]), lambda: self._value(self._resolved(schema["$ref"])))
        if "enum" in schema or "const" in schema:
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            return "(" + " | ".join(self.spell_value(v) for v in values) + ")"
        if "anyOf" in schema:
            self._check(schema, {"anyOf"})
            return "(" + " | ".join(map(self._value, schema["anyOf"])) + ")"
        kinds = schema.get("type", "object" if "properties" in schema else _TYPES)
        kinds = [kinds] if isinstance(kinds, str) else kinds
        return "(" + " | ".join(self._typed(schema, kind) for kind in kinds) + ")"

    def spell_value(self, value: Any) -> str:
        """A literal, its marks spelled as the vocabulary has them and its text to the letter."""
        if isinstance(value, str) and not self.notation.escapes:
            begin, end = self.notation.quotes[0]
            return f"{self.spell(begin)} {_text(value)} {self.spell(end)}"
        return _text(self.notation._value(value))

    def _typed(self, schema: dict[str, Any], kind: str) -> str:
        words, single = self.notation.words, len(schema) <= 1 or not isinstance(schema.get("type"), list)
        if kind in ("integer", "number"):
            bounded = _NUMBERS | {"format"}
            self._check(schema, bounded, single)
            bounds = {k: v for k, v in schema.items() if k in bounded}
            return json_rule({"type": kind, **bounds})
        if kind == "string":
            return self._string(schema, single)
        if kind == "boolean":
            self._check(schema, set(), single)
            return f"({_text(words.get('true', 'true'))} | {_text(words.get('false', 'false'))})"
        if kind == "null":
            self._check(schema, set(), single)
            return _text(words.get("null", "null"))
        if kind == "array":
            return self._array(schema, single)
        if kind == "object":
            return self._object(schema, "{", "}", single=single)
        raise self._refusal(f"the type {kind!r}")

    def _string(self, schema: dict[str, Any], single: bool) -> str:
        self._check(schema, _STRINGS if self.notation.escapes else {"minLength", "maxLength"}, single)
        limits = {k: v for k, v in schema.items() if k in _STRINGS}
        if self.notation.escapes:
            return json_rule({"type": "string", **limits})
        begin, end = map(self.spell, self.notation.quotes[0])
        least, most = limits.get("minLength", 0), limits.get("maxLength", "")
        key = f"string {least} {most}"
        lazy = "" if end.startswith("<[") else "[lazy]"
        repeat = f"{{{least},{most}}}" if limits else "*"
        return f"{begin} " + self._rule(key, lambda: f"/(.|\\n){repeat}/ {end}", lazy)

    def _array(self, schema: dict[str, Any], single: bool) -> str:
        self._check(schema, {"items", "minItems", "maxItems"}, single)
        item, comma = self._new(self._value(schema.get("items", True))), _text(self.notation.comma)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        more = f"({comma} {item}){{{max(least - 1, 0)},{'' if most is None else max(most - 1, 0)}}}"
        inner = "" if most == 0 else f"({item} {more})" + ("" if least else "?")
        return f'"[" {inner} "]"'

    def _object(
        self, schema: dict[str, Any], begin: str, end: str, *, outermost: bool = False, single: bool = True
    ) -> str:
        self._check(schema, {"properties", "required", "additionalProperties"}, single)
        if schema.get("additionalProperties", False) is not False:
            raise self._refusal("additionalProperties")
        properties, required = schema.get("properties", {}), set(schema.get("required", ()))
        if unknown := required - set(properties):
            raise self._refusal(f"required: {sorted(unknown)[0]!r}, which is not among the properties")
        comma = _text(self.notation.comma)
        firsts: list[str] = []  # what may stand before any comma, and what follows it
        rest = ""
        for key, value in reversed(self.notation._items(properties)):
            member = self._new(f"{self._key(key, outermost)} {self._value(value)}")
            firsts = [f"{member} {rest}", *([] if key in required else firsts)]
            rest = self._new(f"({comma} {member}){'' if key in required else '?'} {rest}")
        inner = f"({' | '.join(firsts)})" + ("" if required else "?") if firsts else ""
        return f"{_text(begin)} {inner} {_text(end)}"

    def _key(self, key: str, outermost: bool) -> str:
        if self.notation.quoted_keys and not outermost:
            return _text(self.notation._string(key) + ": ")
        if not _PROPERTY.fullmatch(key):
            raise self._refusal(f"the property name {key!r}")
        return _text(key + (self.notation.assign if outermost else ":"))

    def _rule(self, key: str, make: Callable[[], str], attribute: str = "") -> str:
        """The name of the rule for `key`, made when it is first asked for; it may speak of itself."""
        if key not in self.named:
            name = self.named[key] = f"{self.name}_{len(self.named)}"
            self.rules.append(f"{name}{attribute}: {make()}")
        return self.named[key]

    def _new(self, expression: str) -> str:
        """A rule of its own, so that what is said twice is written once."""
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

    def _check(self, schema: dict[str, Any], known: set[str], single: bool = True) -> None:
        """Refuses what is not `known`; where a value may have several types, each answers for its own keywords only."""
        every = known if single else known | _NUMBERS | {"minLength", "maxLength", "items", "minItems", "maxItems"}
        every = every if single else every | {"properties", "required", "additionalProperties"}
        if refused := sorted(demands(schema) - every - _EVERYWHERE):
            raise self._refusal(refused[0])

    def _refusal(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"{what} cannot be written in the way this model calls tools", "tools")


class _LiteralTranscoder:
    """Turns literals into JSON text, character by character."""

    def __init__(self, notation: LiteralNotation) -> None:
        self.done = False
        self._notation = notation
        self._words = {word: name for name, word in notation.words.items()}
        self._depth = 0
        self._end: str | None = None
        self._word = ""

    def feed(self, text: str) -> tuple[str, int]:
        out: list[str] = []
        at = 0
        while at < len(text) and not self.done:
            taken = self._plain(text, at, out) if self._end is None else self._quoted(text, at, out)
            if not taken:
                break
            at += taken
        return "".join(out), at

    def _plain(self, text: str, at: int, out: list[str]) -> int:
        char, ahead = text[at], text[at : at + _LONGEST_MARK]
        for begin, end in self._notation.quotes:
            if ahead.startswith(begin):
                self._end = end
                out.append('"')
                return len(begin)
            if begin.startswith(ahead):
                return 0
        if char in "({[":
            self._depth += 1
            out.append("{" if self._depth == 1 else char)
        elif char in ")}]":
            self._flush(out)
            self._depth -= 1
            self.done = self._depth == 0
            out.append("}" if self.done else char)
        elif char == ",":
            self._flush(out)
            out.append(", ")
        elif char in ":=":
            out.append((json.dumps(self._word) if self._word else "") + ": ")
            self._word = ""
        elif not char.isspace():
            self._word += char
        return 1

    def _flush(self, out: list[str]) -> None:
        out.append(self._words.get(self._word, self._word))
        self._word = ""

    def _quoted(self, text: str, at: int, out: list[str]) -> int:
        assert self._end is not None
        ahead = text[at : at + _LONGEST_MARK]
        if ahead.startswith(self._end):
            out.append('"')
            taken, self._end = len(self._end), None
            return taken
        if self._end.startswith(ahead):
            return 0
        if ahead[0] == "\\" and self._notation.escapes:
            return _escape(ahead, out)
        out.append(json.dumps(ahead[0], ensure_ascii=False)[1:-1])
        return 1


def _escape(ahead: str, out: list[str]) -> int:
    """A backslash and what it stands for, in Python's strings as in JSON's; 0 where that is not known yet."""
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
