"""Pure functions between wire shapes and the runtime's values. No I/O, no clock."""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from ....models.errors import GalagoError, InvalidRequest
from ....models.registry.resolve import MAX_ADAPTERS
from ...types import request as values
from ...types.events import Finished, TokenLogprob
from ...types.messages import Message, Role
from ...types.model_info import ModelInfo
from ...types.options import Dialect, bounds
from . import message_parts, schema, tools
from .choices import MOST

T = TypeVar("T")

BOUNDS = bounds("chat") | {"n": (1, MOST)}
"""The least and the greatest value of a chat request's numbers."""

_HALF = re.compile("[\ud800-\udfff]")
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_INVALID_TAG = re.compile(r"Invalid value '(.*)'")
_ACCEPTED = {
    "].role": "system, developer, user, assistant and tool",
    "].type": "text and, from a user, image_url, input_audio, input_video and file",
    "response_format.type": "text, json_object and json_schema",
    "tool_choice.type": "function and allowed_tools",
}
"""By the end of a field's path, what it may say."""
_ROLES: dict[type, Role] = {
    schema.SystemMessage: "system",
    schema.DeveloperMessage: "developer",
    schema.UserMessage: "user",
    schema.AssistantMessage: "assistant",
    schema.ToolMessage: "tool",
}


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body."""
    try:
        raw = msgspec.json.decode(body.removeprefix(BOM_UTF8))
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply to be read") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        field, what = _unread(body)
        if field is not None:
            raise InvalidRequest(f"{field[:80]} {what}", field[:80]) from error
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InvalidRequest("the body is not a JSON object")
    return raw


def _unread(body: bytes) -> tuple[str | None, str]:
    """The field that keeps a body from being read, where Python's `json` reads it, and what is wrong with it.

    That is one with NaN, an infinity or a number beyond all bounds, or with half of a surrogate pair in a text.
    """
    try:
        raw = json.loads(body, parse_int=lambda digits: int(digits) if len(digits) < 300 else math.inf)
        for name, value in raw.items() if isinstance(raw, dict) else ():
            if (what := _unreadable(name) or _unreadable(value)) is not None:
                return name.encode("utf-8", "replace").decode(), what
    except (ValueError, RecursionError):
        pass
    return None, ""


def _unreadable(value: Any) -> str | None:
    if isinstance(value, dict):
        return next(filter(None, (_unreadable(inner) for pair in value.items() for inner in pair)), None)
    if isinstance(value, list):
        return next(filter(None, map(_unreadable, value)), None)
    if isinstance(value, str) and _HALF.search(value):
        return "holds half of a surrogate pair, which is no character"
    return "is not a number that JSON knows" if isinstance(value, float) and not math.isfinite(value) else None


def chat_request(raw: dict[str, Any]) -> schema.ChatRequest:
    return typed(raw, schema.ChatRequest)


def typed(raw: dict[str, Any], kind: type[T], accepted: Mapping[str, str] = _ACCEPTED) -> T:
    """The typed request; an error names the field at fault. `accepted` tells, by the end of a field's path, what it
    may say."""
    try:
        return msgspec.convert(raw, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _invalid(str(error), accepted) from error


def _invalid(message: str, accepted: Mapping[str, str]) -> InvalidRequest:
    """msgspec's words, with the path of the field at fault as the API names it."""
    where, missing = _PATH.search(message), _MISSING.search(message)
    path = [where[1]] if where else []
    path += [missing[1]] if missing else []
    param = ".".join(path) or None
    text = message[: where.start()] if where else message
    if param and (unknown := _INVALID_TAG.fullmatch(text)):
        known = next((names for ending, names in accepted.items() if param.endswith(ending)), None)
        if known:
            return InvalidRequest(f"{param}: {unknown[1]!r} is not supported here; {known} are", param)
    return InvalidRequest(f"{param}: {text}" if param else text, param)


def to_request(chat: schema.ChatRequest, files: message_parts.Files) -> values.Request:
    """What the runtime is asked to do."""
    _check_whole("max_completion_tokens", chat.max_completion_tokens)
    limits = {limit for limit in (chat.max_tokens, chat.max_completion_tokens) if limit is not None}
    if len(limits) > 1:
        raise InvalidRequest("max_tokens and max_completion_tokens differ; give one of them", "max_tokens")
    return values.Request(
        messages=messages(chat.messages, files),
        effort=chat.reasoning_effort,
        variables=chat.chat_template_kwargs or {},
        **generation(chat, "chat") | {"max_tokens": next(iter(limits), None), "logprobs": _likeliest(chat)},
        **tools.choice(chat),
        continue_final=_continues(chat),
    )


def generation(asked: schema.GenerationRequest, dialect: Dialect) -> dict[str, Any]:
    """The arguments of `Request` that all requests for an answer share."""
    return {
        "sampling": values.sampling_from(asked, dialect),
        "json_schema": _schema(asked.response_format),
        "lora": _scales(asked.lora),
        **values.request_fields_from(asked, dialect),
    }


def inputs(given: str | list[str | int | list[int]], name: str) -> list[str | tuple[int, ...]]:
    """The texts that a field gives: one text, the tokens of one, or a list of either."""
    if isinstance(given, str):
        return [given]
    tokens = [one for one in given if isinstance(one, int)]
    if tokens and len(tokens) == len(given):
        return [tuple(tokens)]
    if tokens:
        raise InvalidRequest(f"{name} mixes token ids with texts; put each text's tokens into a list", name)
    return [one if isinstance(one, str) else tuple(one) for one in given if not isinstance(one, int)]


