"""The JSON shapes of Ollama's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from ...types.messages import ReasoningEffort
from ..http.request_io import ANY, OtherFields
from . import other_forms

_NOT_SHORTENED = ": a prompt that is too long is refused"
_HARMLESS: dict[str, object] = {"shift": False, "truncate": False}
_TOP_LEVEL = {
    name: f"options.{other_forms.OPTIONS_OF_OTHERS.get(name, name)}" for name in other_forms.TOP_LEVEL_OPTIONS
}
_NO_EFFECT = {"shift": _NOT_SHORTENED, "truncate": _NOT_SHORTENED}

ImageData: TypeAlias = Annotated[str, Meta(min_length=1)]
"""A file in base64 or a data URI. A URL is refused in the question, and elsewhere only named to the model."""


class Options(Struct):
    """The `options` that can be set for each request."""

    num_ctx: int | None = None
    num_predict: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    settings = frozenset(
        "num_ctx num_predict temperature top_p top_k min_p seed stop repeat_penalty presence_penalty "
        "frequency_penalty".split()
    )
    other_fields = OtherFields(
        ignored={"draft_num_predict": ANY, "mirostat_eta": ANY, "mirostat_tau": ANY, "penalize_newline": ANY},
        adapted=other_forms.OPTIONS_OF_OTHERS,
    )


class Function(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    function: Function
    type: Literal["function"] | None = None


class CalledFunction(Struct):
    name: str
    arguments: dict[str, Any]
    index: int | None = None


class ToolCall(Struct):
    function: CalledFunction
    id: str | None = None


class PastFunction(Struct):
    """A function that was called in the conversation. Arguments that are a text may be JSON, or cut off."""

    name: str
    arguments: dict[str, Any] | list[Any] | str

    other_fields = OtherFields(ignored={"index": ANY, "description": ANY})


class PastToolCall(Struct):
    function: PastFunction
    id: str | None = None

    other_fields = OtherFields(ignored={"type": ANY, "index": ANY})


class Message(Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[ImageData] | None = None
    tool_calls: list[PastToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class AnswerRequest(Struct, kw_only=True):
    """The fields that `/api/chat` and `/api/generate` share."""

    adapt = staticmethod(other_forms.adapt)

    model: str | None = None
    format: dict[str, Any] | Literal["", "json"] | None = None
    options: Options | None = None
    stream: bool | None = None
    think: bool | ReasoningEffort | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    keep_alive: float | str | None = None

    settings = frozenset({"think", "logprobs", "top_logprobs", "keep_alive"})


class ChatRequest(AnswerRequest, kw_only=True):
    """`POST /api/chat`"""

    messages: list[Message] | None = None
    tools: list[Tool] | None = None

    other_fields = OtherFields(ignored=_HARMLESS, warned=_NO_EFFECT, adapted=_TOP_LEVEL)


class GenerateRequest(AnswerRequest, kw_only=True):
    """`POST /api/generate`"""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    images: list[ImageData] | None = None
    raw: bool | None = None

    other_fields = OtherFields(
        ignored=_HARMLESS | {"context": ([],), "template": ""},
        warned=_NO_EFFECT,
        refused={"height": 0, "steps": 0, "width": 0},
        adapted=_TOP_LEVEL,
    )


class EmbedRequest(Struct, kw_only=True):
    """`POST /api/embed`"""

    adapt = staticmethod(other_forms.adapt_embedding)

    model: str | None = None
    input: str | list[str]
    dimensions: int | None = None
    keep_alive: float | str | None = None

    other_fields = OtherFields(
        ignored={"encoding_format": "float", "options": {}, "truncate": False},
        warned={"truncate": ": a text that is too long is refused"},
    )


class OldEmbedRequest(Struct, kw_only=True):
    """`POST /api/embeddings`"""

    model: str | None = None
    prompt: str
    keep_alive: float | str | None = None

    other_fields = OtherFields(ignored={"options": {}})


class ModelRequest(Struct):
    """`/api/show`, `/api/pull`, `/api/delete`; older clients send `name`."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None

    other_fields = OtherFields(
        ignored={"insecure": False, "verbose": ANY},
        warned={"insecure": ": files are verified on every connection"},
    )


class CreateRequest(Struct, rename={"base": "from"}):
    """`/api/create`: the JSON form, or a `modelfile`; older clients send `name`."""

    model: str | None = None
    name: str | None = None
    base: str | None = None
    modelfile: str | None = None
    system: str | None = None
    parameters: dict[str, Any] | None = None
    template: str | None = None
    messages: list[Message] | None = None
    license: str | list[str] | None = None
    adapters: dict[str, str] | None = None
    files: dict[str, str] | None = None
    quantize: str | None = None
    stream: bool | None = None


class TokenLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]


class Logprob(Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TokenLogprob]


class AnswerMessage(Struct):
    """The `message` of a line."""

    content: str
    role: str = "assistant"
    thinking: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Line(Struct):
    """A line of a streamed answer, or a whole answer.

    A chat has `message`, other answers `response` and `thinking`. The last line has the reason why the answer ended,
    and durations in nanoseconds.
    """

    model: str
    created_at: str
    message: AnswerMessage | UnsetType = UNSET
    response: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    logprobs: list[Logprob] | UnsetType = UNSET
    done: bool = False
    done_reason: str | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET


class Embeddings(Struct):
    """The answer of `/api/embed`; durations in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    prompt_eval_count: int
    load_duration: int = 0
    warnings: list[str] | UnsetType = UNSET


class Embedding(Struct):
    embedding: list[float]


class ErrorResponse(Struct):
    error: str


class Version(Struct):
    version: str
    galago: str


class Details(Struct):
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    parent_model: str = ""
    format: str = "gguf"


class Model(Struct):
    """A model in `/api/tags` and `/api/ps`; the last two fields only in `/api/ps`."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details
    expires_at: str | UnsetType = UNSET
    context_length: int | UnsetType = UNSET


class Models(Struct):
    models: list[Model]


class ModelDetails(Struct):
    """`POST /api/show`"""

    modelfile: str
    parameters: str
    template: str
    license: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str
    system: str | UnsetType = UNSET
    messages: list[dict[str, str]] | UnsetType = UNSET


class Status(Struct):
    """A line of `/api/pull` and `/api/create`."""

    status: str
    digest: str | UnsetType = UNSET
    total: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET
