"""Messages and tools given as dictionaries, in the OpenAI API's shapes, for scripts. Knows no media and no HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..models.errors import InvalidRequest
from .types.messages import Message, Role, Text, Tool, ToolCall

ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")
_OPTIONAL = {"assistant": {"tool_calls", "reasoning_content"}, "tool": {"tool_call_id"}}
_CHOICES = ("auto", "none", "required")


def message(given: object) -> Message:
    """`{"role": ..., "content": text}`; an assistant's may have `tool_calls`, a tool's has its `tool_call_id`."""
    if isinstance(given, Message):
        return given
    role = given.get("role") if isinstance(given, dict) else None
    if not isinstance(given, dict) or role not in ROLES or set(given) - {"role", "content", *_OPTIONAL.get(role, ())}:
        raise InvalidRequest(f"a message is {{'role': {'|'.join(ROLES)}, 'content': text}}, not {given!r}", "prompt")
    content = given.get("content", "" if given.get("tool_calls") else None)
    content = "" if content is None and given.get("tool_calls") else content
    if not isinstance(content, str):
        raise InvalidRequest(f"a message is {{'role': {'|'.join(ROLES)}, 'content': text}}, not {given!r}", "prompt")
    answers, calls = given.get("tool_call_id"), given.get("tool_calls") or ()
    if role == "tool" and not isinstance(answers, str):
        raise InvalidRequest(f"a tool's message needs the 'tool_call_id' of the call it answers: {given!r}", "prompt")
    parts = (Text(content),) if content or not calls else ()
    return Message(role, parts, None, tuple(map(_call, calls)), given.get("reasoning_content"), answers)


def _call(given: object) -> ToolCall:
    if isinstance(given, ToolCall):
        return given
    match given:
        case {"id": str(call_id), "function": {"name": str(name), "arguments": str(arguments)}}:
            return ToolCall(call_id, name, arguments)
    raise InvalidRequest(
        f"a call is {{'id': ..., 'function': {{'name': ..., 'arguments': JSON text}}}}, not {given!r}", "prompt"
    )


def tools(given: Sequence[Tool | Mapping[str, Any]]) -> tuple[Tool, ...]:
    """Functions as `{"name": ..., "description": ..., "parameters": JSON schema}`, or within `{"function": ...}`."""
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
    raise InvalidRequest(f"a tool is {{'name': ..., 'description': ..., 'parameters': ...}}, not {given!r}", "tools")


def choice(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """What `Request` holds of a tool choice: auto, none, required, or the name of the tool to call."""
    match given:
        case {"function": {"name": str(name)}}:
            return _named(name)
        case str():
            return {"tool_choice": given} if given in _CHOICES else _named(given)
    raise InvalidRequest(f"tool_choice is {', '.join(_CHOICES)} or a tool's name, not {given!r}", "tool_choice")


def _named(name: str) -> dict[str, Any]:
    return {"tool_choice": "required", "allowed": (name,), "parallel": False}
