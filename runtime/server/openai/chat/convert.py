"""Chat requests as the runtime's values, and the runtime's events as chat completions. Pure: no I/O, no clock.

Text is converted here; media parts and tools are converted in `message_parts` and `tools`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from msgspec import UNSET, UnsetType

from .....models.errors import GalagoError, InvalidRequest
from .....models.registry.resolve import MAX_ADAPTERS
from ....types import request as values
from ....types.events import Delta, Finished, FinishReason, OutputDelta, Started, TokenLogprob
from ....types.messages import Message, Part, Role, Text
from ....types.options import Dialect, bounds
from ....types.warnings import Warnings
from ...http.events import MAX_CHOICES
from ...http.whole_answers import CollectedAnswer
from ..errors import error_response
from ..schema import (
    CompletionDetails,
    ErrorResponse,
    GenerationRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    LoraScale,
    PromptDetails,
    TextFormat,
    Timings,
    Usage,
)
from . import message_parts, schema, tools

BOUNDS: Mapping[str, tuple[float, float]] = bounds("chat") | {"n": (1, MAX_CHOICES)}
"""Minimum and maximum of a chat request's numbers."""
MIN_LOGPROB = -9999.0
"""Stands for the logarithm of 0, as in OpenAI's API."""

_API_FIELD_NAMES = {"json_schema": "response_format"}
_ROLES: dict[type, Role] = {
    schema.SystemMessage: "system",
    schema.DeveloperMessage: "developer",
    schema.UserMessage: "user",
    schema.AssistantMessage: "assistant",
    schema.ToolMessage: "tool",
}


def to_request(chat: schema.ChatRequest, read_file: message_parts.ReadFile, warnings: Warnings) -> values.Request:
    """The request to the runtime. Warns about anything done differently than asked."""
    uses_tools = bool(chat.tools) or chat.tool_choice is not None
    shared = generation_arguments(chat, "chat", warnings)
    return values.Request(
        messages=messages(chat.messages, read_file),
        reasoning_effort=chat.reasoning_effort,
        effort_field=warnings.caller_fields.get("reasoning_effort", "reasoning_effort"),
        template_variables=chat.chat_template_kwargs or {},
        **shared
        | {"max_tokens": _max_tokens(chat, warnings), "logprobs": _top_logprobs(chat, shared["logprobs"], warnings)},
        **(tools.request_arguments(chat) if uses_tools else {}),
        continue_final=_continues_final_message(chat),
        strict=warnings.strict,
    )


def _max_tokens(chat: schema.ChatRequest, warnings: Warnings) -> int | None:
    """The limit that the request names; the smaller one of two."""
    limits = {name: getattr(chat, name) for name in ("max_tokens", "max_completion_tokens")}
    given = [
        limit for name, one in limits.items() if (limit := values.max_tokens_from(one, name, warnings)) is not None
    ]
    if len(set(given)) > 1:
        problem = "max_tokens and max_completion_tokens differ"
        warnings.add_unless_strict(problem, "max_tokens", instead="the smaller one is used")
    return min(given, default=None)


def generation_arguments(request: GenerationRequest, dialect: Dialect, warnings: Warnings) -> dict[str, Any]:
    """The arguments of `Request` that all requests for an answer share."""
    if request.n is not None and request.n < 1:
        warnings.add_unless_strict(f"n is {request.n}", "n", instead="one answer is given")
    return {
        "sampling": values.sampling_from(request, dialect, warnings),
        "json_schema": _json_schema(request.response_format),
        "lora": _adapter_scales(request.lora),
        **values.request_fields_from(request, dialect, warnings),
    }


def in_background(request: values.Request) -> values.Request:
    """The request at background priority, without a timeout."""
    return replace(request, background=True, timeout=None)


@contextlib.contextmanager
def api_field_names(warnings: Warnings | None = None) -> Iterator[None]:
    """Context manager: errors about the runtime's fields name the API's field, or the one that was given."""
    try:
        yield
    except GalagoError as error:
        with_api_field_name(error)
        if warnings is not None:
            error.param = warnings.caller_fields.get(error.param or "", error.param)
        raise


def with_api_field_name(error: GalagoError) -> GalagoError:
    error.param = _API_FIELD_NAMES.get(error.param or "", error.param)
    return error


def choice_count(request: GenerationRequest) -> int:
    count = max(request.n or 1, 1)
    values.check_number("n", count, *BOUNDS["n"], whole=True)
    return count


