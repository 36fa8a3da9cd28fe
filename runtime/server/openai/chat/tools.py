"""Tools, tool calls and reasoning between JSON shapes and the runtime's values. Entered only if a chat uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from .....models.errors import InvalidRequest
from ....output.assembled import AssembledAnswer
from ....types.events import Delta, OutputDelta, ReasoningDelta, ToolCallArguments, ToolCallStart
from ....types.messages import Tool, ToolCall
from . import schema


def request_arguments(chat: schema.ChatRequest) -> dict[str, Any]:
    """The arguments of `Request` about the tools and which of them may be called."""
    choice = chat.tool_choice
    if choice not in (None, "none", "auto") and not chat.tools:
        raise InvalidRequest("tool_choice requires a tool call, but the request has no tools", "tool_choice")
    tools = tuple(_tool(tool.function) for tool in chat.tools or ())
    arguments: dict[str, Any] = {"tools": tools, "parallel_tool_calls": chat.parallel_tool_calls is not False}
    match choice:
        case schema.NamedTool(function=function):
            return arguments | {
                "tool_choice": "required",
                "allowed_tools": (function.name,),
                "parallel_tool_calls": False,
            }
        case schema.AllowedToolsChoice(allowed_tools=allowed):
            names = tuple(tool.function.name for tool in allowed.tools)
            return arguments | {"tool_choice": allowed.mode, "allowed_tools": names}
    return arguments | {"tool_choice": choice or "auto"}


def _tool(function: schema.FunctionDefinition) -> Tool:
    return Tool(function.name, function.description, function.parameters, strict=function.strict is True)


def calls(tool_calls: Sequence[schema.ToolCall]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in tool_calls)


def answer_message(deltas: Sequence[OutputDelta]) -> schema.AnswerMessage:
    """The message of a whole answer; its content is null if it has only tool calls."""
    answer = AssembledAnswer()
    for delta in deltas:
        answer.add(delta)
    tool_calls = [
        schema.ToolCall(call.id, schema.FunctionCall(call.name, call.arguments)) for call in answer.tool_calls
    ]
    return schema.AnswerMessage(
        content=answer.text or None if tool_calls else answer.text,
        reasoning_content=answer.reasoning or UNSET,
        tool_calls=tool_calls or UNSET,
    )


def chunk_delta(delta: OutputDelta) -> schema.ChunkDelta:
    match delta:
        case Delta(text=text):
            return schema.ChunkDelta(content=text)
        case ReasoningDelta(text):
            return schema.ChunkDelta(reasoning_content=text)
        case ToolCallStart(index, call_id, name):
            function = schema.FunctionDelta(name, "")
            return schema.ChunkDelta(tool_calls=[schema.ToolCallDelta(index, function, call_id, "function")])
        case ToolCallArguments(index, text):
            return schema.ChunkDelta(tool_calls=[schema.ToolCallDelta(index, schema.FunctionDelta(arguments=text))])
