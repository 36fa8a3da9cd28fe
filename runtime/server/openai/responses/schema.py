"""The JSON shapes of the Responses API, except items and the events of streams."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from ...http.request_io import ANY, OtherFields
from ..schema import ONLY_SAVES_TIME
from .item_schema import Item, OutputItem, Tool

ResponseStatus: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]

_NOT_SUMMARIZED = ": reasoning is returned as a whole, not summarized"


class NamedTool(Struct, tag="function"):
    name: str


class AllowedTools(Struct, tag="allowed_tools"):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class TextFormat(Struct, tag="text"):
    pass


class JsonObjectFormat(Struct, tag="json_object"):
    pass


class JsonSchemaFormat(Struct, tag="json_schema"):
    schema: dict[str, Any] | bool
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class TextConfig(Struct):
    format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None

    verbosity: str | None = None

    settings = frozenset({"verbosity"})


class ReasoningConfig(Struct):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None

    other_fields = OtherFields(
        ignored={"context": ANY}, warned={"summary": _NOT_SUMMARIZED, "generate_summary": _NOT_SUMMARIZED}
    )


class ResponsesRequest(Struct, kw_only=True):
    """`POST /v1/responses`"""

    input: str | list[Item | None] | None = None
    model: str | None = None
    instructions: str | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    top_logprobs: int | None = None
    metadata: dict[str, Any] | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    truncation: Literal["auto", "disabled"] | None = None
    max_tool_calls: int | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    keep_alive: float | str | None = None

    accepted_values = {
        "].type": "message, function_call, function_call_output, reasoning or another type of item, with input_text, "
        "input_image, input_audio, input_file or output_text as content",
        "format.type": "text, json_object or json_schema",
        "tool_choice.type": "function or allowed_tools",
    }
    settings = frozenset(
        "parallel_tool_calls reasoning include max_output_tokens temperature top_p top_k min_p seed stop "
        "presence_penalty frequency_penalty top_logprobs metadata truncation max_tool_calls keep_alive".split()
    )
    other_fields = OtherFields(
        ignored={
            "client_metadata": ANY,
            "prompt_cache_options": ANY,
            "prompt_cache_retention": ANY,
            "service_tier": ANY,
            "stream_options": ANY,
            "context_management": [],
            "moderation": (),
        },
        warned={"prediction": ONLY_SAVES_TIME},
        refused={"conversation": (), "prompt": ()},
    )


class CompactRequest(Struct, kw_only=True):
    """`POST /v1/responses/compact`"""

    model: str | None
    input: str | list[Item | None] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None

    accepted_values = ResponsesRequest.accepted_values
    other_fields = OtherFields(
        ignored=dict.fromkeys(
            (
                "client_metadata",
                "metadata",
                "parallel_tool_calls",
                "prompt_cache_key",
                "prompt_cache_options",
                "prompt_cache_retention",
                "reasoning",
                "safety_identifier",
                "service_tier",
                "store",
                "text",
                "tool_choice",
                "tools",
                "user",
            ),
            ANY,
        )
    )


class InputDetails(Struct):
    cached_tokens: int
    audio_tokens: int
    image_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(Struct):
    reasoning_tokens: int


class Usage(Struct):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputDetails
    output_tokens_details: OutputDetails


class IncompleteDetails(Struct):
    reason: str


class ResponseError(Struct):
    code: str
    message: str


class Response(Struct, kw_only=True):
    """The response so far. The fields after `usage` are the settings of the request, or the defaults that were used."""

    id: str
    created_at: int
    model: str
    status: ResponseStatus = "in_progress"
    output: list[OutputItem] = []
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    usage: Usage | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedTools = "auto"
    parallel_tool_calls: bool = True
    text: dict[str, Any]
    reasoning: dict[str, Any]
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int = 0
    metadata: dict[str, Any] = {}
    store: bool = False
    background: bool = False
    service_tier: str = "default"
    truncation: Literal["auto", "disabled"] = "disabled"
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    keep_alive: float | str | None = None
    warnings: list[str] | UnsetType = UNSET
    object: str = "response"


class CompactedResponse(Struct, kw_only=True):
    """The system's, developer's and user's messages unchanged, and a compaction item that replaces the rest."""

    id: str
    created_at: int
    output: list[Any]
    usage: Usage
    warnings: list[str] | UnsetType = UNSET
    object: str = "response.compaction"


class TokenCount(Struct):
    input_tokens: int
    warnings: list[str] | UnsetType = UNSET
    object: str = "response.input_tokens"


class ItemList(Struct):
    """The input items of a response, each as it was sent, with an id."""

    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class Deleted(Struct):
    id: str
    deleted: bool = True
    object: str = "response"
