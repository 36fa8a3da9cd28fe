"""Tools and thoughts between wire shapes and the runtime's values: pure functions, as in `convert.py`."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from ....models.errors import InvalidRequest
from ...output.assembled import AssembledAnswer
from ...types.events import Delta, OutputDelta, ReasoningDelta, ToolCallArguments, ToolCallStart
from ...types.messages import Tool, ToolCall
from . import schema


def choice(chat: schema.ChatRequest) -> dict[str, Any]:
    """The arguments of `Request` that say which tools there are and which may be called."""
    asked = chat.tool_choice
    if asked not in (None, "none", "auto") and not chat.tools:
        raise InvalidRequest("tool_choice asks for a call, and there are no tools", "tool_choice")
    tools = tuple(_tool(tool.function) for tool in chat.tools or ())
    chosen: dict[str, Any] = {"tools": tools, "parallel": chat.parallel_tool_calls is not False}
    match asked:
        case schema.NamedTool(function=function):
            return chosen | {"tool_choice": "required", "allowed": (function.name,), "parallel": False}
        case schema.AllowedToolsChoice(allowed_tools=allowed):
            names = tuple(tool.function.name for tool in allowed.tools)
            return chosen | {"tool_choice": allowed.mode, "allowed": names}
    return chosen | {"tool_choice": asked or "auto"}


def _tool(function: schema.FunctionDefinition) -> Tool:
    return Tool(function.name, function.description, function.parameters)


def of_message(message: schema.ChatMessage) -> dict[str, Any]:
    """The arguments of `Message` that an assistant's message or a tool's has beside those of all."""
    if isinstance(message, schema.ToolMessage):
        return {"answers": message.tool_call_id}
    if not isinstance(message, schema.AssistantMessage):
        return {}
    calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ())
    return {"calls": calls, "reasoning": message.reasoning_content or message.reasoning}


def message(whole: AssembledAnswer) -> schema.AnswerMessage:
    """A whole answer; its content is null where it does nothing but call."""
    calls = [schema.ToolCall(call.id, schema.FunctionCall(call.name, call.arguments)) for call in whole.calls]
    return schema.AnswerMessage(
        content=whole.text or None if calls else whole.text,
        reasoning_content=whole.thoughts or UNSET,
        tool_calls=calls or UNSET,
    )


def delta(said: OutputDelta) -> schema.ChunkDelta:
    """A piece of an answer."""
    match said:
        case Delta(text=text):
            return schema.ChunkDelta(content=text)
        case ReasoningDelta(text):
            return schema.ChunkDelta(reasoning_content=text)
        case ToolCallStart(index, call_id, name):
            function = schema.FunctionDelta(name, "")
            return schema.ChunkDelta(tool_calls=[schema.ToolCallDelta(index, function, call_id, "function")])
        case ToolCallArguments(index, text):
            return schema.ChunkDelta(tool_calls=[schema.ToolCallDelta(index, schema.FunctionDelta(arguments=text))])
