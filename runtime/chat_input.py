"""Reads messages and tools that Python programs pass as dictionaries, in the form of the OpenAI API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..models.errors import InvalidRequest
from .types.messages import Message, Role, Text, Tool, ToolCall

ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")
_OPTIONAL_KEYS = {"assistant": {"tool_calls", "reasoning_content"}, "tool": {"tool_call_id"}}
_TOOL_CHOICES = ("auto", "none", "required")


def message(given: object) -> Message:
    """Reads `{"role": ..., "content": text}`, with `tool_calls` from an assistant and `tool_call_id` from a tool."""
    if isinstance(given, Message):
        return given
    if not isinstance(given, dict) or given.get("role") not in ROLES:
        raise _not_a_message(given)
    role, calls, call_id = given["role"], given.get("tool_calls") or (), given.get("tool_call_id")
    content = given.get("content", "" if calls else None)
    content = "" if content is None and calls else content
    if not isinstance(content, str) or set(given) - {"role", "content", *_OPTIONAL_KEYS.get(role, ())}:
        raise _not_a_message(given)
    if role == "tool" and not isinstance(call_id, str):
        raise InvalidRequest(f"a tool message needs the 'tool_call_id' of the call it answers: {given!r}", "prompt")
    parts = (Text(content),) if content or not calls else ()
    return Message(role, parts, None, tuple(map(_tool_call, calls)), given.get("reasoning_content"), call_id)


def _not_a_message(given: object) -> InvalidRequest:
    form = f"{{'role': {'|'.join(ROLES)}, 'content': text}}"
    return InvalidRequest(f"a message must be {form}, not {given!r}", "prompt")


def _tool_call(given: object) -> ToolCall:
    if isinstance(given, ToolCall):
        return given
    match given:
        case {"id": str(call_id), "function": {"name": str(name), "arguments": str(arguments)}}:
            return ToolCall(call_id, name, arguments)
    form = "{'id': ..., 'function': {'name': ..., 'arguments': JSON text}}"
    raise InvalidRequest(f"a tool call must be {form}, not {given!r}", "prompt")


def tools(given: Sequence[Tool | Mapping[str, Any]]) -> tuple[Tool, ...]:
    """Reads tools: `{"name": ..., "description": ..., "parameters": schema}`, or that within `{"function": ...}`."""
    return tuple(map(_tool, given))


def _tool(given: object) -> Tool:
    if isinstance(given, Tool):
        return given
    function = given.get("function", given) if isinstance(given, dict) else None
    match function:
        case {"name": str(name), **rest}:
            description, parameters = rest.get("description"), rest.get("parameters")
            if isinstance(description, str | None) and isinstance(parameters, dict | None):
                return Tool(name, description, parameters)
    form = "{'name': ..., 'description': ..., 'parameters': ...}"
    raise InvalidRequest(f"a tool must be {form}, not {given!r}", "tools")


def tool_choice(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Request` for a tool choice: auto, none, required, or the name of the tool to call."""
    match given:
        case {"function": {"name": str(name)}}:
            return _one_tool(name)
        case str():
            return {"tool_choice": given} if given in _TOOL_CHOICES else _one_tool(given)
    choices = ", ".join(_TOOL_CHOICES)
    raise InvalidRequest(f"tool_choice must be {choices} or the name of a tool, not {given!r}", "tool_choice")


def _one_tool(name: str) -> dict[str, Any]:
    return {"tool_choice": "required", "allowed_tools": (name,), "parallel_tool_calls": False}
