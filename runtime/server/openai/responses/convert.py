"""Between the Responses API's JSON shapes and the runtime's values. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from .....models.errors import GalagoError, InvalidRequest
from ....types import request as values
from ....types.events import Usage
from ....types.messages import Message, Text
from ....types.model_info import ModelInfo
from ....types.warnings import Warnings
from ...http import effort_forms, text_forms, tool_forms
from ..chat.message_parts import ReadFile
from . import compaction, input_items, item_schema, schema, tools
from .item_messages import messages
from .item_schema import Item, Tool

_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED_REASONING = "reasoning.encrypted_content"
_ID_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "compaction": "cmp",
    "additional_tools": "at",
}
_REQUIRED: dict[str, dict[str, Any]] = {
    "reasoning": {"summary": []},
    "additional_tools": {"role": "developer"},
    "input_image": {"detail": "auto"},
    "output_text": {"annotations": [], "logprobs": []},
}
"""Fields that are shown in items and parts even if the client left them out, with their values."""
NO_USAGE = schema.Usage(0, 0, 0, schema.InputDetails(0, 0, 0), schema.OutputDetails(0))
"""The usage of a response that was made without a model."""
_LIMITS = ("max_tokens", "max_completion_tokens")
_KEYS = ("user", "safety_identifier", "prompt_cache_key")
"""Fields that are only repeated in the response."""
_MAX_PLACES = 5
"""Most items that a warning names."""
_API_FIELD_NAMES = {"json_schema": "text.format", "max_tokens": "max_output_tokens"}


def with_api_field_name(error: GalagoError) -> GalagoError:
    """The error with the API's name for a field of the runtime's request."""
    error.param = _API_FIELD_NAMES.get(error.param or "", error.param)
    return error


def rewritten(raw: dict[str, Any], warnings: Warnings, find: input_items.FindItems = lambda _ids: {}) -> dict[str, Any]:
    """The request with its items and tools in the declared forms. Warns about those that cannot be used.

    `find` finds the items that references name.
    """
    raw = _renamed(raw)
    items, given = raw.get("input"), tool_forms.listed(raw.get("tools"), warnings)
    changed: dict[str, Any] = {name: str(raw[name]) for name in _KEYS if raw.get(name) is not None}
    if isinstance(raw.get("metadata"), dict):
        changed["metadata"] = {name: input_items.text_or_json(value) for name, value in raw["metadata"].items()}
    reasoning = raw.get("reasoning")
    if reasoning is not None:
        effort = effort_forms.effort(reasoning.get("effort") if isinstance(reasoning, dict) else reasoning)
        changed["reasoning"] = (reasoning if isinstance(reasoning, dict) else {}) | {"effort": effort}
    if raw.get("instructions"):
        changed["instructions"] = text_forms.as_text(raw["instructions"], "instructions", warnings)
    if isinstance(items, dict):
        items = [items]
    if isinstance(items, list):
        items = input_items.with_kept_items(input_items.spread(items, "input", warnings), "input", find, warnings)
        changed["input"] = input_items.rewritten(items, "input", warnings)
    if given is None or isinstance(given, list):
        changed["tools"] = kept = None if given is None else tools.kept(given, warnings)
        changed["tool_choice"] = tools.choice(raw.get("tool_choice"), bool(kept), bool(given), warnings)
    return raw | changed


def _renamed(raw: dict[str, Any]) -> dict[str, Any]:
    """The request with fields of the Chat Completions API under this API's names."""
    renamed = {name: value for name, value in raw.items() if name not in _LIMITS and name != "response_format"}
    if raw.get("input") is None and raw.get("messages") is not None:
        renamed["input"] = renamed.pop("messages")
    limit = next((raw[name] for name in _LIMITS if raw.get(name) is not None), None)
    if limit is not None and raw.get("max_output_tokens") is None:
        renamed["max_output_tokens"] = limit
    text = raw.get("text") if isinstance(raw.get("text"), dict) else {}
    form = (text or {}).get("format") or raw.get("response_format")
    if isinstance(form, dict):
        nested = form.get("json_schema")
        flat = {name: value for name, value in form.items() if name != "json_schema"}
        renamed["text"] = {**(text or {}), "format": flat | (nested if isinstance(nested, dict) else {})}
    elif raw.get("response_format") is not None:
        renamed["response_format"] = raw["response_format"]
    return renamed


