"""Between the Responses API's JSON shapes and the runtime's values. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec

from .....models.errors import GalagoError, InvalidRequest, UnsupportedField
from ....types import request as values
from ....types.events import Usage
from ....types.messages import Image, Message, Part, Text, Tool, ToolCall
from ....types.warnings import Warnings
from ..chat import message_parts
from ..chat.message_parts import ReadFile
from . import schema

_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED_REASONING = "reasoning.encrypted_content"
_ID_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_API_FIELD_NAMES = {"json_schema": "text.format", "max_tokens": "max_output_tokens"}


def with_api_field_name(error: GalagoError) -> GalagoError:
    """The error with the API's name for a field of the runtime's request."""
    error.param = _API_FIELD_NAMES.get(error.param or "", error.param)
    return error


def with_item_types(raw: dict[str, Any]) -> dict[str, Any]:
    """The request with a `type` in every input item: the API lets messages leave it out."""
    items = raw.get("input")
    return raw | {"input": [_with_type(item) for item in items]} if isinstance(items, list) else raw


def _with_type(item: Any) -> Any:
    return {"type": "message"} | item if isinstance(item, dict) and "role" in item else item


def input_items(request: schema.ResponsesRequest) -> Sequence[schema.Item]:
    return [schema.Message("user", request.input)] if isinstance(request.input, str) else request.input


def stored_items(raw_input: str | list[dict[str, Any]], new_id: Callable[[str], str]) -> list[dict[str, Any]]:
    """The input as it is stored and shown: items with ids, and messages with their texts in parts.

    `new_id` returns an id with a prefix.
    """
    if isinstance(raw_input, str):
        raw_input = [{"type": "message", "role": "user", "content": raw_input}]
    return [_stored_item(item, new_id) for item in raw_input]


def _stored_item(item: dict[str, Any], new_id: Callable[[str], str]) -> dict[str, Any]:
    kind, text = item["type"], item.get("content")
    fields = {name: value for name, value in item.items() if value is not None}
    stored = {"id": new_id(_ID_PREFIXES[kind]), "status": "completed"} | fields
    if kind == "message" and isinstance(text, str):
        if item["role"] == "assistant":
            return stored | {"content": [{"type": "output_text", "text": text, "annotations": []}]}
        return stored | {"content": [{"type": "input_text", "text": text}]}
    return stored


def to_items(stored: Sequence[Any]) -> list[schema.Item]:
    """Stored items as structs."""
    return msgspec.convert(stored, list[schema.Item])


def to_request(
    request: schema.ResponsesRequest, history: Sequence[schema.Item], read_file: ReadFile, warnings: Warnings
) -> values.Request:
    """The request to the runtime; `history` comes before the input. Adds warnings about what is done otherwise."""
    system = (Message("system", (Text(request.instructions),)),) if request.instructions else ()
    return values.Request(
        messages=(
            *system,
            *messages(history, "previous", read_file),
            *messages(input_items(request), "input", read_file),
        ),
        sampling=values.sampling_from(request, "responses", warnings),
        json_schema=_json_schema(request.text),
        reasoning_effort=request.reasoning.effort if request.reasoning else None,
        **values.request_fields_from(request, "responses", warnings) | {"logprobs": _top_logprobs(request)},
        continue_final=False,
        **_tool_arguments(request),
        strict=warnings.strict,
    )


def _json_schema(text: schema.TextConfig | None) -> dict[str, Any] | bool | None:
    text_format = text.format if text else None
    if isinstance(text_format, schema.JsonSchemaFormat):
        return text_format.schema
    return {"type": "object"} if isinstance(text_format, schema.JsonObjectFormat) else None


def _top_logprobs(request: schema.ResponsesRequest) -> int | None:
    """The number of alternatives for each token; `None` for no log-probabilities at all."""
    for name in request.include or ():
        if name not in (_LOGPROBS, _ENCRYPTED_REASONING):
            raise UnsupportedField(f"include: {name[:80]!r} is not supported here; use {_LOGPROBS}", "include")
    wanted = request.top_logprobs or _LOGPROBS in (request.include or ())
    return (request.top_logprobs or 0) if wanted else None


def _tool_arguments(request: schema.ResponsesRequest) -> dict[str, Any]:
    choice = request.tool_choice
    if choice not in (None, "none", "auto") and not request.tools:
        raise InvalidRequest("tool_choice requires a tool call, but the request has no tools", "tool_choice")
    tools = tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools or ()))
    arguments: dict[str, Any] = {"tools": tools, "parallel_tool_calls": request.parallel_tool_calls is not False}
    match choice:
        case schema.NamedTool(name):
            return arguments | {"tool_choice": "required", "allowed_tools": (name,), "parallel_tool_calls": False}
        case schema.AllowedTools(mode, allowed):
            return arguments | {"tool_choice": mode, "allowed_tools": tuple(tool.name for tool in allowed)}
    return arguments | {"tool_choice": choice or "auto"}


def _tool(tool: schema.Tool, path: str) -> Tool:
    if tool.type != "function":
        raise UnsupportedField(
            f"{path} has the type {tool.type!r:.60}, which runs at OpenAI; this server supports only function tools",
            path,
        )
    return Tool(tool.name, tool.description, tool.parameters)


def messages(items: Sequence[schema.Item], path: str, read_file: ReadFile) -> tuple[Message, ...]:
    """The items as messages. Consecutive reasoning, text and tool calls form one assistant's message."""
    return tuple(chain.from_iterable(_turns(items, path, read_file)))


