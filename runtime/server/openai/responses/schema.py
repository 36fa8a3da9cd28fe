"""The JSON shapes of the Responses API."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from ...http.request_io import ANY, OtherFields
from ..chat.schema import InputAudio, TokenLogprob

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]
ResponseStatus: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]

_ITEM: dict[str, object] = {"id": ANY, "status": ANY}
_CALL: dict[str, object] = _ITEM | {"caller": ANY, "namespace": None, "async": False}
_NOT_SUMMARIZED = ": reasoning is returned as a whole, not summarized"


class InputText(Struct, tag="input_text"):
    text: str


class InputImage(Struct, tag="input_image"):
    image_url: str | None = None
    file_id: str | None = None

    other_fields = OtherFields(ignored={"detail": "auto"}, warned={"detail": ""})


class AudioPart(Struct, tag="input_audio"):
    input_audio: InputAudio


class OutputText(Struct, tag="output_text"):
    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []

    other_fields = OtherFields(ignored={"parsed": ANY})


class ReasoningText(Struct, tag="reasoning_text"):
    text: str


class Message(Struct, tag="message"):
    role: Literal["user", "system", "developer", "assistant"]
    content: str | list[InputText | InputImage | AudioPart | OutputText]

    other_fields = OtherFields(ignored=_ITEM | {"phase": ANY})


class FunctionCall(Struct, tag="function_call"):
    call_id: str
    name: str
    arguments: str

    other_fields = OtherFields(ignored=_CALL | {"parsed_arguments": ANY})


class FunctionCallOutput(Struct, tag="function_call_output"):
    call_id: str
    output: str | list[InputText | InputImage]

    other_fields = OtherFields(ignored=_CALL | {"name": ANY})


class Reasoning(Struct, tag="reasoning"):
    content: list[ReasoningText] | None = None

    other_fields = OtherFields(
        ignored=_ITEM | {"summary": [], "encrypted_content": None},
        warned={
            "encrypted_content": ": only OpenAI can decrypt it",
            "summary": ": the model is shown the reasoning itself",
        },
    )


Item: TypeAlias = Message | FunctionCall | FunctionCallOutput | Reasoning


class Tool(Struct):
    type: str
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None

    other_fields = OtherFields(
        ignored={"strict": ANY, "output_schema": None},
        refused={"async": (False,), "defer_loading": (False,), "allowed_callers": (["direct"],)},
    )


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

    other_fields = OtherFields(ignored={"description": ANY, "strict": ANY})


class TextConfig(Struct):
    format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None

    other_fields = OtherFields(refused={"verbosity": ("medium",)})


class ReasoningConfig(Struct):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None

    other_fields = OtherFields(
        ignored={"context": None}, warned={"summary": _NOT_SUMMARIZED, "generate_summary": _NOT_SUMMARIZED}
    )


class ResponsesRequest(Struct):
    """`POST /v1/responses`"""

    input: str | list[Item]
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
    top_logprobs: int | None = None
    metadata: dict[str, str] | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None

    accepted_values = {
        "].type": "message, function_call, function_call_output or reasoning, with input_text, input_image, "
        "input_audio or output_text as content",
        "format.type": "text, json_object or json_schema",
        "tool_choice.type": "function or allowed_tools",
    }
    other_fields = OtherFields(
        ignored={
            "max_tool_calls": None,
            "prompt_cache_key": ANY,
            "prompt_cache_options": ANY,
            "prompt_cache_retention": ANY,
            "safety_identifier": ANY,
            "service_tier": ANY,
            "user": ANY,
        },
        refused={
            "context_management": ([],),
            "conversation": (),
            "moderation": (),
            "prompt": (),
            "truncation": ("disabled",),
        },
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


class MessageItem(Struct, tag="message"):
    id: str
    content: list[OutputText]
    status: ItemStatus = "in_progress"
    role: str = "assistant"


class CallItem(Struct, tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: ItemStatus = "in_progress"


class ReasoningItem(Struct, tag="reasoning"):
    id: str
    content: list[ReasoningText]
    status: ItemStatus = "in_progress"
    summary: list[Any] = []


OutputItem: TypeAlias = MessageItem | CallItem | ReasoningItem


class IncompleteDetails(Struct):
    reason: str


class ResponseError(Struct):
    code: str
    message: str


class Response(Struct):
    """The response so far; the fields after `usage` repeat the request's."""

    id: str
    created_at: float
    model: str
    status: ResponseStatus = "in_progress"
    output: list[OutputItem] = []
    completed_at: float | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    usage: Usage | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[Any] = []
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = True
    text: Any = None
    reasoning: Any = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    metadata: dict[str, str] = {}
    store: bool = False
    background: bool = False
    truncation: str = "disabled"
    warnings: list[str] | UnsetType = UNSET
    object: str = "response"


class TokenCount(Struct):
    input_tokens: int
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