def all_tools(request: schema.ResponsesRequest, items: Sequence[Item | None]) -> list[Tool]:
    """The tools of the request and of a conversation's items. If two have the same name, the later one counts."""
    added = [tool for item in items if isinstance(item, item_schema.AdditionalTools) for tool in item.tools]
    return list(tools.by_name([*(request.tools or ()), *added]).values()) if added else request.tools or []


def asks_for_compaction(raw: dict[str, Any]) -> bool:
    """Whether the last item of a request asks for a compaction instead of an answer."""
    items = raw.get("input")
    last = items[-1] if isinstance(items, list) and items else None
    return isinstance(last, dict) and last.get("type") == "compaction_trigger"


def warn_about_outputs_without_calls(
    history: Sequence[Item | None], given: Sequence[Item | None], warnings: Warnings
) -> None:
    """Warns if outputs in a conversation's new items answer calls that are not in the conversation."""
    calls = (item_schema.FunctionCall, item_schema.CustomToolCall)
    outputs = (item_schema.FunctionCallOutput, item_schema.CustomToolCallOutput)
    call_ids = {item.call_id for item in (*history, *given) if isinstance(item, calls)}
    alone = [i for i, item in enumerate(given) if isinstance(item, outputs) and item.call_id not in call_ids]
    if alone:
        places = ", ".join(f"input[{i}]" for i in alone[:_MAX_PLACES]) + (", ..." if alone[_MAX_PLACES:] else "")
        warnings.append(f"the calls answered by {places} are not in the conversation; the model sees only the outputs")


def kept_messages(items: Sequence[Item | None], new_id: Callable[[str], str]) -> list[dict[str, Any]]:
    """The messages that a compaction leaves unchanged, with ids."""
    return stored_items([msgspec.to_builtins(item) for item in items if compaction.is_kept(item)], new_id)


def stored_items(items: str | list[Any] | None, new_id: Callable[[str], str]) -> list[dict[str, Any]]:
    """The input as it is stored and shown: items with ids and all fields, and messages with their texts in parts.

    `new_id` returns an id with a prefix.
    """
    if isinstance(items, str):
        items = [{"type": "message", "role": "user", "content": items}]
    return [_stored_item(item, new_id) for item in items or () if item is not None]


def _stored_item(item: dict[str, Any], new_id: Callable[[str], str]) -> dict[str, Any]:
    kind, content = item["type"], item.get("content")
    stored = {"id": new_id(_ID_PREFIXES[kind]), "status": "completed"} | _REQUIRED.get(kind, {}) | item
    if kind == "message" and isinstance(content, str):
        content = [{"type": "output_text" if item["role"] == "assistant" else "input_text", "text": content}]
    for field, parts in (("content", content), ("output", item.get("output"))):
        if isinstance(parts, list):
            stored[field] = [_stored_part(part) for part in parts if part is not None]
    return stored


def _stored_part(part: dict[str, Any]) -> dict[str, Any]:
    return _REQUIRED.get(part["type"], {}) | {name: value for name, value in part.items() if value is not None}


def to_items(items: Sequence[Any]) -> list[Item | None]:
    """Rewritten items as structs."""
    return msgspec.convert(items, list[Item | None])


def to_request(
    request: schema.ResponsesRequest,
    history: Sequence[Item | None],
    kept_tools: Sequence[Tool],
    read_file: ReadFile,
    warnings: Warnings,
) -> values.Request:
    """The request to the runtime; `history` comes before the input.

    Warns about anything done differently than asked.
    """
    system = (Message("system", (Text(request.instructions),)),) if request.instructions else ()
    if request.truncation == "auto":
        warnings.append("truncation has no effect here: a conversation that is too long is refused")
    if request.text and request.text.verbosity not in (None, "medium"):
        warnings.add_unless_strict("text.verbosity has no effect here", "text.verbosity")
    fields = values.request_fields_from(request, "responses", warnings)
    return values.Request(
        messages=(
            *system,
            *messages(history, "previous", read_file),
            *messages(given_items(request.input), "input", read_file),
        ),
        sampling=values.sampling_from(request, "responses", warnings),
        json_schema=_json_schema(request.text),
        reasoning_effort=request.reasoning.effort if request.reasoning else None,
        effort_field="reasoning.effort",
        **fields | {"logprobs": _top_logprobs(request, fields["logprobs"], warnings)},
        continue_final=False,
        **_tool_arguments(request, kept_tools, warnings),
        strict=warnings.strict,
    )


def given_items(given: str | list[Item | None] | None) -> Sequence[Item | None]:
    return [item_schema.Message("user", given)] if isinstance(given, str) else given or []


