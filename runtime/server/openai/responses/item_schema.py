"""The JSON shapes of the items of a conversation, and of the parts of their content."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from ...http.request_io import ANY, OtherFields
from ..chat.schema import InputAudio, TokenLogprob

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]

_ITEM: dict[str, object] = {"id": ANY, "status": ANY, "internal_chat_message_metadata_passthrough": ANY}
_CALL: dict[str, object] = _ITEM | {"caller": ANY, "async": False}


class InputText(Struct, tag="input_text"):
    text: str


class InputImage(Struct, tag="input_image"):
    image_url: str | None = None
    file_id: str | None = None

    other_fields = OtherFields(ignored={"detail": "auto"}, warned={"detail": ""})


class InputFile(Struct, tag="input_file"):
    """An image, audio, video or text file; `file_data` is a data URI or bare base64. Others are shown by name only."""

    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None

    other_fields = OtherFields(ignored={"detail": ANY})


class AudioPart(Struct, tag="input_audio"):
    input_audio: InputAudio


class OutputText(Struct, tag="output_text"):
    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []

    other_fields = OtherFields(ignored={"parsed": ANY})


class Refusal(Struct, tag="refusal"):
    """A refusal of an assistant; treated as text."""

    refusal: str


class ReasoningText(Struct, tag="reasoning_text"):
    text: str


InputPart: TypeAlias = InputText | InputImage | InputFile | AudioPart | OutputText | Refusal


class Message(Struct, tag="message"):
    role: Literal["user", "system", "developer", "assistant"]
    content: str | list[InputPart | None]

    other_fields = OtherFields(ignored=_ITEM | {"phase": ANY})


class FunctionCall(Struct, tag="function_call"):
    """`namespace` is that of a function in a namespace of tools."""

    call_id: str
    name: str
    arguments: str
    namespace: str | None = None

    other_fields = OtherFields(ignored=_CALL | {"parsed_arguments": ANY})


class FunctionCallOutput(Struct, tag="function_call_output"):
    call_id: str
    output: str | list[InputPart | None]

    other_fields = OtherFields(ignored=_CALL | {"name": ANY, "namespace": ANY})


class CustomToolCall(Struct, tag="custom_tool_call"):
    """A call of a tool that takes text."""

    call_id: str
    name: str
    input: str
    namespace: str | None = None

    other_fields = OtherFields(ignored=_CALL)


class CustomToolCallOutput(Struct, tag="custom_tool_call_output"):
    call_id: str
    output: str | list[InputPart | None]

    other_fields = OtherFields(ignored=_CALL | {"name": ANY, "namespace": ANY})


class Reasoning(Struct, tag="reasoning"):
    content: list[ReasoningText] | None = None

    other_fields = OtherFields(ignored=_ITEM | {"summary": ANY, "encrypted_content": ANY})


class Compaction(Struct, tag="compaction"):
    """Earlier items in few words, from `/v1/responses/compact`."""

    encrypted_content: str

    other_fields = OtherFields(ignored=_ITEM | {"created_by": ANY})


class Tool(Struct):
    """A tool that the caller runs. A custom tool takes text, in `format`. A `namespace` groups tools."""

    type: Literal["function", "custom"]
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: dict[str, Any] | None = None
    namespace: str | None = None

    other_fields = OtherFields(
        ignored={"output_schema": ANY, "defer_loading": ANY, "async": False, "allowed_callers": ["direct"]},
    )


class AdditionalTools(Struct, tag="additional_tools"):
    """Tools that the model can call from here on, besides those of the request."""

    tools: list[Tool]

    other_fields = OtherFields(ignored=_ITEM | {"role": ANY})


Item: TypeAlias = (
    Message
    | FunctionCall
    | FunctionCallOutput
    | CustomToolCall
    | CustomToolCallOutput
    | Reasoning
    | Compaction
    | AdditionalTools
)


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
    namespace: str | UnsetType = UNSET


class CustomCallItem(Struct, tag="custom_tool_call"):
    id: str
    call_id: str
    name: str
    input: str = ""
    status: ItemStatus = "in_progress"
    namespace: str | UnsetType = UNSET


class ReasoningItem(Struct, tag="reasoning"):
    id: str
    content: list[ReasoningText]
    status: ItemStatus = "in_progress"
    summary: list[Any] = []


class CompactionItem(Struct, tag="compaction"):
    id: str
    encrypted_content: str


OutputItem: TypeAlias = MessageItem | CallItem | CustomCallItem | ReasoningItem | CompactionItem
