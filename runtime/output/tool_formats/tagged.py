"""Arguments between tags, one by one: strings verbatim, other values as JSON. Used by `qwen_xml.py` and `glm.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....models.errors import InvalidRequest
from ...types.messages import Tool
from ..structured.json_schema import constraining_keywords
from .notation import Transcoder, json_rule, parameters_schema

_PROPERTY_NAME = re.compile(r"[^\s<>]+")
_STRING_KEYWORDS = {"type", "minLength", "maxLength", "enum"}
_OBJECT_KEYWORDS = {"type", "properties", "required", "additionalProperties"}
_DEFINITIONS = ("$defs", "definitions")


@dataclass(frozen=True)
class TaggedNotation:
    """Each argument is `name_start`, its name, `name_end`, its value, `value_end` and a newline; `end` closes the call.

    A value is verbatim text if its schema says it is a string, and JSON otherwise. A newline at the end of `name_end`
    is the last character before the value; other whitespace may be missing there, or there may be more of it. `tags`
    may be control tokens of a vocabulary.
    """

    name_start: str
    name_end: str
    value_end: str
    end: str
    tags: tuple[str, ...] = ()

    @property
    def bracket(self) -> str:
        return self.name_start[0]

    def grammar(self, tool: Tool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        schema = parameters_schema(tool)
        if refused := sorted(constraining_keywords(schema) - _OBJECT_KEYWORDS - set(_DEFINITIONS)):
            raise _refusal(refused[0])
        if schema.get("additionalProperties") is not False:
            raise _refusal("additionalProperties")
        required = set(schema.get("required", ()))
        if missing := required - set(schema.get("properties", {})):
            raise _refusal(f"required: {sorted(missing)[0]!r}, which is not among the properties,")
        definitions = {key: schema[key] for key in _DEFINITIONS if key in schema}
        name_end = spell(self.name_end.rstrip()) + (f" {_literal(chr(10))}" if self.name_end[-1] == "\n" else "")
        arguments = []
        for i, (key, value) in enumerate(schema.get("properties", {}).items()):
            if not _PROPERTY_NAME.fullmatch(key):
                raise _refusal(f"the property name {key!r}")
            value_end = spell(self.value_end) if self.value_end in self.tags else _literal(self.value_end)
            rules.append(_value_rule(f"{name}_{i}", value, definitions, value_end))
            argument = f"{spell(self.name_start)} {_literal(key)} {name_end} {name}_{i} ws"
            arguments.append(argument if key in required else f"({argument})?")
        return " ".join([*arguments, spell(self.end)])

    def render(self, arguments: dict[str, Any]) -> str:
        rendered = (
            f"{self.name_start}{key}{self.name_end}{_render_value(value)}{self.value_end}\n"
            for key, value in arguments.items()
        )
        return "".join(rendered) + self.end

    def transcoder(self, tool: Tool) -> Transcoder:
        properties = parameters_schema(tool).get("properties", {})
        return _TagTranscoder(self, {name for name, value in properties.items() if _is_string(value)})


def _is_string(schema: Any) -> bool:
    is_typed = isinstance(schema, dict) and schema.get("type") == "string"
    return is_typed and constraining_keywords(schema) <= _STRING_KEYWORDS


def _value_rule(name: str, schema: Any, definitions: dict[str, Any], value_end: str) -> str:
    """A rule for a value and the tag that ends it, given as an expression."""
    if not _is_string(schema):
        if isinstance(schema, dict):
            _check_references([schema, definitions])
            schema = {**schema, **definitions}
        return f"{name}: {json_rule(schema)} {value_end}"
    if "enum" in schema:
        values = " | ".join(_literal(value) for value in schema["enum"])
        return f"{name}: ({values}) {value_end}"
    min_length, max_length = schema.get("minLength", 0), schema.get("maxLength", "")
    repeat = f"{{{int(min_length)},{max_length if max_length == '' else int(max_length)}}}"
    lazy = "" if value_end.startswith("<[") else "[lazy]"
    return f"{name}{lazy}: /(.|\\n){repeat}/ {value_end}"


def _check_references(value: Any) -> None:
    """Refuses references other than to definitions: each property is moved into a schema of its own."""
    if isinstance(value, dict):
        target = value.get("$ref")
        if isinstance(target, str) and not target.startswith(tuple(f"#/{name}/" for name in _DEFINITIONS)):
            raise _refusal(f"$ref: {target!r}, which is not in $defs,")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_references(inner)


def _render_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _refusal(what: str) -> InvalidRequest:
    return InvalidRequest(f"{what} cannot be expressed in this model's tool-call format", "tools")


class _TagTranscoder:
    """Turns tagged arguments into a JSON object. The values of `string_names` are strings."""

    def __init__(self, notation: TaggedNotation, string_names: set[str]) -> None:
        self.done = False
        self._notation = notation
        self._string_names = string_names
        self._has_arguments = False
        self._value_is_string: bool | None = None
        """`None` between two values."""

    def feed(self, text: str) -> tuple[str, int]:
        out: list[str] = []
        at = 0
        while not self.done:
            in_value = self._value_is_string is not None
            consumed = self._read_value(text, at, out) if in_value else self._read_tags(text, at, out)
            if not consumed:
                break
            at += consumed
        return "".join(out), at

    def _read_tags(self, text: str, at: int, out: list[str]) -> int:
        """Reads the tags before a value, or the end of the call, and whitespace before either."""
        notation = self._notation
        start = len(text) - len(text[at:].lstrip())
        if text.startswith(notation.end, start):
            out.append("}" if self._has_arguments else "{}")
            self.done = True
            return start + len(notation.end) - at
        closing_tag, *opening_tags = notation.name_end.split()
        name_end = text.find(closing_tag, start)
        if name_end < 0 or not text.startswith(notation.name_start, start):
            return 0
        value = name_end + len(closing_tag)
        for tag in opening_tags:
            value = len(text) - len(text[value:].lstrip())
            if not text.startswith(tag, value):
                return 0
            value += len(tag)
        if notation.name_end[-1] == "\n":
            if value == len(text):
                return 0
            value += text[value] == "\n"
        name = text[start + len(notation.name_start) : name_end]
        self._value_is_string = name in self._string_names
        out.append((", " if self._has_arguments else "{") + json.dumps(name, ensure_ascii=False) + ": ")
        out.append('"' if self._value_is_string else "")
        self._has_arguments = True
        return value - at

    def _read_value(self, text: str, at: int, out: list[str]) -> int:
        tag = self._notation.value_end
        end = text.find(tag, at)
        if end < 0:  # the last characters may be the start of the tag
            start = text.rfind(tag[0], max(at, len(text) - len(tag)))
            starts_tag = start >= 0 and tag.startswith(text[start:])
            value = text[at : start if starts_tag else len(text)]
        else:
            value = text[at:end]
        out.append(json.dumps(value, ensure_ascii=False)[1:-1] if self._value_is_string else value)
        if end < 0:
            return len(value)
        out.append('"' if self._value_is_string else "")
        self._value_is_string = None
        return len(value) + len(tag)
