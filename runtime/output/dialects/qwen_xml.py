"""Qwen 3.5 and Qwen3-Coder: a tag for the function and one for each argument, texts in it to the letter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ....models.errors import InvalidRequest
from ...values import Tool
from .dialect import Dialect
from .notation import SPACING, Transcoder, parameters

_PROPERTY = re.compile(r"[^\s<>]+")
_PLAIN = {"type", "description", "title", "default", "examples", "minLength", "maxLength", "enum"}
_KNOWN = {"type", "properties", "required", "additionalProperties", "title", "description", "$defs", "$schema"}
_BEGIN, _END, _DONE = "<parameter=", "\n</parameter>", "</function>"


class TaggedNotation:
    """Every argument between tags: a text as it is, where its schema says that it is one, anything else as JSON."""

    bracket = "<"
    marks: tuple[str, ...] = ()

    def grammar(self, tool: Tool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        try:
            return self._grammar(parameters(tool), f"{tool.name}.parameters", name, rules)
        except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
            raise InvalidRequest(f"{tool.name}.parameters are no JSON schema: {error}", "tools") from error

    def _grammar(self, schema: dict[str, Any], where: str, name: str, rules: list[str]) -> str:
        if unknown := sorted(set(schema) - _KNOWN):
            raise _refusal(where, unknown[0])
        if schema.get("additionalProperties") is not False:
            raise _refusal(where, "additionalProperties")
        required = set(schema.get("required", ()))
        if missing := required - set(schema.get("properties", {})):
            raise _refusal(where, f"required: {sorted(missing)[0]!r}, which is not among the properties")
        arguments = []
        for i, (key, value) in enumerate(schema.get("properties", {}).items()):
            if not _PROPERTY.fullmatch(key):
                raise _refusal(where, f"the property name {key!r}")
            rules.append(_value_rule(f"{name}_{i}", value, schema.get("$defs")))
            argument = f"{_literal(f'{_BEGIN}{key}>' + chr(10))} {name}_{i} {_literal(chr(10))}"
            arguments.append(argument if key in required else f"({argument})?")
        return " ".join([*arguments, _literal(_DONE)])

    def write(self, arguments: dict[str, Any]) -> str:
        written = (f"{_BEGIN}{key}>\n{_written(value)}{_END}\n" for key, value in arguments.items())
        return "".join(written) + _DONE

    def transcoder(self, tool: Tool) -> Transcoder:
        return _TagTranscoder({k for k, v in parameters(tool).get("properties", {}).items() if _is_text(v)})


def _is_text(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "string" and set(schema) <= _PLAIN


def _value_rule(name: str, schema: Any, defs: Any) -> str:
    """A rule for a value and the tag behind it."""
    if not _is_text(schema):
        whole = {"x-guidance": SPACING, **(schema if isinstance(schema, dict) else {})}
        whole |= {} if defs is None else {"$defs": defs}
        return f"{name}: %json {json.dumps(whole)} {_literal(_END)}"
    if "enum" in schema:
        values = " | ".join(_literal(value) for value in schema["enum"])
        return f"{name}: ({values}) {_literal(_END)}"
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    repeat = f"{{{int(least)},{most if most == '' else int(most)}}}"
    return f"{name}[lazy]: /(.|\\n){repeat}/ {_literal(_END)}"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _refusal(where: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {what} cannot be enforced in the way this model calls tools", "tools")


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
    detects=("<function=",),
    opening="<tool_call>\n",
    head="<function=",
    middle=">\n",
    tail="",
    closing="\n</tool_call>",
    notation=TaggedNotation(),
)
