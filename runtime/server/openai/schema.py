"""The JSON shapes of the HTTP API, as clients send and receive them. Holds no behaviour."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ...types.events import FinishReason
from ...types.messages import TOOL_NAME
from ...types.options import MAX_STOPS
from ...types.request import MAX_TOOLS

encode = msgspec.json.Encoder().encode

FINGERPRINT = f"galago-{metadata.version('galago')}-llama-cpp-python-{metadata.version('llama-cpp-python')}"
"""What an answer to a seeded request depends on beside the model: it repeats only under the same two versions."""


_Named = Meta(extra_json_schema={"pattern": f"^{TOOL_NAME.pattern}$"})
"""What `values.py` asks of a request is told in the API's document, and checked there."""

_Stop = Annotated[str, Meta(extra_json_schema={"minLength": 1})]


class ImageURL(Struct):
    url: (
        Annotated[str, Meta(description="A data URI, as data:image/png;base64,...: nothing is ever fetched.")] | None
    ) = None
    file_id: str | None = None


class InputAudio(Struct):
    data: str | None = None
    format: str | None = None
    file_id: str | None = None


class InputVideo(Struct):
    """`frames` says how many pictures of it the model is shown."""

    data: str | None = None
    format: str | None = None
    file_id: str | None = None
    frames: int | None = None


class InputFile(Struct):
    """Any picture, sound or film; `file_data` is a data URI or bare base64."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class TextPart(Struct, tag="text"):
    text: str


class RefusalPart(Struct, tag="refusal"):
    """An assistant's, as OpenAI's models say it: here a text like any other."""

    refusal: str


class ImagePart(Struct, tag="image_url"):
    image_url: ImageURL | str


class AudioPart(Struct, tag="input_audio"):
    input_audio: InputAudio


class VideoPart(Struct, tag="input_video"):
    input_video: InputVideo


class FilePart(Struct, tag="file"):
    file: InputFile


MediaPart = ImagePart | AudioPart | VideoPart | FilePart


class SystemMessage(Struct, tag_field="role", tag="system"):
    content: str | list[TextPart]
    name: str | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer"):
    content: str | list[TextPart]
    name: str | None = None


class UserMessage(Struct, tag_field="role", tag="user"):
    content: str | list[TextPart | MediaPart]
    name: str | None = None


class FunctionCall(Struct):
    name: str
    arguments: str


class ToolCall(Struct):
    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    content: str | list[TextPart | RefusalPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class ToolMessage(Struct, tag_field="role", tag="tool"):
    content: str | list[TextPart]
    tool_call_id: str
    name: str | None = None


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class FunctionDefinition(Struct):
    name: Annotated[str, _Named]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Struct):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Struct):
    name: Annotated[str, _Named]


class NamedTool(Struct, tag="function"):
    function: FunctionName


class AllowedTools(Struct):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedToolsChoice(Struct, tag="allowed_tools"):
    allowed_tools: AllowedTools


class StreamOptions(Struct):
    include_usage: bool | None = None


class TextFormat(Struct, tag="text"):
    pass


class JsonObjectFormat(Struct, tag="json_object"):
    schema: dict[str, Any] | bool | None = None


class JsonSchema(Struct):
    schema: dict[str, Any] | bool
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, tag="json_schema"):
    json_schema: JsonSchema


class LoraScale(Struct):
    id: int
    scale: float


TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class GenerationRequest(Struct, kw_only=True):
    """What every request for an answer may say of it."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: _Stop | Annotated[list[_Stop], Meta(extra_json_schema={"maxItems": MAX_STOPS})] | None = None
    ignore_eos: bool | None = None
    cache: bool | None = None
    lora: list[LoraScale] | None = None
    timeout: float | None = None
    n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    grammar: str | None = None
    regex: str | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class ChatRequest(GenerationRequest, kw_only=True):
    """A chat to answer. Fields that are unknown here are accepted, and named in the answer's `warnings`."""

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


class PromptDetails(Struct):
    cached_tokens: int
    audio_tokens: int
    image_tokens: int


class CompletionDetails(Struct):
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int
    reasoning_tokens: int = 0


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class Timings(Struct):
    """Milliseconds from the request's arrival to prompt prepared, first token, last token; the rate after the first."""

    prepared_ms: float
    first_token_ms: float
    total_ms: float
    tokens_per_second: float | None


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


class ModelCard(Struct):
    id: str
    created: int
    context_length: int
    input_modalities: list[str]
    parameters: int
    size_bytes: int
    description: str
    loaded: bool
    object: Literal["model"] = "model"
    owned_by: str = "galago"


class ModelList(Struct):
    data: list[ModelCard]
    object: Literal["list"] = "list"


class Health(Struct):
    status: Literal["ok", "loading"]


class ErrorBody(Struct):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(Struct):
    error: ErrorBody
