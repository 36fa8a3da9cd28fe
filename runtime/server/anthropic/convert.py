"""Pure functions between Anthropic's wire shapes and the runtime's values. No I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from ....models.errors import InvalidRequest, UnsupportedField
from ...types import request
from ...types.events import Finished, Usage
from ...types.messages import Effort, Image, Message, Part, Text, Tool, ToolCall
from ...types.model_info import ModelInfo
from ..http.field_policy import ANY, Known
from ..openai import message_parts as parts
from . import schema

ACCEPTED = {
    "].role": "user, assistant and system",
    "].source.type": "base64 of pictures and text of documents",
    "].type": "text, thinking and tool_use from an assistant, and text, image, document and tool_result from a user",
    "tool_choice.type": "auto, any, tool and none",
    "thinking.type": "enabled, adaptive and disabled",
    "format.type": "json_schema",
}

_CACHE = {"cache_control": ANY}
_EDITS = {"context_management": ": a conversation is read as it is, or refused where it does not fit"}
_REQUEST = {"metadata": ANY, "service_tier": ANY, "inference_geo": ANY, "speed": "standard", **_CACHE}
_WHOLE = {"display": ": thoughts are told whole"}
_ONLY_THERE = ": only Anthropic can read it"
KNOWN = Known(
    inert={
        schema.MessagesRequest: _REQUEST,
        schema.CountRequest: _REQUEST,
        schema.TextBlock: _CACHE | {"citations": None},
        schema.ImageBlock: _CACHE,
        schema.DocumentBlock: _CACHE | {"citations": None},
        schema.ToolUseBlock: _CACHE | {"caller": ANY},
        schema.ToolResultBlock: _CACHE,
        schema.Tool: _CACHE | {"strict": ANY, "eager_input_streaming": ANY, "input_examples": None},
    },
    hints={
        schema.MessagesRequest: _EDITS,
        schema.CountRequest: _EDITS,
        schema.RedactedThinkingBlock: {"data": _ONLY_THERE},
        schema.ThinkingEnabled: _WHOLE | {"budget_tokens": ": thoughts are bounded by max_tokens"},
        schema.ThinkingAdaptive: _WHOLE,
    },
    unsupported={
        schema.MessagesRequest: {
            name: () for name in ("container", "mcp_servers", "betas", "output_format", "diagnostics", "thread")
        },
        schema.DocumentBlock: {"citations": ({"enabled": False},)},
        schema.Tool: {"defer_loading": (False,), "allowed_callers": (["direct"],)},
    },
)


def to_request(asked: schema.CountRequest) -> request.Request:
    """What the runtime is asked to do."""
    options: dict[str, Any] = {}
    if isinstance(asked, schema.MessagesRequest):
        options["sampling"] = request.sampling_from(asked, "anthropic")
        options |= request.request_fields_from(asked, "anthropic")
    form = asked.output_config.format if asked.output_config else None
    return request.Request(
        messages=(*_system(asked.system), *messages(asked.messages)),
        json_schema=form.schema if form else None,
        effort=_effort(asked),
        **options,
        **_tools(asked),
    )


def _system(system: str | list[schema.TextBlock] | None) -> tuple[Message, ...]:
    return (Message("system", _parts(system, "system")),) if system else ()


def _effort(asked: schema.CountRequest) -> Effort | None:
    if isinstance(asked.thinking, schema.ThinkingDisabled):
        return "none"
    effort = asked.output_config.effort if asked.output_config else None
    return effort or (None if asked.thinking is None else "medium")


def _tools(asked: schema.CountRequest) -> dict[str, Any]:
    choice = asked.tool_choice
    if isinstance(choice, schema.AnyChoice | schema.ToolChoice) and not asked.tools:
        raise InvalidRequest("tool_choice asks for a call, and there are no tools", "tool_choice")
    named = isinstance(choice, schema.ToolChoice)
    kinds: dict[type, str] = {schema.AnyChoice: "required", schema.ToolChoice: "required", schema.NoChoice: "none"}
    return {
        "tools": tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(asked.tools or ())),
        "tool_choice": kinds.get(type(choice), "auto"),
        "allowed": (choice.name,) if isinstance(choice, schema.ToolChoice) else None,
        "parallel": choice is None or not (named or choice.disable_parallel_tool_use),
    }


def _tool(tool: schema.Tool, path: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise UnsupportedField(
            f"{path} is a {tool.type!r:.60}, which runs at Anthropic; only tools of your own are offered here, with a "
            "name and an input_schema",
            path,
        )
    if tool.input_schema is None:
        raise InvalidRequest(f"{path} has no input_schema", path)
    return Tool(tool.name, tool.description, tool.input_schema)


def messages(said: Sequence[schema.AnyMessage]) -> tuple[Message, ...]:
    """What the same side says several times in a row counts as one turn, as at Anthropic."""
    told: list[Message] = []
    for i, message in enumerate(said):
        for one in _message(message, f"messages[{i}].content"):
            if told and told[-1].role == one.role and one.role in ("user", "assistant"):
                told[-1] = _joined(told[-1], one)
            else:
                told.append(one)
    return tuple(told)


def _joined(first: Message, second: Message) -> Message:
    thoughts = "".join(filter(None, (first.reasoning, second.reasoning)))
    parts, calls = first.parts + second.parts, first.calls + second.calls
    return Message(first.role, parts, calls=calls, reasoning=thoughts or None)


def _message(message: schema.AnyMessage, path: str) -> Iterator[Message]:
    """A user's message with results of tools becomes several: those of the tools, and what stands between them."""
    if isinstance(message, schema.SystemMessage):
        yield Message("system", _parts(message.content, path))
    elif isinstance(message, schema.AssistantMessage):
        yield _assistant(message, path)
    elif isinstance(message.content, str):
        yield Message("user", _parts(message.content, path))
    else:
        numbered = [(f"{path}[{i}]", block) for i, block in enumerate(message.content)]
        for is_result, blocks in groupby(numbered, lambda pair: isinstance(pair[1], schema.ToolResultBlock)):
            if is_result:
                yield from (
                    _result(block, where) for where, block in blocks if isinstance(block, schema.ToolResultBlock)
                )
            else:
                yield Message("user", tuple(_part(block, where) for where, block in blocks))


