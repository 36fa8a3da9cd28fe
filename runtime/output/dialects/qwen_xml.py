"""Qwen 3.5, Qwen3-Coder and Seed: a tag for the function and one for each argument, texts in it to the letter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ....models.errors import InvalidRequest
from ...values import Tool
from ..schema import demands
from .dialect import Dialect
from .notation import Transcoder, json_rule, parameters

_PROPERTY = re.compile(r"[^\s<>]+")
_TEXT = {"type", "minLength", "maxLength", "enum"}
_OBJECT = {"type", "properties", "required", "additionalProperties"}
_DEFINITIONS = ("$defs", "definitions")
_BEGIN, _END, _DONE = "<parameter=", "\n</parameter>", "</function>"


class TaggedNotation:
    """Every argument between tags: a text as it is, where its schema says that it is one, anything else as JSON."""

    bracket = "<"
    marks: tuple[str, ...] = ()

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
        arguments = []
        for i, (key, value) in enumerate(schema.get("properties", {}).items()):
            if not _PROPERTY.fullmatch(key):
                raise _refusal(f"the property name {key!r}")
            rules.append(_value_rule(f"{name}_{i}", value, definitions))
            argument = f"{_literal(f'{_BEGIN}{key}>' + chr(10))} {name}_{i} {_literal(chr(10))}"
            arguments.append(argument if key in required else f"({argument})?")
        return " ".join([*arguments, _literal(_DONE)])

    def write(self, arguments: dict[str, Any]) -> str:
        written = (f"{_BEGIN}{key}>\n{_written(value)}{_END}\n" for key, value in arguments.items())
        return "".join(written) + _DONE

    def transcoder(self, tool: Tool) -> Transcoder:
        return _TagTranscoder({k for k, v in parameters(tool).get("properties", {}).items() if _is_text(v)})


def _is_text(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "string" and demands(schema) <= _TEXT


def _value_rule(name: str, schema: Any, definitions: dict[str, Any]) -> str:
    """A rule for a value and the tag behind it."""
    if not _is_text(schema):
        if isinstance(schema, dict):
            _check_references([schema, definitions])
            schema = {**schema, **definitions}
        return f"{name}: {json_rule(schema)} {_literal(_END)}"
    if "enum" in schema:
        values = " | ".join(_literal(value) for value in schema["enum"])
        return f"{name}: ({values}) {_literal(_END)}"
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    repeat = f"{{{int(least)},{most if most == '' else int(most)}}}"
    return f"{name}[lazy]: /(.|\\n){repeat}/ {_literal(_END)}"


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

    def __init__(self, texts: set[str]) -> None:
        self.done = False
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
        """An opening tag, or the end of all; white space before either."""
        start = len(text) - len(text[at:].lstrip())
        if text.startswith(_DONE, start):
            out.append("}" if self._begun else "{}")
            self.done = True
            return start + len(_DONE) - at
        end = text.find(">", start)
        if end < 0 or not text.startswith(_BEGIN, start) or end + 1 == len(text):
            return 0
        key = text[start + len(_BEGIN) : end]
        self._in_text = key in self._texts
        out.append((", " if self._begun else "{") + json.dumps(key, ensure_ascii=False) + ": ")
        out.append('"' if self._in_text else "")
        self._begun = True
        return end + 1 + (text[end + 1] == "\n") - at

    def _value(self, text: str, at: int, out: list[str]) -> int:
        end = text.find(_END, at)
        if end < 0:  # the end may have begun, from any newline among the last characters on
            begun = text.rfind("\n", max(at, len(text) - len(_END)))
            begins = begun >= 0 and _END.startswith(text[begun:])
            value = text[at : begun if begins else len(text)]
        else:
            value = text[at:end]
        out.append(json.dumps(value, ensure_ascii=False)[1:-1] if self._in_text else value)
        if end < 0:
            return len(value)
        out.append('"' if self._in_text else "")
        self._in_text = None
        return len(value) + len(_END)


QWEN_XML = Dialect(
    name="qwen-xml",
    detects=("<parameter=",),
    opening="<tool_call>\n",
    head="<function=",
    middle=">\n",
    tail="",
    closing="\n</tool_call>",
    notation=TaggedNotation(),
)

SEED = replace(
    QWEN_XML,
    name="seed",
    detects=("<seed:tool_call>",),
    opening="<seed:tool_call>\n",
    closing="\n</seed:tool_call>",
)
