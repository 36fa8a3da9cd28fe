"""Ollama's requests as the runtime's values. Pure: no I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

from ....models.errors import InvalidRequest
from ...types import request as values
from ...types.messages import Image, Message, Part, ReasoningEffort, Text, Tool, ToolCall
from ...types.warnings import Warnings
from ..openai.chat.message_parts import from_data_uri_or_base64, medium_part, readable
from . import schema

ChatOrGenerateRequest: TypeAlias = schema.ChatRequest | schema.GenerateRequest


def messages(request: ChatOrGenerateRequest) -> tuple[Message, ...]:
    """The messages; none if the client only wants the model to be loaded, or gives a prompt without a template."""
    if isinstance(request, schema.ChatRequest):
        return _chat_messages(request.messages or [])
    if not request.prompt and not request.images or _has_no_template(request):
        return ()
    system = (Message("system", (Text(request.system),)),) if request.system else ()
    return (*system, Message("user", _parts(request.prompt, request.images, "images")))


def is_empty(request: ChatOrGenerateRequest) -> bool:
    """Whether there is nothing to answer: such requests only want the model to be loaded."""
    if isinstance(request, schema.ChatRequest):
        return not request.messages
    return not request.prompt and not (request.suffix if _has_no_template(request) else request.images)


def _has_no_template(request: schema.GenerateRequest) -> bool:
    return bool(request.raw or request.suffix)


def _completion_prompt(request: ChatOrGenerateRequest) -> values.CompletionPrompt | None:
    """The prompt of a request that uses no chat template. A suffix is the text after the part to fill in."""
    if isinstance(request, schema.ChatRequest) or not _has_no_template(request):
        return None
    if not (request.prompt or request.suffix):
        return None
    if request.images:
        raise InvalidRequest(
            "images need a chat template, but raw and suffix use none; leave images or them out", "images"
        )
    return values.CompletionPrompt(request.prompt or "", request.suffix or None)


def _chat_messages(chat: Sequence[schema.Message]) -> tuple[Message, ...]:
    """The messages. Tool calls without an id get one; a result without an id belongs to the first call of its name that
    has no result yet."""
    converted: list[Message] = []
    open_calls: list[ToolCall] = []
    for i, message in enumerate(chat):
        calls = tuple(_tool_call(call, f"call_{i}_{j}") for j, call in enumerate(message.tool_calls or ()))
        call_id = message.tool_call_id
        if message.role == "tool":
            matching = [call for call in open_calls if _is_result_of(message, call)]
            call_id = matching[0].id if matching else call_id
            open_calls = [call for call in open_calls if call.id != call_id]
        open_calls += calls
        parts = _parts(message.content, message.images, f"messages[{i}].images")
        name = message.tool_name if message.role == "tool" else None
        converted.append(Message(message.role, parts, name, calls, message.thinking or None, call_id))
    return tuple(converted)


def _is_result_of(message: schema.Message, call: ToolCall) -> bool:
    if message.tool_call_id is not None:
        return call.id == message.tool_call_id
    return message.tool_name in (None, "", call.name)


def _tool_call(call: schema.PastToolCall, default_id: str) -> ToolCall:
    arguments = call.function.arguments
    return ToolCall(
        call.id or default_id, call.function.name, arguments if isinstance(arguments, str) else json.dumps(arguments)
    )


def _parts(text: str | None, images: Sequence[str] | None, path: str) -> tuple[Part, ...]:
    """Images come before the text, as in Ollama."""
    image_parts = [_image(data, f"{path}[{i}]") for i, data in enumerate(images or ())]
    return (*image_parts, *([Text(text)] if text else ()))


def _image(text: str, path: str) -> Part:
    """The picture; or a sound or a video, by its first bytes: messages have no other field for them."""

    def read() -> Part:
        data = from_data_uri_or_base64(text, path)
        return medium_part(data, path) or Image(data, path)

    return readable("picture", path, read)


def to_request(request: ChatOrGenerateRequest, warnings: Warnings) -> values.Request:
    """The request to the runtime. Warns about anything done differently than asked."""
    tools = request.tools or () if isinstance(request, schema.ChatRequest) else ()
    if isinstance(request, schema.GenerateRequest) and request.system and _has_no_template(request):
        problem = "system has no place, because raw and suffix use no chat template; write it into prompt"
        warnings.add_unless_strict(problem, "system", instead="it is left out")
    fields = values.request_fields_from(request, "ollama", warnings, skip=("max_tokens",))
    return values.Request(
        messages=messages(request),
        completion=_completion_prompt(request),
        sampling=values.sampling_from(request, "ollama", warnings),
        **fields | {"logprobs": _top_logprobs(request, fields["logprobs"], warnings)},
        max_tokens=_max_tokens(request.options, warnings),
        json_schema=_json_schema(request.format),
        tools=tuple(_tool(tool.function) for tool in tools),
        reasoning_effort=_effort(request.think),
        effort_field="think",
        strict=warnings.strict,
    )


def _tool(function: schema.Function) -> Tool:
    return Tool(function.name, function.description, function.parameters, bool(function.strict))


def _max_tokens(options: schema.Options | None, warnings: Warnings) -> int | None:
    """Zero and negative numbers mean as many as fit in the context, as in Ollama."""
    limit = options.num_predict if options else None
    return values.max_tokens_from(limit if limit and limit > 0 else None, "options.num_predict", warnings)


def _json_schema(answer_format: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """The schema. A format may also be written as in OpenAI's API."""
    if isinstance(answer_format, dict):
        kind, wrapped = answer_format.get("type"), answer_format.get("json_schema")
        if kind == "json_schema" and isinstance(wrapped, dict) and isinstance(wrapped.get("schema"), dict):
            return dict(wrapped["schema"])
        return {"type": "object"} if kind == "json_object" else answer_format
    return {"type": "object"} if answer_format == "json" else None


def _effort(think: bool | str | None) -> ReasoningEffort | None:
    if isinstance(think, bool):
        return "medium" if think else "none"
    return think  # type: ignore[return-value]


def _top_logprobs(request: schema.AnswerRequest, count: int | None, warnings: Warnings) -> int | None:
    if count and not request.logprobs:
        warnings.add_unless_strict("top_logprobs has no effect without logprobs: true", "top_logprobs")
    return count or 0 if request.logprobs else None


def check_context(request: schema.AnswerRequest, context_length: int, warnings: Warnings) -> None:
    """Warns a client that wants a larger context than the one the model was loaded with."""
    num_ctx = request.options.num_ctx if request.options else None
    if num_ctx is not None and num_ctx > context_length:
        warnings.add_unless_strict(
            f"options.num_ctx is {num_ctx}, but the model was loaded with a context of {context_length} tokens; "
            "set it with `galago serve --context`",
            "options.num_ctx",
        )
