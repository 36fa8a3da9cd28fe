"""Arguments between tags, one by one: texts to the letter, others as JSON. `qwen_xml.py` and `glm.py` say how."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....models.errors import InvalidRequest
from ...types.messages import Tool
from ..structured.json_schema import demands
from .notation import Transcoder, json_rule, parameters

_PROPERTY = re.compile(r"[^\s<>]+")
_TEXT = {"type", "minLength", "maxLength", "enum"}
_OBJECT = {"type", "properties", "required", "additionalProperties"}
_DEFINITIONS = ("$defs", "definitions")


@dataclass(frozen=True)
class TaggedNotation:
    """Each argument as `before`, its name, `behind`, its value, `end` and a newline; `done` stands behind all of them.

    A value is a text as it is, where its schema says that it is one, and else JSON. A newline at the end of `behind`
    is the last thing before the value; other white space may be missing there, or more. `marks` are the tags that may
    be control tokens in a vocabulary.
    """

    before: str
    behind: str
    end: str
    done: str
    marks: tuple[str, ...] = ()

    @property
    def bracket(self) -> str:
        return self.before[0]

    def grammar(self, tool: Tool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        schema = parameters(tool)
        if refused := sorted(demands(schema) - _OBJECT - set(_DEFINITIONS)):
            raise _refusal(refused[0])
        if schema.get("additionalProperties") is not False:
            raise _refusal("additionalProperties")
        required = set(schema.get("required", ()))
        if missing := required - set(schema.get("properties", {})):
            raise _refusal(f"required: {sorted(missing)[0]!r}, which is not among the properties")
        definitions = {key: schema[key] for key in _DEFINITIONS if key in schema}
        behind = spell(self.behind.rstrip()) + (f" {_literal(chr(10))}" if self.behind[-1] == "\n" else "")
        arguments = []
        for i, (key, value) in enumerate(schema.get("properties", {}).items()):
            if not _PROPERTY.fullmatch(key):
                raise _refusal(f"the property name {key!r}")
            end = spell(self.end) if self.end in self.marks else _literal(self.end)
            rules.append(_value_rule(f"{name}_{i}", value, definitions, end))
            argument = f"{spell(self.before)} {_literal(key)} {behind} {name}_{i} ws"
            arguments.append(argument if key in required else f"({argument})?")
        return " ".join([*arguments, spell(self.done)])

    def write(self, arguments: dict[str, Any]) -> str:
        written = (f"{self.before}{key}{self.behind}{_written(v)}{self.end}\n" for key, v in arguments.items())
        return "".join(written) + self.done

    def transcoder(self, tool: Tool) -> Transcoder:
        return _TagTranscoder(self, {k for k, v in parameters(tool).get("properties", {}).items() if _is_text(v)})


def _is_text(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "string" and demands(schema) <= _TEXT


def _value_rule(name: str, schema: Any, definitions: dict[str, Any], end: str) -> str:
    """A rule for a value and the tag behind it, the expression `end`."""
    if not _is_text(schema):
        if isinstance(schema, dict):
            _check_references([schema, definitions])
            schema = {**schema, **definitions}
        return f"{name}: {json_rule(schema)} {end}"
    if "enum" in schema:
        values = " | ".join(_literal(value) for value in schema["enum"])
        return f"{name}: ({values}) {end}"
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    repeat = f"{{{int(least)},{most if most == '' else int(most)}}}"
    lazy = "" if end.startswith("<[") else "[lazy]"
    return f"{name}{lazy}: /(.|\\n){repeat}/ {end}"


def _check_references(value: Any) -> None:
    """Refuses references to anything but definitions, since other places are not where they were."""
    if isinstance(value, dict):
        target = value.get("$ref")
        if isinstance(target, str) and not target.startswith(tuple(f"#/{name}/" for name in _DEFINITIONS)):
            raise _refusal(f"$ref: {target!r}, which is none of $defs")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_references(inner)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _refusal(what: str) -> InvalidRequest:
    return InvalidRequest(f"{what} cannot be written in the way this model calls tools", "tools")


class _TagTranscoder:
    """Turns tagged arguments into a JSON object; those named `texts` are texts."""

    def __init__(self, notation: TaggedNotation, texts: set[str]) -> None:
        self.done = False
        self._notation = notation
        self._texts = texts
        self._begun = False
        self._in_text: bool | None = None

    def feed(self, text: str) -> tuple[str, int]:
        out: list[str] = []
        at = 0
        while not self.done:
            taken = self._tag(text, at, out) if self._in_text is None else self._value(text, at, out)
            if not taken:
                break
            at += taken
        return "".join(out), at

    def _tag(self, text: str, at: int, out: list[str]) -> int:
        """What stands before a value, or the end of all; white space before either."""
        form = self._notation
        start = len(text) - len(text[at:].lstrip())
        if text.startswith(form.done, start):
            out.append("}" if self._begun else "{}")
            self.done = True
            return start + len(form.done) - at
        closing, *opening = form.behind.split()
        end = text.find(closing, start)
        if end < 0 or not text.startswith(form.before, start):
            return 0
        value = end + len(closing)
        for tag in opening:
            value = len(text) - len(text[value:].lstrip())
            if not text.startswith(tag, value):
                return 0
            value += len(tag)
        if form.behind[-1] == "\n":
            if value == len(text):
                return 0
            value += text[value] == "\n"
        key = text[start + len(form.before) : end]
        self._in_text = key in self._texts
        out.append((", " if self._begun else "{") + json.dumps(key, ensure_ascii=False) + ": ")
        out.append('"' if self._in_text else "")
        self._begun = True
        return value - at

    def _value(self, text: str, at: int, out: list[str]) -> int:
        closing = self._notation.end
        end = text.find(closing, at)
        if end < 0:  # it may have begun, from where its first character stands among the last ones
            begun = text.rfind(closing[0], max(at, len(text) - len(closing)))
            begins = begun >= 0 and closing.startswith(text[begun:])
            value = text[at : begun if begins else len(text)]
        else:
            value = text[at:end]
        out.append(json.dumps(value, ensure_ascii=False)[1:-1] if self._in_text else value)
        if end < 0:
            return len(value)
        out.append('"' if self._in_text else "")
        self._in_text = None
        return len(value) + len(closing)
