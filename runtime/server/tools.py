"""Tools and thoughts between wire shapes and the runtime's values: pure functions, as in `convert.py`."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from ...models.errors import InvalidRequest
from ..output.whole import Whole
from ..values import CallArguments, CallBegun, Delta, Said, Thought, Tool, ToolCall
from . import wire


def choice(chat: wire.ChatRequest) -> dict[str, Any]:
    """The arguments of `Request` that say which tools there are and which may be called."""
    asked = chat.tool_choice
    if asked not in (None, "none", "auto") and not chat.tools:
        raise InvalidRequest("tool_choice asks for a call, and there are no tools", "tool_choice")
    tools = tuple(_tool(tool.function) for tool in chat.tools or ())
    chosen: dict[str, Any] = {"tools": tools, "parallel": chat.parallel_tool_calls is not False}
    match asked:
        case wire.NamedTool(function=function):
            return chosen | {"tool_choice": "required", "allowed": (function.name,), "parallel": False}
        case wire.AllowedToolsChoice(allowed_tools=allowed):
            names = tuple(tool.function.name for tool in allowed.tools)
            return chosen | {"tool_choice": allowed.mode, "allowed": names}
    return chosen | {"tool_choice": asked or "auto"}


def _tool(function: wire.FunctionDefinition) -> Tool:
    return Tool(function.name, function.description, function.parameters)


def of_message(message: wire.ChatMessage) -> dict[str, Any]:
    """The arguments of `Message` that an assistant's message or a tool's has beside those of all."""
    if isinstance(message, wire.ToolMessage):
        return {"answers": message.tool_call_id}
    if not isinstance(message, wire.AssistantMessage):
        return {}
    calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ())
    return {"calls": calls, "reasoning": message.reasoning_content or message.reasoning}


def message(whole: Whole) -> wire.AnswerMessage:
    """A whole answer; its content is null where it does nothing but call."""
    calls = [wire.ToolCall(call.id, wire.FunctionCall(call.name, call.arguments)) for call in whole.calls]
    return wire.AnswerMessage(
        content=whole.text or None if calls else whole.text,
        reasoning_content=whole.thoughts or UNSET,
        tool_calls=calls or UNSET,
    )


def delta(said: Said) -> wire.ChunkDelta:
    """A piece of an answer."""
    match said:
        case Delta(text=text):
            return wire.ChunkDelta(content=text)
        case Thought(text):
            return wire.ChunkDelta(reasoning_content=text)
        case CallBegun(index, call_id, name):
            function = wire.FunctionDelta(name, "")
            return wire.ChunkDelta(tool_calls=[wire.ToolCallDelta(index, function, call_id, "function")])
        case CallArguments(index, text):
            return wire.ChunkDelta(tool_calls=[wire.ToolCallDelta(index, wire.FunctionDelta(arguments=text))])
