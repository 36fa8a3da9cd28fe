"""Pure functions between Anthropic's wire shapes and the runtime's values. No I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from ....models.errors import InvalidRequest, UnsupportedField
from ... import values
from .. import parts
from ..fields import ANY, Known
from . import wire

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
        wire.MessagesRequest: _REQUEST,
        wire.CountRequest: _REQUEST,
        wire.TextBlock: _CACHE | {"citations": None},
        wire.ImageBlock: _CACHE,
        wire.DocumentBlock: _CACHE | {"citations": None},
        wire.ToolUseBlock: _CACHE | {"caller": ANY},
        wire.ToolResultBlock: _CACHE,
        wire.Tool: _CACHE | {"strict": ANY, "eager_input_streaming": ANY, "input_examples": None},
    },
    hints={
        wire.MessagesRequest: _EDITS,
        wire.CountRequest: _EDITS,
        wire.RedactedThinkingBlock: {"data": _ONLY_THERE},
        wire.ThinkingEnabled: _WHOLE | {"budget_tokens": ": thoughts are bounded by max_tokens"},
        wire.ThinkingAdaptive: _WHOLE,
    },
    unsupported={
        wire.MessagesRequest: {
            name: () for name in ("container", "mcp_servers", "betas", "output_format", "diagnostics", "thread")
        },
        wire.DocumentBlock: {"citations": ({"enabled": False},)},
        wire.Tool: {"defer_loading": (False,), "allowed_callers": (["direct"],)},
    },
)


def to_request(asked: wire.CountRequest) -> values.Request:
    """What the runtime is asked to do."""
    options: dict[str, Any] = {}
    if isinstance(asked, wire.MessagesRequest):
        options["sampling"] = values.Sampling(temperature=asked.temperature, top_p=asked.top_p, top_k=asked.top_k)
        options["max_tokens"] = asked.max_tokens
        options["stop"] = tuple(asked.stop_sequences or ())
    form = asked.output_config.format if asked.output_config else None
    return values.Request(
        messages=(*_system(asked.system), *messages(asked.messages)),
        json_schema=form.schema if form else None,
        effort=_effort(asked),
        **options,
        **_tools(asked),
    )


def _system(system: str | list[wire.TextBlock] | None) -> tuple[values.Message, ...]:
    return (values.Message("system", _parts(system, "system")),) if system else ()


def _effort(asked: wire.CountRequest) -> values.Effort | None:
    if isinstance(asked.thinking, wire.ThinkingDisabled):
        return "none"
    effort = asked.output_config.effort if asked.output_config else None
    return effort or (None if asked.thinking is None else "medium")


def _tools(asked: wire.CountRequest) -> dict[str, Any]:
    choice = asked.tool_choice
    if isinstance(choice, wire.AnyChoice | wire.ToolChoice) and not asked.tools:
        raise InvalidRequest("tool_choice asks for a call, and there are no tools", "tool_choice")
    named = isinstance(choice, wire.ToolChoice)
    kinds: dict[type, str] = {wire.AnyChoice: "required", wire.ToolChoice: "required", wire.NoChoice: "none"}
    return {
        "tools": tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(asked.tools or ())),
        "tool_choice": kinds.get(type(choice), "auto"),
        "allowed": (choice.name,) if isinstance(choice, wire.ToolChoice) else None,
        "parallel": choice is None or not (named or choice.disable_parallel_tool_use),
    }


def _tool(tool: wire.Tool, path: str) -> values.Tool:
    if tool.type not in (None, "custom"):
        raise UnsupportedField(
            f"{path} is a {tool.type!r:.60}, which runs at Anthropic; only tools of your own are offered here, with a "
            "name and an input_schema",
            path,
        )
    if tool.input_schema is None:
        raise InvalidRequest(f"{path} has no input_schema", path)
    return values.Tool(tool.name, tool.description, tool.input_schema)


def messages(said: Sequence[wire.AnyMessage]) -> tuple[values.Message, ...]:
    """What the same side says several times in a row counts as one turn, as at Anthropic."""
    told: list[values.Message] = []
    for i, message in enumerate(said):
        for one in _message(message, f"messages[{i}].content"):
            if told and told[-1].role == one.role and one.role in ("user", "assistant"):
                told[-1] = _joined(told[-1], one)
            else:
                told.append(one)
    return tuple(told)


def _joined(first: values.Message, second: values.Message) -> values.Message:
    thoughts = "".join(filter(None, (first.reasoning, second.reasoning)))
    parts, calls = first.parts + second.parts, first.calls + second.calls
    return values.Message(first.role, parts, calls=calls, reasoning=thoughts or None)


def _message(message: wire.AnyMessage, path: str) -> Iterator[values.Message]:
    """A user's message with results of tools becomes several: those of the tools, and what stands between them."""
    if isinstance(message, wire.SystemMessage):
        yield values.Message("system", _parts(message.content, path))
    elif isinstance(message, wire.AssistantMessage):
        yield _assistant(message, path)
    elif isinstance(message.content, str):
        yield values.Message("user", _parts(message.content, path))
    else:
        numbered = [(f"{path}[{i}]", block) for i, block in enumerate(message.content)]
        for is_result, blocks in groupby(numbered, lambda pair: isinstance(pair[1], wire.ToolResultBlock)):
            if is_result:
                yield from (_result(block, where) for where, block in blocks if isinstance(block, wire.ToolResultBlock))
            else:
                yield values.Message("user", tuple(_part(block, where) for where, block in blocks))


