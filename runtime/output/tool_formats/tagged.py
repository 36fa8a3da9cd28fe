"""Arguments between tags, one by one: texts verbatim, other values as JSON. Used by `qwen_xml.py` and `glm.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...types.messages import Tool
from ..structured.branches import TooManyBranches, branches
from ..structured.references import escaped
from .notation import EnforcedTool, Transcoder, json_rule, object_branches
from .texts import UNWRITABLE_NAME, other_names, text_branches, text_rule

_PROPERTY_NAME = re.compile(r"[^\s<>](?:[^<>\r\n]*[^\s<>])?")
_OTHER_NAME = "[A-Za-z_][A-Za-z0-9_.-]{0,63}"
_UNWRITABLE = ("patternProperties", "minProperties", "maxProperties", "enum")


@dataclass(frozen=True)
class TaggedNotation:
    """Each argument is `name_start`, its name, `name_end`, its value, `value_end` and a newline; `end` closes the call.

    A value is verbatim text if its schema allows only texts, and JSON otherwise. A newline at the end of `name_end`
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

    def grammar(self, tool: EnforcedTool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        is_text = _text_names(tool.schema)
        alternatives = [self._arguments(branch, tool, is_text, name, rules, spell) for branch in object_branches(tool)]
        listed = alternatives[0] if len(alternatives) == 1 else f"({' | '.join(f'({one})' for one in alternatives)})"
        return f"{listed} {spell(self.end)}"

    def _arguments(
        self,
        branch: dict[str, Any],
        tool: EnforcedTool,
        is_text: Callable[[str], bool],
        name: str,
        rules: list[str],
        spell: Callable[[str], str],
    ) -> str:
        required = branch.get("required", ())
        other = branch.get("additionalProperties", False)
        properties = branch.get("properties", {})
        is_map = not properties and not required
        for keyword in _UNWRITABLE:
            if keyword in branch and not (is_map and keyword in ("minProperties", "maxProperties")):
                tool.cannot_write(keyword, "#")
        properties = properties | {key: other or True for key in required if key not in properties}
        arguments = []
        for key, value in properties.items():
            place = f"#/properties/{escaped(key)}"
            if not _PROPERTY_NAME.fullmatch(key) or self.value_end in key:
                tool.omissions.omit("the property", place, UNWRITABLE_NAME)
                continue
            rule = self._value(value, tool, place, is_text(key), name, rules, spell)
            if rule is None:
                if key in required:
                    tool.omissions.omit("required", "#", f"names {key!r}, for which no value is allowed")
                continue
            argument = self._argument(key, rule, spell)
            arguments.append(argument if key in required else f"({argument})?")
        if other is not False:
            rule = self._value(other, tool, "#/additionalProperties", is_text(""), name, rules, spell) or ""
            key_rule = f"{name}_K{len(rules)}".upper()
            rules.append(f"{key_rule}: {other_names(list(properties), _OTHER_NAME)}")
            counts = f"{{{branch.get('minProperties', 0)},{branch.get('maxProperties', '')}}}" if is_map else "*"
            arguments.append(f"({self._argument_named(key_rule, rule, spell)}){counts}")
        return " ".join(arguments)

    def _argument(self, key: str, value_rule: str, spell: Callable[[str], str]) -> str:
        if not self.tags:  # one literal: llguidance has a limit for the symbols of a grammar
            return f"{_literal(self.name_start + key + self.name_end)} {value_rule} ws"
        return self._argument_named(_literal(key), value_rule, spell)

    def _argument_named(self, key: str, value_rule: str, spell: Callable[[str], str]) -> str:
        """An argument whose name is an expression."""
        name_end = spell(self.name_end.rstrip()) + (f" {_literal(chr(10))}" if self.name_end[-1] == "\n" else "")
        return f"{spell(self.name_start)} {key} {name_end} {value_rule} ws"

    def _value(
        self,
        schema: Any,
        tool: EnforcedTool,
        place: str,
        is_text: bool,
        name: str,
        rules: list[str],
        spell: Callable[[str], str],
    ) -> str | None:
        """The name of a rule for a value and the tag that ends it, or `None` if no value is allowed."""
        value_end = spell(self.value_end) if self.value_end in self.tags else _literal(self.value_end)
        texts = text_branches(schema, tool.definitions) if is_text else None
        rule = f"{name}_{len(rules)}"
        if schema is False:
            return None
        if texts is None:
            schema = schema if isinstance(schema, dict) else {}
            definitions = {"$defs": tool.definitions} if tool.definitions else {}
            rules.append(f"{rule}: {json_rule({**schema, **definitions})} {value_end}")
            return rule
        alternatives = [text_rule(branch, value_end, tool, place, name, rules) for branch in texts]
        allowed = [alternative for alternative in alternatives if alternative is not None]
        return f"({' | '.join(allowed)})" if allowed else None

    def render(self, arguments: dict[str, Any]) -> str:
        rendered = (
            f"{self.name_start}{key}{self.name_end}{_render_value(value)}{self.value_end}\n"
            for key, value in arguments.items()
        )
        return "".join(rendered) + self.end

    def transcoder(self, tool: Tool) -> Transcoder:
        return _TagTranscoder(self, _text_names(tool.parameters or {}))


def _text_names(schema: dict[str, Any]) -> Callable[[str], bool]:
    """Tells by its name whether an argument is a text in every alternative of the schema."""
    definitions = schema.get("$defs", {})
    try:
        alternatives = branches(schema, definitions)
    except TooManyBranches:
        alternatives = [schema]
    listed: dict[str, bool] = {}
    for branch in alternatives:
        for name, value in branch.get("properties", {}).items():
            if value is not False:
                listed[name] = listed.get(name, True) and text_branches(value, definitions) is not None
    others = [branch["additionalProperties"] for branch in alternatives if branch.get("additionalProperties", False)]
    other_texts = bool(others) and all(text_branches(other, definitions) is not None for other in others)
    return lambda name: listed.get(name, other_texts)


def _render_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class _TagTranscoder:
    """Turns tagged arguments into a JSON object. `is_text` tells by its name whether an argument is a string."""

    def __init__(self, notation: TaggedNotation, is_text: Callable[[str], bool]) -> None:
        self.done = False
        self._notation = notation
        self._is_text = is_text
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
        self._value_is_string = self._is_text(name)
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
