"""Pure functions between the Responses API's wire shapes and the runtime's values. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec

from .....models.errors import InvalidRequest, UnsupportedField
from ....types import request
from ....types.events import Usage
from ....types.messages import Image, Message, Part, Text, Tool, ToolCall
from ...http.field_policy import ANY, Known
from .. import message_parts
from . import schema

_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"
ACCEPTED = {
    "].type": "message, function_call, function_call_output and reasoning, with input_text, input_image, input_audio "
    "and output_text in them,",
    "format.type": "text, json_object and json_schema",
    "tool_choice.type": "function and allowed_tools",
}

_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_ITEM = {"id": ANY, "status": ANY}
_CALL = _ITEM | {"caller": ANY, "namespace": None, "async": False}
_ONLY_THERE = {"encrypted_content": ": only OpenAI can read it"}
KNOWN = Known(
    inert={
        schema.ResponsesRequest: {
            "max_tool_calls": None,
            "prompt_cache_key": ANY,
            "prompt_cache_options": ANY,
            "prompt_cache_retention": ANY,
            "safety_identifier": ANY,
            "service_tier": ANY,
            "user": ANY,
        },
        schema.InputImage: {"detail": "auto"},
        schema.Message: _ITEM | {"phase": ANY},
        schema.FunctionCall: _CALL | {"parsed_arguments": ANY},
        schema.FunctionCallOutput: _CALL | {"name": ANY},
        schema.Reasoning: _ITEM | {"summary": [], "encrypted_content": None},
        schema.OutputText: {"parsed": ANY},
        schema.Tool: {"strict": ANY, "output_schema": None},
        schema.JsonSchemaFormat: {"description": ANY, "strict": ANY},
        schema.ReasoningConfig: {"context": None},
    },
    hints={
        schema.InputImage: {"detail": ""},
        schema.Reasoning: _ONLY_THERE | {"summary": ": the thoughts themselves are what the model is shown"},
        schema.ReasoningConfig: {
            name: ": thoughts are told whole, not summed up" for name in ("summary", "generate_summary")
        },
    },
    unsupported={
        schema.ResponsesRequest: {
            "context_management": ([],),
            "conversation": (),
            "moderation": (),
            "prompt": (),
            "truncation": ("disabled",),
        },
        schema.TextConfig: {"verbosity": ("medium",)},
        schema.Tool: {"async": (False,), "defer_loading": (False,), "allowed_callers": (["direct"],)},
    },
)


def normal(raw: dict[str, Any]) -> dict[str, Any]:
    """The request with items that all say what they are, so that one reader fits all."""
    given = raw.get("input")
    return raw | {"input": [_typed(item) for item in given]} if isinstance(given, list) else raw


def _typed(item: Any) -> Any:
    return {"type": "message"} | item if isinstance(item, dict) and "role" in item else item


def given(asked: schema.ResponsesRequest) -> Sequence[schema.Item]:
    return [schema.Message("user", asked.input)] if isinstance(asked.input, str) else asked.input


def kept(given: str | list[dict[str, Any]], name: Callable[[str], str]) -> list[dict[str, Any]]:
    """The input as it is stored and shown: items that all have an id, messages with their texts in parts. `name` makes
    an id for a kind of item."""
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    return [_kept(item, name) for item in given]


def _kept(item: dict[str, Any], name: Callable[[str], str]) -> dict[str, Any]:
    kind, text = item["type"], item.get("content")
    told = {"id": name(_PREFIXES[kind]), "status": "completed"} | {k: v for k, v in item.items() if v is not None}
    if kind == "message" and isinstance(text, str):
        if item["role"] == "assistant":
            return told | {"content": [{"type": "output_text", "text": text, "annotations": []}]}
        return told | {"content": [{"type": "input_text", "text": text}]}
    return told


def items(stored: Sequence[Any]) -> list[schema.Item]:
    """Items that were accepted once, as values."""
    return msgspec.convert(stored, list[schema.Item])


def to_request(
    asked: schema.ResponsesRequest, history: Sequence[schema.Item], files: message_parts.Files
) -> request.Request:
    """What the runtime is asked to do; `history` stands before the input."""
    system = (Message("system", (Text(asked.instructions),)),) if asked.instructions else ()
    return request.Request(
        messages=(*system, *messages(history, "previous", files), *messages(given(asked), "input", files)),
        sampling=request.sampling_from(asked, "responses"),
        json_schema=_schema(asked.text),
        effort=asked.reasoning.effort if asked.reasoning else None,
        **request.request_fields_from(asked, "responses") | {"logprobs": _likeliest(asked)},
        continue_final=False,
        **_tools(asked),
    )


def _schema(text: schema.TextConfig | None) -> dict[str, Any] | bool | None:
    form = text.format if text else None
    if isinstance(form, schema.JsonSchemaFormat):
        return form.schema
    return {"type": "object"} if isinstance(form, schema.JsonObjectFormat) else None


def _likeliest(asked: schema.ResponsesRequest) -> int | None:
    """How many of the likeliest tokens to tell beside each one's own probability; `None`: nothing."""
    for name in asked.include or ():
        if name not in (_LOGPROBS, _ENCRYPTED):
            raise UnsupportedField(f"include: {name[:80]!r} is not offered here; {_LOGPROBS} is", "include")
    wanted = asked.top_logprobs or _LOGPROBS in (asked.include or ())
    return (asked.top_logprobs or 0) if wanted else None


