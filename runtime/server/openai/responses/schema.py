"""The JSON shapes of the Responses API, as clients send and receive them. Holds no behaviour."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from ..schema import InputAudio, TokenLogprob

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]
Status: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]


class InputText(Struct, tag="input_text"):
    text: str


class InputImage(Struct, tag="input_image"):
    image_url: str | None = None
    file_id: str | None = None


class AudioPart(Struct, tag="input_audio"):
    input_audio: InputAudio


class OutputText(Struct, tag="output_text"):
    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []


class ReasoningText(Struct, tag="reasoning_text"):
    text: str


class Message(Struct, tag="message"):
    role: Literal["user", "system", "developer", "assistant"]
    content: str | list[InputText | InputImage | AudioPart | OutputText]


class FunctionCall(Struct, tag="function_call"):
    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(Struct, tag="function_call_output"):
    call_id: str
    output: str | list[InputText | InputImage]


class Reasoning(Struct, tag="reasoning"):
    content: list[ReasoningText] | None = None


Item: TypeAlias = Message | FunctionCall | FunctionCallOutput | Reasoning


class Tool(Struct):
    type: str
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None


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


class TextConfig(Struct):
    format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None


class ReasoningConfig(Struct):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


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


class Incomplete(Struct):
    reason: str


class Error(Struct):
    code: str
    message: str


class Response(Struct):
    """What a request has led to so far; the fields after `usage` are the request's own."""

    id: str
    created_at: float
    model: str
    status: Status = "in_progress"
    output: list[OutputItem] = []
    completed_at: float | None = None
    error: Error | None = None
    incomplete_details: Incomplete | None = None
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


class Created(Struct, tag="response.created"):
    response: Response
    sequence_number: int = 0


class InProgress(Struct, tag="response.in_progress"):
    response: Response
    sequence_number: int = 0


class Completed(Struct, tag="response.completed"):
    response: Response
    sequence_number: int = 0


class IncompleteEnd(Struct, tag="response.incomplete"):
    response: Response
    sequence_number: int = 0


class FailedEnd(Struct, tag="response.failed"):
    response: Response
    sequence_number: int = 0


class ItemAdded(Struct, tag="response.output_item.added"):
    output_index: int
    item: OutputItem
    sequence_number: int = 0


class ItemDone(Struct, tag="response.output_item.done"):
    output_index: int
    item: OutputItem
    sequence_number: int = 0


class PartAdded(Struct, tag="response.content_part.added"):
    item_id: str
    output_index: int
    part: OutputText | ReasoningText
    content_index: int = 0
    sequence_number: int = 0


class PartDone(Struct, tag="response.content_part.done"):
    item_id: str
    output_index: int
    part: OutputText | ReasoningText
    content_index: int = 0
    sequence_number: int = 0


class TextDelta(Struct, tag="response.output_text.delta"):
    item_id: str
    output_index: int
    delta: str
    logprobs: list[TokenLogprob]
    content_index: int = 0
    sequence_number: int = 0


class TextDone(Struct, tag="response.output_text.done"):
    item_id: str
    output_index: int
    text: str
    logprobs: list[TokenLogprob]
    content_index: int = 0
    sequence_number: int = 0


class ReasoningTextDelta(Struct, tag="response.reasoning_text.delta"):
    item_id: str
    output_index: int
    delta: str
    content_index: int = 0
    sequence_number: int = 0


class ReasoningTextDone(Struct, tag="response.reasoning_text.done"):
    item_id: str
    output_index: int
    text: str
    content_index: int = 0
    sequence_number: int = 0


class ArgumentsDelta(Struct, tag="response.function_call_arguments.delta"):
    item_id: str
    output_index: int
    delta: str
    sequence_number: int = 0


class ArgumentsDone(Struct, tag="response.function_call_arguments.done"):
    item_id: str
    output_index: int
    name: str
    arguments: str
    sequence_number: int = 0


StreamEvent: TypeAlias = (
    Created | InProgress | Completed | IncompleteEnd | FailedEnd | ItemAdded | ItemDone | PartAdded | PartDone
    | TextDelta | TextDone | ReasoningTextDelta | ReasoningTextDone | ArgumentsDelta | ArgumentsDone
)  # fmt: skip


class TokenCount(Struct):
    input_tokens: int
    object: str = "response.input_tokens"


class ItemList(Struct):
    """What a response was asked, each item as it was given and with an id."""

    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class Deleted(Struct):
    id: str
    deleted: bool = True
    object: str = "response"
