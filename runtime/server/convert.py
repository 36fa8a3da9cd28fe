"""Pure functions between wire shapes and the runtime's values. No I/O, no clock."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

from ...models.errors import InvalidRequest, MediaError
from ...models.ref import MAX_ADAPTERS
from .. import values
from . import tools, wire

_PATH = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_INVALID_TAG = re.compile(r"Invalid value '(.*)'")
_ACCEPTED = {
    "].role": "system, developer, user, assistant and tool",
    "].type": "text and, from a user, image_url and input_audio",
    "response_format.type": "text, json_object and json_schema",
}
"""By the end of a field's path, what it may say."""
_DATA_URI = re.compile(r"data:[^,;]*(?:;[^,;]+)*;base64,", re.IGNORECASE)
_ROLES: dict[type, values.Role] = {
    wire.SystemMessage: "system",
    wire.DeveloperMessage: "developer",
    wire.UserMessage: "user",
    wire.AssistantMessage: "assistant",
    wire.ToolMessage: "tool",
}


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body."""
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InvalidRequest("the body is not a JSON object")
    return raw


def chat_request(raw: dict[str, Any]) -> wire.ChatRequest:
    """The typed request; an error names the field at fault."""
    try:
        return msgspec.convert(raw, wire.ChatRequest)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _invalid(str(error)) from error


def _invalid(message: str) -> InvalidRequest:
    """msgspec's words, with the path of the field at fault as the API names it."""
    where, missing = _PATH.search(message), _MISSING.search(message)
    path = [where[1]] if where else []
    path += [missing[1]] if missing else []
    param = ".".join(path) or None
    text = message[: where.start()] if where else message
    if param and (unknown := _INVALID_TAG.fullmatch(text)):
        accepted = next((names for ending, names in _ACCEPTED.items() if param.endswith(ending)), None)
        if accepted:
            return InvalidRequest(f"{param}: {unknown[1]!r} is not supported here; {accepted} are", param)
    return InvalidRequest(f"{param}: {text}" if param else text, param)


def to_request(chat: wire.ChatRequest) -> values.Request:
    """What the runtime is asked to do."""
    limits = {limit for limit in (chat.max_tokens, chat.max_completion_tokens) if limit is not None}
    if len(limits) > 1:
        raise InvalidRequest("max_tokens and max_completion_tokens differ; give one of them", "max_tokens")
    return values.Request(
        messages=messages(chat.messages),
        sampling=values.Sampling(chat.temperature, chat.top_p, chat.top_k, chat.min_p, chat.seed),
        max_tokens=next(iter(limits), None),
        stop=(chat.stop,) if isinstance(chat.stop, str) else tuple(chat.stop or ()),
        ignore_eos=bool(chat.ignore_eos),
        cache=chat.cache is not False,
        json_schema=_schema(chat.response_format),
        lora=_scales(chat.lora),
        timeout=chat.timeout,
        effort=chat.reasoning_effort,
        **tools.choice(chat),
    )


def _scales(lora: list[wire.LoraScale] | None) -> tuple[float, ...] | None:
    """Strengths in the order of the adapters. As in llama-server: those not named get 0, an empty list asks nothing."""
    if not lora:
        return None
    for i, adapter in enumerate(lora):
        if not 0 <= adapter.id < MAX_ADAPTERS:
            raise InvalidRequest(f"lora[{i}].id is {adapter.id}, and there is no such adapter", "lora")
    named = {adapter.id: adapter.scale for adapter in lora}
    return tuple(named.get(i, 0.0) for i in range(max(named) + 1))


def messages(chat: list[wire.ChatMessage]) -> tuple[values.Message, ...]:
    return tuple(
        values.Message(
            _ROLES[type(message)],
            _parts(message.content, f"messages[{i}].content"),
            message.name,
            **tools.of_message(message),
        )
        for i, message in enumerate(chat)
    )


def _parts(content: Any, path: str) -> tuple[values.Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (values.Text(content),)
    return tuple(_part(part, f"{path}[{i}]") for i, part in enumerate(content))


def _part(part: wire.TextPart | wire.ImagePart | wire.AudioPart, path: str) -> values.Part:
    if isinstance(part, wire.TextPart):
        return values.Text(part.text)
    if isinstance(part, wire.ImagePart):
        source = f"{path}.image_url.url"
        return values.Image(_data_uri(part.image_url.url, source), source)
    source = f"{path}.input_audio.data"
    return values.Audio(_base64(part.input_audio.data, source), source)


def _data_uri(url: str, source: str) -> bytes:
    head = _DATA_URI.match(url)
    if head is None:
        shown = url[:40]
        raise MediaError(
            f"{source} is not a base64 data URI but {shown!r}; media is never fetched from elsewhere, send "
            "data:image/png;base64,...",
            source,
        )
    return _base64(url[head.end() :], source)


def _base64(data: str, source: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{source} is not valid base64: {error}", source) from error


def _schema(
    form: wire.TextFormat | wire.JsonObjectFormat | wire.JsonSchemaFormat | None,
) -> dict[str, Any] | bool | None:
    if isinstance(form, wire.JsonSchemaFormat):
        return form.json_schema.schema
    if isinstance(form, wire.JsonObjectFormat):
        return {"type": "object"} if form.schema is None else form.schema
    return None


def usage(used: values.Usage) -> wire.Usage:
    return wire.Usage(
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        total_tokens=used.prompt_tokens + used.completion_tokens,
        prompt_tokens_details=wire.PromptDetails(used.cached_tokens, used.audio_tokens, used.image_tokens),
        completion_tokens_details=wire.CompletionDetails(used.accepted, used.rejected, used.reasoning_tokens),
    )


def timings(finished: values.Finished) -> wire.Timings:
    times = finished.timings
    rate = times.tokens_per_second(finished.usage.completion_tokens)
    return wire.Timings(
        prepared_ms=round(times.prepared * 1000, 3),
        first_token_ms=round(times.first_token * 1000, 3),
        total_ms=round(times.total * 1000, 3),
        tokens_per_second=None if rate is None else round(rate, 2),
    )


def model_card(info: values.ModelInfo, loaded: bool = True) -> wire.ModelCard:
    senses = [("text", True), ("image", info.vision), ("audio", info.audio)]
    return wire.ModelCard(
        id=info.id,
        created=info.created,
        context_length=info.context_length,
        input_modalities=[name for name, present in senses if present],
        parameters=info.parameters,
        size_bytes=info.size_bytes,
        description=info.description,
        loaded=loaded,
    )
