"""Between Anthropic's JSON shapes and the runtime's values. Pure: no I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from msgspec import structs

from ....models.errors import InvalidRequest
from ...types import model_info as runtime_info
from ...types import request as values
from ...types.events import Finished, Usage
from ...types.messages import Image, Message, Part, Text, Tool, ToolCall
from ...types.warnings import Warnings
from ..openai.chat import message_parts
from . import schema

_BILLING_NOTE = "x-anthropic-billing-header:"
"""Start of a coding agent's first system block, which differs between conversations that otherwise begin alike."""


def to_request(request: schema.CountRequest, warnings: Warnings) -> values.Request:
    """The request to the runtime. Warns about anything done differently than asked."""
    options: dict[str, Any] = {}
    if isinstance(request, schema.MessagesRequest):
        if request.max_tokens == 0:  # only to compute the prompt; the shortest answer is one token
            request = structs.replace(request, max_tokens=1)
        options["sampling"] = values.sampling_from(request, "anthropic", warnings)
        options |= values.request_fields_from(request, "anthropic", warnings)
    output_format = request.output_config.format if request.output_config else None
    return values.Request(
        messages=(*_system(request.system, warnings), *messages(request.messages)),
        json_schema=output_format.schema if output_format else None,
        **_effort(request),
        **options,
        **_tool_arguments(request),
        strict=warnings.strict,
    )


def _system(system: str | list[schema.TextBlock] | None, warnings: Warnings) -> tuple[Message, ...]:
    if isinstance(system, list) and system and system[0].text.startswith(_BILLING_NOTE):
        warnings.append("system[0] is a note for Anthropic's billing and is left out")
        system = system[1:]
    parts = _parts(system or "", "system")
    return (Message("system", parts),) if parts else ()


def _effort(request: schema.CountRequest) -> dict[str, Any]:
    """The effort that the last system message with an effort asks for, or else the request's; and the field's name."""
    if isinstance(request.thinking, schema.ThinkingDisabled):
        return {"reasoning_effort": "none", "effort_field": "thinking"}
    configs = [one.output_config for one in request.messages if isinstance(one, schema.SystemMessage)]
    efforts = [config.effort for config in (request.output_config, *configs) if config and config.effort]
    if efforts:
        return {"reasoning_effort": efforts[-1], "effort_field": "output_config.effort"}
    return {} if request.thinking is None else {"reasoning_effort": "medium", "effort_field": "thinking"}


def _tool_arguments(request: schema.CountRequest) -> dict[str, Any]:
    choice = request.tool_choice
    if isinstance(choice, schema.AnyChoice | schema.ToolChoice) and not request.tools:
        raise InvalidRequest("tool_choice requires a tool call, but the request has no tools", "tool_choice")
    named = isinstance(choice, schema.ToolChoice)
    kinds: dict[type, str] = {schema.AnyChoice: "required", schema.ToolChoice: "required", schema.NoChoice: "none"}
    return {
        "tools": tuple(
            Tool(tool.name, tool.description, tool.input_schema, bool(tool.strict)) for tool in request.tools or ()
        ),
        "tool_choice": kinds.get(type(choice), "auto"),
        "allowed_tools": (choice.name,) if isinstance(choice, schema.ToolChoice) else None,
        "parallel_tool_calls": choice is None or not (named or choice.disable_parallel_tool_use),
    }


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


def _messages(message: schema.AnyMessage, path: str) -> Sequence[Message]:
    if isinstance(message, schema.SystemMessage):
        return (Message("system", _parts(message.content, path)),)
    if isinstance(message, schema.AssistantMessage):
        return (_assistant_message(message, path),)
    if isinstance(message.content, str):
        return (Message("user", _parts(message.content, path)),)
    return list(_user_messages(message.content, path)) or (Message("user", ()),)


def _user_messages(content: Sequence[schema.UserBlock], path: str) -> Iterator[Message]:
    """One message for each tool result, and one for the other blocks between them."""
    numbered = [(f"{path}[{i}]", block) for i, block in enumerate(content)]
    for is_result, group in groupby(numbered, lambda pair: isinstance(pair[1], schema.ToolResultBlock)):
        if is_result:
            yield from (_tool_message(block, block_path) for block_path, block in group)
        elif parts := tuple(part for block_path, block in group for part in _block_parts(block, block_path)):
            yield Message("user", parts)


def _assistant_message(message: schema.AssistantMessage, path: str) -> Message:
    if isinstance(message.content, str):
        return Message("assistant", _parts(message.content, path))
    blocks = message.content
    calls = [block for block in blocks if isinstance(block, schema.PastToolUseBlock)]
    return Message(
        "assistant",
        _parts([block for block in blocks if isinstance(block, schema.TextBlock)], path),
        tool_calls=tuple(ToolCall(call.id, call.name, _arguments(call.input)) for call in calls),
        reasoning="".join(block.thinking for block in blocks if isinstance(block, schema.ThinkingBlock)) or None,
    )


def _arguments(given: dict[str, Any] | list[Any] | str) -> str:
    """The arguments as JSON text. A text that is not JSON is kept: it belongs to a call that was cut off."""
    return given if isinstance(given, str) else json.dumps(given)


def _tool_message(block: Any, path: str) -> Message:
    assert isinstance(block, schema.ToolResultBlock)
    parts = _parts(block.content, f"{path}.content")
    if block.is_error:
        parts = (Text("Error:"), *parts)
    return Message("tool", parts, tool_call_id=block.tool_use_id)


def _parts(content: str | Sequence[Any], path: str) -> tuple[Part, ...]:
    """The parts of a message's content, without empty texts."""
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return tuple(part for i, block in enumerate(content) for part in _block_parts(block, f"{path}[{i}]"))


def _block_parts(block: Any, path: str) -> tuple[Part, ...]:
    match block:
        case schema.TextBlock(text=text):
            return _parts(text, path)
        case schema.DocumentBlock(source=schema.PlainTextSource(data=data), title=title, context=context):
            return _parts("\n".join(filter(None, (title, context, data))), path)
        case schema.DocumentBlock(source=schema.ContentSource(content=content), title=title, context=context):
            heading = _parts("\n".join(filter(None, (title, context))), path)
            return (*heading, *_parts(content, f"{path}.source.content"))
        case schema.ImageBlock(source=source):
            return (message_parts.readable("picture", path, lambda: _image(source, f"{path}.source")),)
    raise InvalidRequest(f"{path} has a type that is not supported here", path)


def _image(source: schema.Base64Source | schema.URLSource | schema.FileSource, path: str) -> Part:
    """The picture. Other media are read too, by their first bytes: a tool's result has no other block for them."""
    match source:
        case schema.URLSource(url=url):
            path, data = f"{path}.url", message_parts.from_data_uri(url, f"{path}.url")
        case schema.Base64Source(data=text):
            path, data = f"{path}.data", message_parts.from_data_uri_or_base64(text, f"{path}.data")
        case _:
            path = f"{path}.file_id"
            raise InvalidRequest(f"{path}: this server has no such file; send the picture in base64", path)
    return message_parts.medium_part(data, path) or Image(data, path)


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