def _top_logprobs(chat: schema.ChatRequest, top: int | None, warnings: Warnings) -> int | None:
    """The number of alternatives for each token; `None` for no log-probabilities at all."""
    if chat.logprobs:
        return top or 0
    if chat.top_logprobs:
        warnings.add_unless_strict("top_logprobs has no effect without logprobs: true", "top_logprobs")
    return None


def _continues_final_message(chat: schema.ChatRequest) -> bool:
    """Whether the answer continues an assistant's message at the end; true unless one of two fields says no."""
    continues, adds_prompt = chat.continue_final_message, chat.add_generation_prompt
    ends_with_assistant = bool(chat.messages) and isinstance(chat.messages[-1], schema.AssistantMessage)
    if continues and adds_prompt:
        raise InvalidRequest(
            "add_generation_prompt and continue_final_message exclude each other; give only one of them",
            "add_generation_prompt",
        )
    if continues and not ends_with_assistant:
        raise InvalidRequest("continue_final_message needs an assistant's message at the end", "continue_final_message")
    if adds_prompt is False and (continues is False or not ends_with_assistant):
        raise InvalidRequest(
            "add_generation_prompt: false needs an assistant's message at the end, to continue it",
            "add_generation_prompt",
        )
    return not adds_prompt if continues is None else continues


def _adapter_scales(lora: list[LoraScale] | None) -> tuple[float, ...] | None:
    """Scales in the order of the adapters. As in llama-server, adapters that are not listed get 0, and an empty list
    changes nothing."""
    if not lora:
        return None
    for i, adapter in enumerate(lora):
        if not 0 <= adapter.id < MAX_ADAPTERS:
            raise InvalidRequest(f"lora[{i}].id is {adapter.id}; adapter ids are 0 to {MAX_ADAPTERS - 1}", "lora")
    scales = {adapter.id: adapter.scale for adapter in lora}
    return tuple(scales.get(i, 0.0) for i in range(max(scales) + 1))


def messages(chat: Sequence[schema.ChatMessage], read_file: message_parts.ReadFile) -> tuple[Message, ...]:
    return tuple(
        Message(
            _ROLES[type(message)],
            _parts(message.content, f"messages[{i}].content", read_file),
            message.name,
            **_role_arguments(message),
        )
        for i, message in enumerate(chat)
    )


def _parts(content: Any, path: str, read_file: message_parts.ReadFile) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    return tuple(
        Text(part.text) if isinstance(part, schema.TextPart) else message_parts.to_part(part, f"{path}[{i}]", read_file)
        for i, part in enumerate(content)
        if not (isinstance(part, schema.TextPart) and not part.text)
    )


def _role_arguments(message: schema.ChatMessage) -> dict[str, Any]:
    """The arguments of `Message` that only an assistant's message or a tool's has."""
    if isinstance(message, schema.ToolMessage):
        return {"tool_call_id": message.tool_call_id}
    if not isinstance(message, schema.AssistantMessage):
        return {}
    calls = tools.calls(message.tool_calls) if message.tool_calls else ()
    return {"tool_calls": calls, "reasoning": message.reasoning_content or message.reasoning}


def _json_schema(
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
) -> dict[str, Any] | bool | None:
    if isinstance(response_format, JsonSchemaFormat):
        return response_format.json_schema.schema
    if isinstance(response_format, JsonObjectFormat):
        return {"type": "object"} if response_format.schema is None else response_format.schema
    return None


def logprobs(tokens: Sequence[TokenLogprob]) -> schema.Logprobs:
    content = []
    for token in tokens:
        alternatives = [schema.TopLogprob(*_logprob_fields(*pair)) for pair in token.top_logprobs]
        content.append(schema.TokenLogprob(*_logprob_fields(token.token, token.logprob), alternatives))
    return schema.Logprobs(content)


def _logprob_fields(token: bytes, logprob: float) -> tuple[str, float, list[int]]:
    return token.decode("utf-8", "replace"), max(logprob, MIN_LOGPROB), list(token)


