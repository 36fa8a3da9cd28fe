"""Between Anthropic's JSON shapes and the runtime's values. Pure: no I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from ....models.errors import InvalidRequest, UnsupportedField
from ...types import model_info as runtime_info
from ...types import request as values
from ...types.events import Finished, Usage
from ...types.messages import Image, Message, Part, ReasoningEffort, Text, Tool, ToolCall
from ...types.warnings import Warnings
from ..openai.chat import message_parts
from . import schema


def to_request(request: schema.CountRequest, warnings: Warnings) -> values.Request:
    """The request to the runtime. Adds to `warnings` what is done otherwise than asked."""
    options: dict[str, Any] = {}
    if isinstance(request, schema.MessagesRequest):
        options["sampling"] = values.sampling_from(request, "anthropic", warnings)
        options |= values.request_fields_from(request, "anthropic", warnings)
    output_format = request.output_config.format if request.output_config else None
    return values.Request(
        messages=(*_system(request.system), *messages(request.messages)),
        json_schema=output_format.schema if output_format else None,
        reasoning_effort=_effort(request),
        **options,
        **_tool_arguments(request),
        strict=warnings.strict,
    )


def _system(system: str | list[schema.TextBlock] | None) -> tuple[Message, ...]:
    return (Message("system", _parts(system, "system")),) if system else ()


def _effort(request: schema.CountRequest) -> ReasoningEffort | None:
    if isinstance(request.thinking, schema.ThinkingDisabled):
        return "none"
    effort = request.output_config.effort if request.output_config else None
    return effort or (None if request.thinking is None else "medium")


def _tool_arguments(request: schema.CountRequest) -> dict[str, Any]:
    choice = request.tool_choice
    if isinstance(choice, schema.AnyChoice | schema.ToolChoice) and not request.tools:
        raise InvalidRequest("tool_choice requires a tool call, but the request has no tools", "tool_choice")
    named = isinstance(choice, schema.ToolChoice)
    kinds: dict[type, str] = {schema.AnyChoice: "required", schema.ToolChoice: "required", schema.NoChoice: "none"}
    return {
        "tools": tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools or ())),
        "tool_choice": kinds.get(type(choice), "auto"),
        "allowed_tools": (choice.name,) if isinstance(choice, schema.ToolChoice) else None,
        "parallel_tool_calls": choice is None or not (named or choice.disable_parallel_tool_use),
    }


def _tool(tool: schema.Tool, path: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise UnsupportedField(
            f"{path} has the type {tool.type!r:.60}, which runs at Anthropic; this server supports only tools with a "
            "name and an input_schema",
            path,
        )
    if tool.input_schema is None:
        raise InvalidRequest(f"{path} has no input_schema", path)
    return Tool(tool.name, tool.description, tool.input_schema)


def messages(chat: Sequence[schema.AnyMessage]) -> tuple[Message, ...]:
    """The messages. As at Anthropic, consecutive messages of the same side are joined."""
    joined: list[Message] = []
    for i, message in enumerate(chat):
        for one in _messages(message, f"messages[{i}].content"):
            if joined and joined[-1].role == one.role and one.role in ("user", "assistant"):
                joined[-1] = _joined(joined[-1], one)
            else:
                joined.append(one)
    return tuple(joined)


def _joined(first: Message, second: Message) -> Message:
    reasoning = "".join(filter(None, (first.reasoning, second.reasoning)))
    parts, calls = first.parts + second.parts, first.tool_calls + second.tool_calls
    return Message(first.role, parts, tool_calls=calls, reasoning=reasoning or None)


def _messages(message: schema.AnyMessage, path: str) -> Iterator[Message]:
    """A user's message with tool results becomes several: one for each result, and one for the blocks between them."""
    if isinstance(message, schema.SystemMessage):
        yield Message("system", _parts(message.content, path))
    elif isinstance(message, schema.AssistantMessage):
        yield _assistant_message(message, path)
    elif isinstance(message.content, str):
        yield Message("user", _parts(message.content, path))
    else:
        numbered = [(f"{path}[{i}]", block) for i, block in enumerate(message.content)]
        for is_result, blocks in groupby(numbered, lambda pair: isinstance(pair[1], schema.ToolResultBlock)):
            if is_result:
                yield from (
                    _tool_message(block, block_path)
                    for block_path, block in blocks
                    if isinstance(block, schema.ToolResultBlock)
                )
            else:
                yield Message("user", tuple(_part(block, block_path) for block_path, block in blocks))


def _assistant_message(message: schema.AssistantMessage, path: str) -> Message:
    if isinstance(message.content, str):
        return Message("assistant", _parts(message.content, path))
    blocks = message.content
    calls = [block for block in blocks if isinstance(block, schema.ToolUseBlock)]
    return Message(
        "assistant",
        tuple(Text(block.text) for block in blocks if isinstance(block, schema.TextBlock)),
        tool_calls=tuple(ToolCall(call.id, call.name, json.dumps(call.input)) for call in calls),
        reasoning="".join(block.thinking for block in blocks if isinstance(block, schema.ThinkingBlock)) or None,
    )


def _tool_message(block: schema.ToolResultBlock, path: str) -> Message:
    parts = _parts(block.content, f"{path}.content")
    if block.is_error:
        parts = (Text("Error:"), *parts)
    return Message("tool", parts, tool_call_id=block.tool_use_id)


def _parts(content: str | Sequence[Any], path: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),)
    return tuple(_part(block, f"{path}[{i}]") for i, block in enumerate(content))


def _part(block: Any, path: str) -> Part:
    match block:
        case schema.TextBlock(text=text):
            return Text(text)
        case schema.DocumentBlock(source=source, title=title, context=context):
            return Text("\n".join(filter(None, (title, context, source.data))))
        case schema.ImageBlock(source=schema.URLSource(url=url)):
            return Image(message_parts.from_data_uri(url, f"{path}.source.url"), f"{path}.source.url")
        case schema.ImageBlock(source=schema.Base64Source(data=data)):
            return Image(message_parts.from_base64(data, f"{path}.source.data"), f"{path}.source.data")
    raise InvalidRequest(f"{path} has a type that is not supported here", path)


def usage(used: Usage) -> schema.Usage:
    details = schema.OutputDetails(used.reasoning_tokens)
    computed_tokens = used.prompt_tokens - used.cached_tokens
    return schema.Usage(computed_tokens, used.completion_tokens, used.cached_tokens, output_tokens_details=details)


def message_end(end: Finished) -> schema.MessageEnd:
    if end.stopped_by is not None and end.reason == "stop":
        return schema.MessageEnd("stop_sequence", end.stopped_by)
    reasons: dict[str, schema.StopReason] = {"length": "max_tokens", "tool_calls": "tool_use"}
    return schema.MessageEnd(reasons.get(end.reason, "end_turn"))


def model_list(models: Sequence[runtime_info.ModelInfo]) -> schema.ModelList:
    return schema.ModelList(
        [model_info(model) for model in models],
        models[0].id if models else None,
        models[-1].id if models else None,
    )


def model_info(info: runtime_info.ModelInfo) -> schema.ModelInfo:
    created = datetime.fromtimestamp(info.created, UTC).isoformat()
    return schema.ModelInfo(info.id, info.description, created, info.context_length)
