"""The JSON shapes of `/v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from ....types.events import FinishReason
from ....types.messages import TOOL_NAME
from ....types.request import MAX_TOOLS
from ....types.warnings import Warnings
from ...http.effort_forms import REASONING_FIELDS
from ...http.request_io import ANY, OtherFields
from ..schema import FINGERPRINT, GENERATION_FIELDS, ONLY_SAVES_TIME, GenerationRequest, Timings, Usage

_ToolName = Annotated[str, Meta(extra_json_schema={"pattern": f"^{TOOL_NAME.pattern}$"})]
"""For the OpenAPI document; `types/request.py` checks it."""
_CACHE_CONTROL = OtherFields(ignored={"cache_control": ANY})

_OF_OTHER_ROLES = OtherFields(
    ignored={
        "annotations": ANY,
        "audio": None,
        "cache_control": ANY,
        "function_call": None,
        "id": ANY,
        "provider_specific_fields": ANY,
        "reasoning_content": None,
        "refusal": None,
        "tool_call_id": None,
        "tool_calls": [],
    }
)
"""Fields that clients write into messages of every role."""

ACCEPTED_VALUES = {
    "].role": "system, developer, user, assistant or tool",
    "].type": "text, image_url, input_audio, input_video or file",
}


class ImageURL(Struct):
    url: (
        Annotated[str, Meta(description="A data URI such as data:image/png;base64,...; the server fetches no URLs.")]
        | None
    ) = None
    file_id: str | None = None

    other_fields = OtherFields(ignored={"detail": "auto"}, warned={"detail": ""})


class InputAudio(Struct):
    data: str | None = None
    format: str | None = None
    file_id: str | None = None


class InputVideo(Struct):
    """`frames` is the number of frames that the model is shown."""

    data: str | None = None
    format: str | None = None
    file_id: str | None = None
    frames: int | None = None


class InputFile(Struct):
    """An image, audio or video file; `file_data` is a data URI or bare base64."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class TextPart(Struct, tag="text"):
    text: str

    other_fields = _CACHE_CONTROL


class RefusalPart(Struct, tag="refusal"):
    """A refusal in an assistant's message, as OpenAI's models send it; treated as text."""

    refusal: str


class ImagePart(Struct, tag="image_url"):
    image_url: ImageURL | str

    other_fields = _CACHE_CONTROL


class AudioPart(Struct, tag="input_audio"):
    input_audio: InputAudio

    other_fields = _CACHE_CONTROL


class VideoPart(Struct, tag="input_video"):
    input_video: InputVideo


class FilePart(Struct, tag="file"):
    file: InputFile

    other_fields = _CACHE_CONTROL


MediaPart = ImagePart | AudioPart | VideoPart | FilePart


class SystemMessage(Struct, tag_field="role", tag="system"):
    content: str | list[TextPart | MediaPart]
    name: str | None = None

    other_fields = _OF_OTHER_ROLES


class DeveloperMessage(Struct, tag_field="role", tag="developer"):
    content: str | list[TextPart | MediaPart]
    name: str | None = None

    other_fields = _OF_OTHER_ROLES


class UserMessage(Struct, tag_field="role", tag="user"):
    content: str | list[TextPart | MediaPart]
    name: str | None = None

    other_fields = _OF_OTHER_ROLES


class FunctionCall(Struct):
    name: str
    arguments: str

    other_fields = OtherFields(ignored={"parsed_arguments": ANY})


class ToolCall(Struct):
    id: str
    function: FunctionCall
    type: Literal["function"] = "function"

    other_fields = OtherFields(ignored={"index": ANY})


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    content: str | list[TextPart | RefusalPart | MediaPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    other_fields = OtherFields(
        ignored={  # clients send back what they have received or added
            "annotations": ANY,
            "audio": None,
            "cache_control": ANY,
            "function_call": None,
            "id": ANY,
            "parsed": ANY,
            "prefix": (True, False),
            "provider_specific_fields": ANY,
            "refusal": None,
            "tool_call_id": None,
        }
    )


class ToolMessage(Struct, tag_field="role", tag="tool"):
    content: str | list[TextPart | MediaPart]
    tool_call_id: str
    name: str | None = None

    other_fields = _OF_OTHER_ROLES


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class FunctionDefinition(Struct):
    name: _ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    other_fields = _CACHE_CONTROL


class ToolDefinition(Struct):
    type: Literal["function"]
    function: FunctionDefinition

    other_fields = _CACHE_CONTROL


class FunctionName(Struct):
    name: _ToolName


class NamedTool(Struct, tag="function"):
    function: FunctionName


class AllowedTools(Struct):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedToolsChoice(Struct, tag="allowed_tools"):
    allowed_tools: AllowedTools


class ChatRequest(GenerationRequest, kw_only=True):
    """`POST /v1/chat/completions`. Unknown fields are accepted and named in the answer's `warnings`."""

    messages: Annotated[list[ChatMessage], Meta(extra_json_schema={"minItems": 1})]
    max_completion_tokens: int | None = None
    tools: Annotated[list[ToolDefinition], Meta(extra_json_schema={"maxItems": MAX_TOOLS})] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedToolsChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    @staticmethod
    def adapt(raw: dict[str, Any], warnings: Warnings) -> dict[str, Any]:
        from . import other_forms

        return other_forms.adapt(raw, warnings)

    accepted_values = (
        ACCEPTED_VALUES | GenerationRequest.accepted_values | {"tool_choice.type": "function or allowed_tools"}
    )
    settings = GenerationRequest.settings | frozenset(
        "max_completion_tokens parallel_tool_calls reasoning_effort chat_template_kwargs logprobs top_logprobs "
        "continue_final_message add_generation_prompt".split()
    )
    other_fields = OtherFields(
        ignored={
            **GENERATION_FIELDS.ignored,
            "audio": (),
            "echo": False,
            "modalities": ["text"],
            "store": False,
            "verbosity": "medium",
            "web_search_options": (),
        },
        warned={**GENERATION_FIELDS.warned, "prediction": ONLY_SAVES_TIME},
        refused=GENERATION_FIELDS.refused,
        adapted={
            **GENERATION_FIELDS.adapted,
            "function_call": "tool_choice",
            "functions": "tools",
            **dict.fromkeys(REASONING_FIELDS, "reasoning_effort"),
            "input": "messages",
            "instructions": "messages",
            "max_output_tokens": "max_tokens",
        },
    )


class AnswerMessage(Struct):
    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: str | None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class Logprobs(Struct):
    content: list[TokenLogprob]
    refusal: None = None


class Choice(Struct):
    message: AnswerMessage
    finish_reason: FinishReason
    index: int = 0
    logprobs: Logprobs | None = None


class ChatCompletion(Struct):
    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    timings: Timings
    warnings: list[str] | UnsetType = UNSET
    system_fingerprint: str = FINGERPRINT
    object: Literal["chat.completion"] = "chat.completion"


class FunctionDelta(Struct, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Struct, omit_defaults=True):
    index: int
    function: FunctionDelta
    id: str | None = None
    type: str | None = None


class ChunkDelta(Struct, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(Struct):
    delta: ChunkDelta
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: Logprobs | None = None


class ChatChunk(Struct):
    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET
    system_fingerprint: str = FINGERPRINT
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