def _json_schema(text: schema.TextConfig | None) -> dict[str, Any] | bool | None:
    text_format = text.format if text else None
    if isinstance(text_format, schema.JsonSchemaFormat):
        return text_format.schema
    return {"type": "object"} if isinstance(text_format, schema.JsonObjectFormat) else None


def _top_logprobs(request: schema.ResponsesRequest, count: int | None, warnings: Warnings) -> int | None:
    """The number of alternatives for each token; `None` for no log-probabilities at all."""
    for name in request.include or ():
        if name not in (_LOGPROBS, _ENCRYPTED_REASONING):
            warnings.add_unless_strict(f"include: {name[:80]!r} has no effect here", "include")
    return count or 0 if count or _LOGPROBS in (request.include or ()) else None


def _tool_arguments(request: schema.ResponsesRequest, kept_tools: Sequence[Tool], warnings: Warnings) -> dict[str, Any]:
    choice = request.tool_choice
    if choice not in (None, "none", "auto") and not kept_tools:
        raise InvalidRequest("tool_choice requires a tool call, but the request has no tools", "tool_choice")
    kept = tuple(tools.for_model(tool, warnings) for tool in kept_tools)
    arguments: dict[str, Any] = {"tools": kept, "parallel_tool_calls": request.parallel_tool_calls is not False}
    match choice:
        case schema.NamedTool(name):
            name = tools.chosen_name(name, kept_tools)
            return arguments | {"tool_choice": "required", "allowed_tools": (name,), "parallel_tool_calls": False}
        case schema.AllowedTools(mode, allowed):
            names = tuple(tools.chosen_name(tool.name, kept_tools) for tool in allowed)
            return arguments | {"tool_choice": mode, "allowed_tools": names}
    return arguments | {"tool_choice": choice or "auto"}


def new_response(
    response_id: str,
    now: float,
    model: ModelInfo,
    request: schema.ResponsesRequest,
    kept_tools: Sequence[Tool],
    stored: bool,
) -> schema.Response:
    """The response to a request, before anything is answered."""
    sampling = model.sampling
    reasoning = request.reasoning or schema.ReasoningConfig()
    return schema.Response(
        id=response_id,
        created_at=int(now),
        model=model.id,
        instructions=request.instructions,
        previous_response_id=request.previous_response_id,
        tools=[tools.echoed(tool) for tool in kept_tools],
        tool_choice=request.tool_choice or "auto",
        parallel_tool_calls=request.parallel_tool_calls is not False,
        text=_echoed_text(request.text or schema.TextConfig()),
        reasoning={"effort": reasoning.effort, "summary": None},
        max_output_tokens=request.max_output_tokens if (request.max_output_tokens or 0) > 0 else None,
        max_tool_calls=request.max_tool_calls,
        temperature=_used(request.temperature, sampling.temperature, 0.0),
        top_p=_used(request.top_p, sampling.top_p, 1.0),
        presence_penalty=_used(request.presence_penalty, sampling.presence_penalty, 0.0),
        frequency_penalty=_used(request.frequency_penalty, sampling.frequency_penalty, 0.0),
        top_logprobs=request.top_logprobs or 0,
        metadata=request.metadata or {},
        store=stored,
        background=request.background is True,
        safety_identifier=request.safety_identifier,
        prompt_cache_key=request.prompt_cache_key,
        user=request.user,
    )


def _used(asked: float | None, recommended: float | None, default: float) -> float:
    return next((value for value in (asked, recommended) if value is not None), default)


def _echoed_text(text: schema.TextConfig) -> dict[str, Any]:
    echoed: dict[str, Any] = {"format": {"type": "text"}}
    match text.format:
        case schema.JsonObjectFormat():
            echoed = {"format": {"type": "json_object"}}
        case schema.JsonSchemaFormat(form, name, description, strict):
            named = {"type": "json_schema", "name": name or "response", "description": description}
            echoed = {"format": named | {"schema": form, "strict": strict is True}}
    return echoed | ({} if text.verbosity is None else {"verbosity": text.verbosity})


def usage(used: Usage) -> schema.Usage:
    return schema.Usage(
        used.prompt_tokens,
        used.completion_tokens,
        used.prompt_tokens + used.completion_tokens,
        schema.InputDetails(used.cached_tokens, used.audio_tokens, used.image_tokens),
        schema.OutputDetails(used.reasoning_tokens),
    )
