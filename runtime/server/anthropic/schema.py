"""The JSON shapes of Anthropic's Messages API, as clients send and receive them. Holds no behaviour."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType


class Base64Source(Struct, tag="base64"):
    data: str
    media_type: str | None = None


class URLSource(Struct, tag="url"):
    url: str


class PlainTextSource(Struct, tag="text"):
    data: str
    media_type: str | None = None


class TextBlock(Struct, tag="text"):
    text: str


class ImageBlock(Struct, tag="image"):
    source: Base64Source | URLSource


class DocumentBlock(Struct, tag="document"):
    source: PlainTextSource
    title: str | None = None
    context: str | None = None


class ToolUseBlock(Struct, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(Struct, tag="tool_result"):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock] = ""
    is_error: bool | None = None


class ThinkingBlock(Struct, tag="thinking"):
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Struct, tag="redacted_thinking"):
    pass


class SystemMessage(Struct, tag_field="role", tag="system"):
    content: str | list[TextBlock]


class UserMessage(Struct, tag_field="role", tag="user"):
    content: str | list[TextBlock | ImageBlock | DocumentBlock | ToolResultBlock]


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    content: str | list[TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock]


AnyMessage: TypeAlias = SystemMessage | UserMessage | AssistantMessage


class Tool(Struct):
    name: str = ""
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None


class AutoChoice(Struct, tag="auto"):
    disable_parallel_tool_use: bool | None = None


class AnyChoice(Struct, tag="any"):
    disable_parallel_tool_use: bool | None = None


class ToolChoice(Struct, tag="tool"):
    name: str
    disable_parallel_tool_use: bool | None = None


class NoChoice(Struct, tag="none"):
    disable_parallel_tool_use: bool | None = None


class ThinkingEnabled(Struct, tag="enabled"):
    pass


class ThinkingAdaptive(Struct, tag="adaptive"):
    pass


class ThinkingDisabled(Struct, tag="disabled"):
    pass


class JSONFormat(Struct, tag="json_schema"):
    schema: dict[str, Any] | bool


class OutputConfig(Struct):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JSONFormat | None = None


class CountRequest(Struct):
    """`POST /v1/messages/count_tokens`"""

    messages: list[AnyMessage]
    model: str | None = None
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountRequest):
    """`POST /v1/messages`"""

    max_tokens: int | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None


class OutputDetails(Struct):
    thinking_tokens: int


class Usage(Struct):
    """`input_tokens` are those that were computed; those of the cache come on top."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    output_tokens_details: OutputDetails | UnsetType = UNSET


ContentBlock: TypeAlias = TextBlock | ThinkingBlock | ToolUseBlock
StopReason: TypeAlias = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class Message(Struct):
    id: str
    model: str
    content: list[ContentBlock]
    usage: Usage
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    warnings: list[str] | UnsetType = UNSET
    type: str = "message"
    role: str = "assistant"


class MessageStart(Struct, tag="message_start"):
    message: Message


class BlockStart(Struct, tag="content_block_start"):
    index: int
    content_block: ContentBlock


class TextDelta(Struct, tag="text_delta"):
    text: str


class ThinkingDelta(Struct, tag="thinking_delta"):
    thinking: str


class InputDelta(Struct, tag="input_json_delta"):
    partial_json: str


class BlockDelta(Struct, tag="content_block_delta"):
    index: int
    delta: TextDelta | ThinkingDelta | InputDelta


class BlockStop(Struct, tag="content_block_stop"):
    index: int


class Ending(Struct):
    stop_reason: StopReason
    stop_sequence: str | None = None


class MessageDelta(Struct, tag="message_delta"):
    delta: Ending
    usage: Usage


class MessageStop(Struct, tag="message_stop"):
    pass


class Ping(Struct, tag="ping"):
    pass


StreamEvent: TypeAlias = Ping | MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


class ErrorDetails(Struct):
    """Tells clients of conversations that the server keeps that this one keeps none; they send the whole chat then."""

    unsupported: list[str]
    error_code: Literal["thread_unsupported_request"] = "thread_unsupported_request"


class ErrorBody(Struct):
    type: str
    message: str
    details: ErrorDetails | UnsetType = UNSET


class ErrorResponse(Struct, tag="error"):
    error: ErrorBody
    request_id: None = None


class TokenCount(Struct):
    input_tokens: int


class ModelInfo(Struct):
    id: str
    display_name: str
    created_at: str
    max_input_tokens: int
    type: str = "model"


class ModelList(Struct):
    data: list[ModelInfo]
    first_id: str | None
    last_id: str | None
    has_more: bool = False