def _assistant(message: wire.AssistantMessage, path: str) -> values.Message:
    if isinstance(message.content, str):
        return values.Message("assistant", _parts(message.content, path))
    blocks = message.content
    calls = [block for block in blocks if isinstance(block, wire.ToolUseBlock)]
    return values.Message(
        "assistant",
        tuple(values.Text(block.text) for block in blocks if isinstance(block, wire.TextBlock)),
        calls=tuple(values.ToolCall(call.id, call.name, json.dumps(call.input)) for call in calls),
        reasoning="".join(block.thinking for block in blocks if isinstance(block, wire.ThinkingBlock)) or None,
    )


def _result(block: wire.ToolResultBlock, path: str) -> values.Message:
    parts = _parts(block.content, f"{path}.content")
    if block.is_error:
        parts = (values.Text("Error:"), *parts)
    return values.Message("tool", parts, answers=block.tool_use_id)


def _parts(content: str | Sequence[Any], path: str) -> tuple[values.Part, ...]:
    if isinstance(content, str):
        return (values.Text(content),)
    return tuple(_part(block, f"{path}[{i}]") for i, block in enumerate(content))


def _part(block: Any, path: str) -> values.Part:
    match block:
        case wire.TextBlock(text=text):
            return values.Text(text)
        case wire.DocumentBlock(source=source, title=title, context=context):
            return values.Text("\n".join(filter(None, (title, context, source.data))))
        case wire.ImageBlock(source=wire.URLSource(url=url)):
            return values.Image(parts.data_uri(url, f"{path}.source.url"), f"{path}.source.url")
        case wire.ImageBlock(source=wire.Base64Source(data=data)):
            return values.Image(parts.base64_bytes(data, f"{path}.source.data"), f"{path}.source.data")
    raise InvalidRequest(f"{path} is of no kind that can stand here", path)


def usage(used: values.Usage) -> wire.Usage:
    details = wire.OutputDetails(used.reasoning_tokens)
    computed = used.prompt_tokens - used.cached_tokens
    return wire.Usage(computed, used.completion_tokens, used.cached_tokens, output_tokens_details=details)


def ending(end: values.Finished) -> wire.Ending:
    if end.stopped_by is not None and end.reason == "stop":
        return wire.Ending("stop_sequence", end.stopped_by)
    reasons: dict[str, wire.StopReason] = {"length": "max_tokens", "tool_calls": "tool_use"}
    return wire.Ending(reasons.get(end.reason, "end_turn"))


def model_list(models: Sequence[values.ModelInfo]) -> wire.ModelList:
    return wire.ModelList(
        [model_info(model) for model in models],
        models[0].id if models else None,
        models[-1].id if models else None,
    )


def model_info(info: values.ModelInfo) -> wire.ModelInfo:
    created = datetime.fromtimestamp(info.created, UTC).isoformat()
    return wire.ModelInfo(info.id, info.description, created, info.context_length)