def _tools(asked: schema.ResponsesRequest) -> dict[str, Any]:
    choice = asked.tool_choice
    if choice not in (None, "none", "auto") and not asked.tools:
        raise InvalidRequest("tool_choice asks for a call, and there are no tools", "tool_choice")
    tools = tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(asked.tools or ()))
    chosen: dict[str, Any] = {"tools": tools, "parallel": asked.parallel_tool_calls is not False}
    match choice:
        case schema.NamedTool(name):
            return chosen | {"tool_choice": "required", "allowed": (name,), "parallel": False}
        case schema.AllowedTools(mode, allowed):
            return chosen | {"tool_choice": mode, "allowed": tuple(tool.name for tool in allowed)}
    return chosen | {"tool_choice": choice or "auto"}


def _tool(tool: schema.Tool, path: str) -> Tool:
    if tool.type != "function":
        raise UnsupportedField(
            f"{path} is a {tool.type!r:.60}, which runs at OpenAI; only functions of your own are offered here", path
        )
    return Tool(tool.name, tool.description, tool.parameters)


def messages(said: Sequence[schema.Item], path: str, files: message_parts.Files) -> tuple[Message, ...]:
    """A thought, a text and calls that follow each other are one message of the assistant's."""
    return tuple(chain.from_iterable(_turns(said, path, files)))


def _turns(said: Sequence[schema.Item], path: str, files: message_parts.Files) -> Iterator[tuple[Message, ...]]:
    turn = _Turn()
    for i, item in enumerate(said):
        where = f"{path}[{i}]"
        match item:
            case schema.Reasoning(content):
                if turn.parts or turn.calls:
                    yield turn.end()
                turn.thoughts += [part.text for part in content or ()]
            case schema.Message("assistant", content):
                if turn.parts or turn.calls:
                    yield turn.end()
                turn.parts += _parts(content, f"{where}.content", files)
            case schema.FunctionCall(call_id, name, arguments):
                turn.calls.append(ToolCall(call_id, name, arguments))
            case schema.FunctionCallOutput(call_id, output):
                yield turn.end()
                yield (Message("tool", _parts(output, f"{where}.output", files), answers=call_id),)
            case schema.Message(role, content):
                yield turn.end()
                yield (Message(role, _parts(content, f"{where}.content", files)),)
    yield turn.end()


class _Turn:
    """A message of the assistant's while its items arrive."""

    def __init__(self) -> None:
        self.thoughts: list[str] = []
        self.parts: list[Part] = []
        self.calls: list[ToolCall] = []

    def end(self) -> tuple[Message, ...]:
        """The message, if anything was said, and a new beginning."""
        thoughts = "".join(self.thoughts)
        message = Message("assistant", tuple(self.parts), calls=tuple(self.calls), reasoning=thoughts or None)
        self.thoughts, self.parts, self.calls = [], [], []
        return (message,) if message != Message("assistant", ()) else ()


def _parts(content: str | Sequence[Any], path: str, files: message_parts.Files) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return tuple(_part(part, f"{path}[{i}]", files) for i, part in enumerate(content))


def _part(part: Any, path: str, files: message_parts.Files) -> Part:
    match part:
        case schema.InputImage(image_url, file_id):
            return Image(*message_parts.media(image_url, file_id, path, "image_url", message_parts.data_uri, files))
        case schema.AudioPart(sound):
            return message_parts.sound(sound, path, files)
    return Text(part.text)


def response(name: str, now: float, model: str, raw: dict[str, Any], stored: bool) -> schema.Response:
    """The answer to a request, which has only begun."""
    same = ("instructions", "previous_response_id", "max_output_tokens", "temperature", "top_p", "top_logprobs")
    told: dict[str, Any] = {field: raw.get(field) for field in same}
    return schema.Response(
        name,
        now,
        model,
        **told,
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
