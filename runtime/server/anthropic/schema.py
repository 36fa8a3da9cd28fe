"""The JSON shapes of Anthropic's Messages API."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from ..http.request_io import ANY, OtherFields
from . import other_forms

_CACHE: dict[str, object] = {"cache_control": ANY}
_REQUEST_IGNORED: dict[str, object] = {
    "metadata": ANY,
    "service_tier": ANY,
    "inference_geo": ANY,
    "user_profile_id": ANY,
    "betas": ANY,
    "speed": "standard",
    "mcp_servers": [],
    "container": (),
    "fallbacks": ([],),
    "context_management": ({}, {"edits": []}, {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}),
    **_CACHE,
}
_OF_TOOLS: dict[str, object] = {
    "eager_input_streaming": ANY,
    "max_characters": ANY,
    "defer_loading": False,
    "allowed_callers": ["direct"],
    "input_examples": [],
}
_NO_BINDING: dict[str, object] = {"block_binding": ANY}
_NOT_SUMMARIZED = ": thinking is returned as a whole"

Effort: TypeAlias = Literal["low", "medium", "high", "xhigh", "max"]


class Base64Source(Struct, tag="base64"):
    data: str
    media_type: str | None = None


class URLSource(Struct, tag="url"):
    """A data URI: this server fetches nothing. Other URLs are refused in the question, and elsewhere only named."""

    url: str


class FileSource(Struct, tag="file"):
    """An uploaded file, which this server does not have: handled like a URL."""

    file_id: str


class PlainTextSource(Struct, tag="text"):
    data: str
    media_type: str | None = None


class TextBlock(Struct, tag="text"):
    text: str

    other_fields = OtherFields(ignored=_CACHE | {"citations": ANY})


class ImageBlock(Struct, tag="image"):
    source: Base64Source | URLSource | FileSource

    other_fields = OtherFields(ignored=_CACHE)


class ContentSource(Struct, tag="content"):
    content: str | list[TextBlock | ImageBlock]


class DocumentBlock(Struct, tag="document"):
    source: PlainTextSource | ContentSource
    title: str | None = None
    context: str | None = None

    other_fields = OtherFields(ignored=_CACHE | {"citations": {"enabled": False}})


class ToolUseBlock(Struct, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]

    other_fields = OtherFields(ignored=_CACHE | {"caller": ANY})


class PastToolUseBlock(Struct, tag="tool_use"):
    """A call in the conversation. Its input may have been cut off, and is then a text."""

    id: str
    name: str
    input: dict[str, Any] | list[Any] | str

    other_fields = OtherFields(ignored=_CACHE | {"caller": ANY, "toolset_name": ANY})


class ToolResultBlock(Struct, tag="tool_result"):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock] = ""
    is_error: bool | None = None

    other_fields = OtherFields(ignored=_CACHE | {"toolset_name": ANY})


class ThinkingBlock(Struct, tag="thinking"):
    thinking: str
    signature: str | None = ""

    other_fields = OtherFields(ignored=_CACHE)


class JSONFormat(Struct, tag="json_schema"):
    schema: dict[str, Any] | bool


class OutputConfig(Struct):
    effort: Effort | None = None
    format: JSONFormat | None = None

    settings = frozenset({"effort"})
    other_fields = OtherFields(ignored={"task_budget": ()})


class SystemMessage(Struct, tag_field="role", tag="system"):
    """Instructions, at any place. `output_config.effort` holds from here on."""

    content: str | list[TextBlock]
    output_config: OutputConfig | None = None


UserBlock: TypeAlias = TextBlock | ImageBlock | DocumentBlock | ToolResultBlock


class UserMessage(Struct, tag_field="role", tag="user"):
    content: str | list[UserBlock]


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    content: str | list[TextBlock | ThinkingBlock | PastToolUseBlock]


AnyMessage: TypeAlias = SystemMessage | UserMessage | AssistantMessage


class Tool(Struct):
    name: Annotated[str, Meta(min_length=1)]
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None

    other_fields = OtherFields(ignored=_CACHE | _OF_TOOLS)


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
    other_fields = OtherFields(ignored=_NO_BINDING, warned={"display": _NOT_SUMMARIZED})


class ThinkingAdaptive(Struct, tag="adaptive"):
    other_fields = OtherFields(ignored=_NO_BINDING, warned={"display": _NOT_SUMMARIZED})


class ThinkingDisabled(Struct, tag="disabled"):
    pass


class CountRequest(Struct):
    """`POST /v1/messages/count_tokens`"""

    adapt = staticmethod(other_forms.adapt)

    messages: list[AnyMessage]
    model: str | None = None
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | None = None
    output_config: OutputConfig | None = None

    accepted_values = {
        "].role": "user, assistant or system",
        "].source.type": "base64 for images and text for documents",
        "].type": "text, thinking or tool_use from an assistant, and text, image, document or tool_result from a user",
        "tool_choice.type": "auto, any, tool or none",
        "thinking.type": "enabled, adaptive or disabled",
        "format.type": "json_schema",
    }
    settings = frozenset({"thinking"})
    other_fields = OtherFields(ignored=_REQUEST_IGNORED)


class MessagesRequest(CountRequest):
    """`POST /v1/messages`"""

    max_tokens: int | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None

    settings = CountRequest.settings | {"max_tokens", "stop_sequences", "temperature", "top_p", "top_k"}
    other_fields = OtherFields(ignored=_REQUEST_IGNORED, refused={"thread": ()})


class OutputDetails(Struct):
    thinking_tokens: int


class Usage(Struct):
    """`input_tokens` excludes those read from the cache."""

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


class MessageEnd(Struct):
    stop_reason: StopReason
    stop_sequence: str | None = None


class MessageDelta(Struct, tag="message_delta"):
    delta: MessageEnd
    usage: Usage


class MessageStop(Struct, tag="message_stop"):
    pass


class Ping(Struct, tag="ping"):
    pass


StreamEvent: TypeAlias = Ping | MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


class ErrorDetails(Struct):
    """Tells clients that this server stores no conversations, so that they send the whole chat."""

    unsupported: list[str]
    error_code: Literal["thread_unsupported_request"] = "thread_unsupported_request"


class ErrorBody(Struct):
    type: str
    message: str
    details: ErrorDetails | UnsetType = UNSET


class ErrorResponse(Struct, tag="error"):
    error: ErrorBody
    request_id: str | None = None


class TokenCount(Struct):
    input_tokens: int
    warnings: list[str] | UnsetType = UNSET


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