def _turns(items: Sequence[schema.Item], path: str, read_file: ReadFile) -> Iterator[tuple[Message, ...]]:
    turn = _AssistantTurn()
    for i, item in enumerate(items):
        item_path = f"{path}[{i}]"
        match item:
            case schema.Reasoning(content):
                if turn.parts or turn.calls:
                    yield turn.end()
                turn.reasoning += [part.text for part in content or ()]
            case schema.Message("assistant", content):
                if turn.parts or turn.calls:
                    yield turn.end()
                turn.parts += _parts(content, f"{item_path}.content", read_file)
            case schema.FunctionCall(call_id, name, arguments):
                turn.calls.append(ToolCall(call_id, name, arguments))
            case schema.FunctionCallOutput(call_id, output):
                yield turn.end()
                yield (Message("tool", _parts(output, f"{item_path}.output", read_file), tool_call_id=call_id),)
            case schema.Message(role, content):
                yield turn.end()
                yield (Message(role, _parts(content, f"{item_path}.content", read_file)),)
    yield turn.end()


class _AssistantTurn:
    """Collects the items of one assistant's message."""

    def __init__(self) -> None:
        self.reasoning: list[str] = []
        self.parts: list[Part] = []
        self.calls: list[ToolCall] = []

    def end(self) -> tuple[Message, ...]:
        """The message, if it is not empty; the next turn begins."""
        reasoning = "".join(self.reasoning)
        message = Message("assistant", tuple(self.parts), tool_calls=tuple(self.calls), reasoning=reasoning or None)
        self.reasoning, self.parts, self.calls = [], [], []
        return (message,) if message != Message("assistant", ()) else ()


def _parts(content: str | Sequence[Any], path: str, read_file: ReadFile) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return tuple(_part(part, f"{path}[{i}]", read_file) for i, part in enumerate(content))


def _part(part: Any, path: str, read_file: ReadFile) -> Part:
    match part:
        case schema.InputImage(image_url, file_id):
            data = message_parts.media_bytes(
                image_url, file_id, path, "image_url", message_parts.from_data_uri, read_file
            )
            return Image(*data)
        case schema.AudioPart(audio):
            return message_parts.audio_part(audio, path, read_file)
    return Text(part.text)


def new_response(response_id: str, now: float, model: str, raw: dict[str, Any], stored: bool) -> schema.Response:
    """The response to a request, before anything is answered."""
    repeated = ("instructions", "previous_response_id", "max_output_tokens", "temperature", "top_p", "top_logprobs")
    fields: dict[str, Any] = {name: raw.get(name) for name in repeated}
    return schema.Response(
        response_id,
        now,
        model,
        **fields,
        tools=raw.get("tools") or [],
        tool_choice=raw.get("tool_choice") or "auto",
        parallel_tool_calls=raw.get("parallel_tool_calls") is not False,
        text=raw.get("text") or {"format": {"type": "text"}},
        reasoning={"effort": None, "summary": None} | (raw.get("reasoning") or {}),
        metadata=raw.get("metadata") or {},
        store=stored,
        background=raw.get("background") is True,
    )


def usage(used: Usage) -> schema.Usage:
    return schema.Usage(
        used.prompt_tokens,
        used.completion_tokens,
        used.prompt_tokens + used.completion_tokens,
        schema.InputDetails(used.cached_tokens, used.audio_tokens, used.image_tokens),
        schema.OutputDetails(used.reasoning_tokens),
    )