def in_background(request: values.Request) -> values.Request:
    """The request as one that waits for all others, however long that takes."""
    return replace(request, background=True, timeout=None)


def renamed(error: GalagoError) -> GalagoError:
    """An error about a schema, which the API knows by another name."""
    if error.param == "json_schema":
        error.param = "response_format"
    return error


def choices(chat: schema.GenerationRequest) -> int:
    """How many answers are asked for."""
    _check_whole("n", chat.n)
    return chat.n or 1


def _check_whole(name: str, value: int | None) -> None:
    values.check_number(name, value, *BOUNDS[name], whole=True)


def _likeliest(chat: schema.ChatRequest) -> int | None:
    """How many of the likeliest tokens to tell beside each one's own probability; `None`: nothing."""
    count = chat.top_logprobs or 0
    if count and not chat.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", "top_logprobs")
    return count if chat.logprobs else None


def _continues(chat: schema.ChatRequest) -> bool:
    """Whether an assistant's message at the end is continued: yes, as elsewhere, unless one of two fields says no."""
    asked, fresh = chat.continue_final_message, chat.add_generation_prompt
    ends_said = bool(chat.messages) and isinstance(chat.messages[-1], schema.AssistantMessage)
    if asked and fresh:
        raise InvalidRequest("add_generation_prompt excludes continue_final_message", "add_generation_prompt")
    if asked and not ends_said:
        raise InvalidRequest("continue_final_message needs an assistant's message at the end", "continue_final_message")
    if fresh is False and (asked is False or not ends_said):
        raise InvalidRequest(
            "without add_generation_prompt there must be an assistant's message at the end to continue",
            "add_generation_prompt",
        )
    return not fresh if asked is None else asked


def _scales(lora: list[schema.LoraScale] | None) -> tuple[float, ...] | None:
    """Strengths in the order of the adapters. As in llama-server: those not named get 0, an empty list asks nothing."""
    if not lora:
        return None
    for i, adapter in enumerate(lora):
        if not 0 <= adapter.id < MAX_ADAPTERS:
            raise InvalidRequest(f"lora[{i}].id is {adapter.id}, and there is no such adapter", "lora")
    named = {adapter.id: adapter.scale for adapter in lora}
    return tuple(named.get(i, 0.0) for i in range(max(named) + 1))


def messages(chat: list[schema.ChatMessage], files: message_parts.Files) -> tuple[Message, ...]:
    return tuple(
        Message(
            _ROLES[type(message)],
            message_parts.of_content(message.content, f"messages[{i}].content", files),
            message.name,
            **tools.of_message(message),
        )
        for i, message in enumerate(chat)
    )


def _schema(
    form: schema.TextFormat | schema.JsonObjectFormat | schema.JsonSchemaFormat | None,
) -> dict[str, Any] | bool | None:
    if isinstance(form, schema.JsonSchemaFormat):
        return form.json_schema.schema
    if isinstance(form, schema.JsonObjectFormat):
        return {"type": "object"} if form.schema is None else form.schema
    return None


def logprobs(tokens: Sequence[TokenLogprob]) -> schema.Logprobs:
    content = []
    for token in tokens:
        likeliest = [schema.TopLogprob(*_told(*pair)) for pair in token.likeliest]
        content.append(schema.TokenLogprob(*_told(token.token, token.logprob), likeliest))
    return schema.Logprobs(content)


def _told(token: bytes, logprob: float) -> tuple[str, float, list[int]]:
    """A token as OpenAI's API tells it, where -9999 stands for what is never said."""
    return token.decode("utf-8", "replace"), max(logprob, -9999.0), list(token)


def warning_headers(warnings: list[str]) -> dict[str, str]:
    """What is wrong with a request's fields, for programs that do not look into the answer."""
    return {"x-galago-warnings": json.dumps(warnings)} if warnings else {}


def usage(answers: list[Finished], each: int | None = None) -> schema.Usage:
    """Of all answers to a request together: all of them to one prompt, which counts once, or so many to `each`."""
    used = [answer.usage for answer in answers]
    prompts = used[:: each or len(used)]
    prompt, completion = sum(u.prompt_tokens for u in prompts), sum(u.completion_tokens for u in used)
    return schema.Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=schema.PromptDetails(
            sum(u.cached_tokens for u in prompts),
            sum(u.audio_tokens for u in prompts),
            sum(u.image_tokens for u in prompts),
        ),
        completion_tokens_details=schema.CompletionDetails(
            sum(u.accepted for u in used), sum(u.rejected for u in used), sum(u.reasoning_tokens for u in used)
        ),
    )


def timings(answers: list[Finished]) -> schema.Timings:
    """Of all answers to a request together."""
    times = replace(answers[0].timings, total=max(answer.timings.total for answer in answers))
    rate = times.tokens_per_second(sum(answer.usage.completion_tokens for answer in answers))
    return schema.Timings(
        prepared_ms=round(times.prepared * 1000, 3),
        first_token_ms=round(times.first_token * 1000, 3),
        total_ms=round(times.total * 1000, 3),
        tokens_per_second=None if rate is None else round(rate, 2),
    )


def model_card(info: ModelInfo, loaded: bool = True) -> schema.ModelCard:
    senses = [("text", True), ("image", info.vision), ("audio", info.audio)]
    return schema.ModelCard(
        id=info.id,
        created=info.created,
        context_length=info.context_length,
        input_modalities=[name for name, present in senses if present],
        parameters=info.parameters,
        size_bytes=info.size_bytes,
        description=info.description,
        loaded=loaded,
    )
