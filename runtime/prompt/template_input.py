"""Converts turns and tools to the form that a chat template expects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any

from ...models.errors import TemplateRefusal
from ..output.tool_formats.tool_format import ToolFormat, template_tool
from ..types.messages import Tool, ToolCall
from .template import ChatTemplate, TemplateMessage
from .turns import SYSTEM_ROLES, Turn

_PROBE = "galago-probe"
_USER = {"role": "user", "content": "Hi"}
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""The names that templates use for an assistant's reasoning."""


class TemplateInput:
    """Makes the variables of one chat template."""

    def __init__(self, template: ChatTemplate, tool_format: ToolFormat) -> None:
        self._template = template
        self._tool_format = tool_format
        self.has_format = bool(tool_format.template_markers)
        """Whether the template has a form of calls that the parser knows."""

    def messages(self, turns: Sequence[Turn]) -> list[TemplateMessage]:
        return [self._message(turn) for turn in turns]

    def tools(self, tools: Sequence[Tool], messages: list[TemplateMessage]) -> list[dict[str, Any]]:
        """The tools for the template, which some templates expect in the system message."""
        template_tools = [template_tool(tool) for tool in tools]
        if self._tool_format.tools_in_system:
            functions = [tool["function"] for tool in template_tools]
            _system_message(messages)["tools"] = json.dumps(functions, ensure_ascii=False)
        return template_tools

    def explain(self, tools: Sequence[Tool], messages: list[TemplateMessage], *, in_system: bool) -> None:
        """Explains the tools in the system message, or else in the user's first message."""
        if in_system:
            first = _system_message(messages)
        else:
            first = next((m for m in messages if m["role"] == "user"), messages[0])
        texts = [first["content"] or "", self._tool_format.instructions(tools)]
        first["content"] = "\n\n".join(texts if in_system else reversed(texts)).strip()

    @cached_property
    def call_style(self) -> tuple[bool, str | None] | None:
        """How the template takes calls, if it shows any: whether arguments are text, and the content next to calls."""
        result = {"role": "tool", "tool_call_id": "abcdefghi", "name": "f", "content": _PROBE}

        def shows_result(style: tuple[bool, str | None]) -> bool:
            as_text, empty_content = style
            calling = calling_message("{}" if as_text else {}, empty_content)
            return _PROBE in rendered(self._template, [_USER, calling, result])

        styles = _call_styles(self._template) if self.has_format else iter(())
        return max(styles, key=shows_result, default=None)

    @property
    def empty_content(self) -> str | None:
        """The content of a message that only calls tools: `None`, or an empty text if the template needs one."""
        return "" if self.call_style is None else self.call_style[1]

    def _message(self, turn: Turn) -> TemplateMessage:
        message: TemplateMessage = {"role": turn.role, "content": turn.content}
        if turn.name is not None:
            message["name"] = turn.name
        if turn.reasoning:
            message |= {key: turn.reasoning for key in REASONING_KEYS if key in self._template.source}
        if turn.call_id is not None:
            message["tool_call_id"] = self._id(turn.call_id)
        if turn.calls:
            message["content"] = turn.content or self.empty_content
            message["tool_calls"] = [self._call(call) for call in turn.calls]
        return message

    def _call(self, call: ToolCall) -> dict[str, Any]:
        as_text = self.call_style is not None and self.call_style[0]
        function = {"name": call.name, "arguments": call.arguments if as_text else json.loads(call.arguments)}
        return {"id": self._id(call.id), "type": "function", "function": function}

    def _id(self, text: str) -> str:
        """An id in the form that the template accepts. The same id always gives the same result."""
        length = self._tool_format.id_length
        if length is None or (len(text) == length and text.isascii() and text.isalnum()):
            return "".join(c for c in text if c.isascii() and (c.isalnum() or c in "-_"))
        return blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()[:length]


def _call_styles(template: ChatTemplate) -> Iterator[tuple[bool, str | None]]:
    """The ways in which the template shows calls: whether arguments are text, and the content next to the calls.

    No content is tried first: some templates, such as DeepSeek R1's, show calls only then, or else add an empty answer.
    """
    arguments = {"galago_key": _PROBE}
    for empty_content in (None, ""):
        for as_text, given in ((False, arguments), (True, json.dumps(arguments))):
            text = rendered(template, [_USER, calling_message(given, empty_content)])
            as_python_repr = "'galago_key'" in text or (empty_content is None and "None" in text)
            if _PROBE in text and not as_python_repr:
                yield as_text, empty_content


def calling_message(arguments: object, content: str | None) -> dict[str, Any]:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def rendered(template: ChatTemplate, messages: list[dict[str, Any]]) -> str:
    try:
        return template.render(messages)
    except TemplateRefusal:
        return ""


def _system_message(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The system message; adds an empty one if there is none."""
    if messages[0]["role"] not in SYSTEM_ROLES:
        messages.insert(0, {"role": "system", "content": ""})
    return messages[0]