def _assistant(message: schema.AssistantMessage, path: str) -> Message:
    if isinstance(message.content, str):
        return Message("assistant", _parts(message.content, path))
    blocks = message.content
    calls = [block for block in blocks if isinstance(block, schema.ToolUseBlock)]
    return Message(
        "assistant",
        tuple(Text(block.text) for block in blocks if isinstance(block, schema.TextBlock)),
        calls=tuple(ToolCall(call.id, call.name, json.dumps(call.input)) for call in calls),
        reasoning="".join(block.thinking for block in blocks if isinstance(block, schema.ThinkingBlock)) or None,
    )


def _result(block: schema.ToolResultBlock, path: str) -> Message:
    parts = _parts(block.content, f"{path}.content")
    if block.is_error:
        parts = (Text("Error:"), *parts)
    return Message("tool", parts, answers=block.tool_use_id)


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
            return Image(parts.data_uri(url, f"{path}.source.url"), f"{path}.source.url")
        case schema.ImageBlock(source=schema.Base64Source(data=data)):
            return Image(parts.base64_bytes(data, f"{path}.source.data"), f"{path}.source.data")
    raise InvalidRequest(f"{path} is of no kind that can stand here", path)


def usage(used: Usage) -> schema.Usage:
    details = schema.OutputDetails(used.reasoning_tokens)
    computed = used.prompt_tokens - used.cached_tokens
    return schema.Usage(computed, used.completion_tokens, used.cached_tokens, output_tokens_details=details)


def ending(end: Finished) -> schema.Ending:
    if end.stopped_by is not None and end.reason == "stop":
        return schema.Ending("stop_sequence", end.stopped_by)
    reasons: dict[str, schema.StopReason] = {"length": "max_tokens", "tool_calls": "tool_use"}
    return schema.Ending(reasons.get(end.reason, "end_turn"))


def model_list(models: Sequence[ModelInfo]) -> schema.ModelList:
    return schema.ModelList(
        [model_info(model) for model in models],
        models[0].id if models else None,
        models[-1].id if models else None,
    )


def model_info(info: ModelInfo) -> schema.ModelInfo:
    created = datetime.fromtimestamp(info.created, UTC).isoformat()
    return schema.ModelInfo(info.id, info.description, created, info.context_length)