def usage(answers: Sequence[Finished], choices_per_prompt: int | None = None) -> Usage:
    """The usage of all answers together. Each prompt counts once; by default there is one prompt."""
    answer_usage = [answer.usage for answer in answers]
    prompt_usage = answer_usage[:: choices_per_prompt or len(answer_usage)]
    prompt_tokens = sum(one.prompt_tokens for one in prompt_usage)
    completion_tokens = sum(one.completion_tokens for one in answer_usage)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptDetails(
            sum(one.cached_tokens for one in prompt_usage),
            sum(one.audio_tokens for one in prompt_usage),
            sum(one.image_tokens for one in prompt_usage),
        ),
        completion_tokens_details=CompletionDetails(
            sum(one.accepted_draft_tokens for one in answer_usage),
            sum(one.rejected_draft_tokens for one in answer_usage),
            sum(one.reasoning_tokens for one in answer_usage),
        ),
    )


def timings(answers: Sequence[Finished]) -> Timings:
    """The timings of all answers together; the rate is that of their tokens after the first one."""
    first = answers[0].timings
    total_seconds = max(answer.timings.total_seconds for answer in answers)
    decode_seconds = total_seconds - first.first_token_seconds
    decoded_tokens = sum(answer.usage.completion_tokens for answer in answers) - 1
    return Timings(
        prepared_ms=round(first.prompt_seconds * 1000, 3),
        first_token_ms=round(first.first_token_seconds * 1000, 3),
        total_ms=round(total_seconds * 1000, 3),
        tokens_per_second=round(decoded_tokens / decode_seconds, 2)
        if decoded_tokens > 0 and decode_seconds > 0
        else None,
    )


class ChatEncoder:
    """Encodes the choices of one chat request as chunks, or as a whole completion."""

    def __init__(
        self, completion_id: str, created: int, model: str, chat: schema.ChatRequest, warnings: Sequence[str]
    ) -> None:
        self._id = completion_id
        self._created = created
        self._model = model
        self._warnings = list(warnings)
        self._count = choice_count(chat)
        self._logprobs = bool(chat.logprobs)
        self._include_usage = bool(chat.stream_options and chat.stream_options.include_usage)
        self._ends: dict[int, Finished] = {}

    def start(self, index: int, event: Started) -> Iterable[schema.ChatChunk]:
        chunk = self._chunk(index, schema.ChunkDelta(role="assistant", content=""))
        if index == 0:
            chunk.warnings = [*self._warnings, *event.warnings] or UNSET
        return (chunk,)

    def delta(self, index: int, event: OutputDelta) -> Iterable[schema.ChatChunk]:
        if not isinstance(event, Delta):
            return (self._chunk(index, tools.chunk_delta(event)),)
        chunk = self._chunk(index, schema.ChunkDelta(content=event.text))
        if self._logprobs:
            chunk.choices[0].logprobs = logprobs(event.logprobs)
        return (chunk,)

    def finish(self, index: int, event: Finished) -> Iterable[schema.ChatChunk]:
        self._ends[index] = event
        last = self._chunk(index, schema.ChunkDelta(), event.reason)
        if len(self._ends) < self._count:
            return (last,)
        ends = [self._ends[i] for i in range(self._count)]
        last.timings = timings(ends)
        return (last, self._envelope([], usage(ends))) if self._include_usage else (last,)

    def cancel(self) -> Iterable[schema.ChatChunk]:
        return ()

    def fail(self, error: GalagoError) -> Iterable[ErrorResponse]:
        return (error_response(with_api_field_name(error)),)

    def completion(self, answers: Sequence[CollectedAnswer]) -> schema.ChatCompletion:
        """The whole completion."""
        ends = [answer.end for answer in answers]
        return schema.ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(i, answer) for i, answer in enumerate(answers)],
            usage=usage(ends),
            timings=timings(ends),
            warnings=[*self._warnings, *answers[0].warnings] or UNSET,
        )

    def _choice(self, index: int, answer: CollectedAnswer) -> schema.Choice:
        texts = [delta for delta in answer.deltas if isinstance(delta, Delta)]
        if len(texts) == len(answer.deltas):
            message = schema.AnswerMessage("".join(delta.text for delta in texts))
        else:
            message = tools.answer_message(answer.deltas)
        tokens = [token for delta in texts for token in delta.logprobs]
        return schema.Choice(message, answer.end.reason, index, logprobs(tokens) if self._logprobs else None)

    def _chunk(self, index: int, delta: schema.ChunkDelta, reason: FinishReason | None = None) -> schema.ChatChunk:
        return self._envelope([schema.ChunkChoice(delta, reason, index)], None if self._include_usage else UNSET)

    def _envelope(self, choices: list[schema.ChunkChoice], usage: Usage | None | UnsetType) -> schema.ChatChunk:
        return schema.ChatChunk(self._id, self._created, self._model, choices, usage)
