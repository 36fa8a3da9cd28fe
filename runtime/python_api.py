"""The Python API: load a model, chat with it, and embed texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack, get_args, overload

from ..models.errors import EngineError, InvalidRequest
from . import chat_input
from .output.assembled import AssembledAnswer
from .types.events import Delta, Failed, Finished, FinishReason, Started, Timings, TokenLogprob, Usage
from .types.messages import (
    DEFAULT_VIDEO_FRAMES,
    Audio,
    Image,
    Message,
    Part,
    ReasoningEffort,
    Text,
    Tool,
    ToolCall,
    Video,
)
from .types.model_info import ModelInfo
from .types.options import REQUEST, SAMPLING
from .types.request import Request, Sampling, option_value
from .types.tasks import Embed

if TYPE_CHECKING:
    from .config import FlashAttention, KVType
    from .inference.stream import Stream
    from .service import Service

MediaKind: TypeAlias = Literal["image", "audio", "video"]
Media: TypeAlias = str | Path | bytes | bytearray | memoryview
"""The path of a file, or its bytes."""

ChatInput: TypeAlias = str | Sequence[Mapping[str, Any]]


class Reply(str):
    """A whole answer: its text, with token counts, timings and warnings.

    `finish_reason` "length" means that the answer was cut off. `calls` are tool calls, and `reasoning` is the text that
    the model wrote before the answer.
    """

    calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    warnings: tuple[str, ...]
    logprobs: tuple[TokenLogprob, ...]

    def __new__(
        cls,
        text: str,
        finish_reason: FinishReason,
        usage: Usage,
        timings: Timings,
        warnings: tuple[str, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Reply:
        reply = super().__new__(cls, text)
        reply.finish_reason, reply.usage, reply.timings, reply.warnings = finish_reason, usage, timings, warnings
        reply.logprobs = logprobs
        return reply

    @property
    def text(self) -> str:
        """The text as a plain `str`."""
        return str.__str__(self)


class ReplyStream:
    """An answer while it is generated: iterate over its pieces of text, then read `reply`.

    Closing the stream, or dropping the last reference to it, cancels the request.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._answer = AssembledAnswer()
        self._logprobs: list[TokenLogprob] = []
        self._warnings: tuple[str, ...] = ()
        self._reply: Reply | None = None
        self._events = iter(stream)

    def __iter__(self) -> ReplyStream:
        return self

    def __next__(self) -> str:
        for event in self._events:
            match event:
                case Started(warnings=warnings):
                    self._warnings = warnings
                case Failed(error=error):
                    raise error
                case Finished(reason=reason, usage=usage, timings=timings):
                    text, logprobs = self._answer.text, tuple(self._logprobs)
                    reply = Reply(text, reason, usage, timings, self._warnings, logprobs)
                    reply.calls, reply.reasoning = self._answer.tool_calls, self._answer.reasoning
                    self._reply = reply
                case delta:
                    self._answer.add(delta)
                    if isinstance(delta, Delta):
                        self._logprobs += delta.logprobs
                        return delta.text
        raise StopIteration

    @property
    def reply(self) -> Reply:
        """The whole answer, available when the iteration has ended."""
        if self._reply is None:
            raise EngineError("the answer is not finished: iterate over the stream to its end first")
        return self._reply

    def close(self) -> None:
        self._stream.close()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> ReplyStream:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class ChatOptions(TypedDict, total=False):
    """The keywords of `chat`, described in `types/options.py`.

    Media precede the prompt's text in the last user message. Video needs PyAV (`pip install galago[video]`).
    """

    image: Media | Sequence[Media] | None
    audio: Media | Sequence[Media] | None
    video: Media | Sequence[Media] | None
    frames: int
    system: str | None
    json_schema: dict[str, Any] | bool | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    seed: int | None
    min_tokens: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool
    cache: bool
    lora: Sequence[float] | None
    timeout: float | None
    tools: Sequence[Tool | Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    reasoning_effort: ReasoningEffort | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repeat_penalty: float | None
    logit_bias: Mapping[int, float] | None
    logprobs: int | None
    grammar: str | None
    regex: str | None
    continue_final: bool


class LocalModel:
    """A loaded model, for any number of threads. Close it, or use it as a context manager."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def info(self) -> ModelInfo:
        """The model's name, size, context length and input modalities."""
        return self._service.model(None)

    @overload
    def chat(self, prompt: ChatInput, *, stream: Literal[False] = False, **options: Unpack[ChatOptions]) -> Reply: ...

    @overload
    def chat(self, prompt: ChatInput, *, stream: Literal[True], **options: Unpack[ChatOptions]) -> ReplyStream: ...

    def chat(self, prompt: ChatInput, *, stream: bool = False, **options: Unpack[ChatOptions]) -> Reply | ReplyStream:
        """Answers a prompt, or a conversation given as `{"role": ..., "content": ...}` messages.

        With `stream=True` the answer comes piece by piece, as a `ReplyStream`. Sampling options that are not given have
        the values that the model's file recommends. `tools` have the form of the OpenAI API.
        """
        answer = self.stream(_request(prompt, **options))
        if stream:
            return answer
        for _ in answer:
            pass
        return answer.reply

    def stream(self, request: Request) -> ReplyStream:
        """Answers a `Request`, which may have any roles, and media in any message."""
        return ReplyStream(self._service.generate(None, request))

    @overload
    def embed(self, texts: str, dimensions: int | None = None) -> list[float]: ...

    @overload
    def embed(self, texts: list[str] | tuple[str, ...], dimensions: int | None = None) -> list[list[float]]: ...

    def embed(
        self, texts: str | list[str] | tuple[str, ...], dimensions: int | None = None
    ) -> list[float] | list[list[float]]:
        """Returns the embedding of a text, or of each of several: a vector of length 1.

        `dimensions` shortens the vectors, for models that are trained for it.
        """
        if isinstance(texts, str):
            return self.embed([texts], dimensions)[0]
        return self._service.run_task(None, Embed(tuple(texts), dimensions)).rows()

    def close(self) -> None:
        """Frees the model. Unfinished answers end with an error."""
        self._service.close()

    def __enter__(self) -> LocalModel:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def load(
    model: str | Path,
    *,
    mmproj: str | Path | None = None,
    ctx: int | None = None,
    threads: int | None = None,
    slots: int | None = None,
    gpu_layers: int | None = None,
    cache_mib: int | None = None,
    cache_dir: Path | None = None,
    kv_type: KVType | None = None,
    flash_attention: FlashAttention | None = None,
    chat_template: str | Path | None = None,
    lora: Sequence[str | Path] | None = None,
    draft: str | Path | None = None,
    memory: str | None = None,
    isolated: bool = False,
    progress: Callable[[float], None] | None = None,
) -> LocalModel:
    """Loads a model: `"builtin"`, the name of an installed model or of a preset, or the path of a GGUF file.

    An option that is `None` has the value of the preset, or else its default.
    `mmproj` is the projector file for image and audio input, `lora` adapters as `FILE[:SCALE]`, and `draft` a smaller
    model with the same vocabulary for speculative decoding. `ctx` is the context length in tokens, and `slots` the
    number of requests answered at once (4); with `memory` ("4GB", "50%") the two follow from it unless given.
    `kv_type` is the precision of the KV cache: "f16", "q8_0" or "q4_0". `cache_mib` (256) is the memory for cached
    prefixes and encoded media, and `cache_dir` a folder that keeps them over restarts. `chat_template` replaces the one
    in the model's file: "chatml", "llama3", "gemma", "mistral", "plain", or the path of a Jinja file. An `isolated`
    model runs in its own process; if llama.cpp crashes, the model is loaded again. `progress` receives the fraction of
    the weights loaded. Raises `GalagoError`.
    """
    from .pool.pool import ModelPool
    from .pool.presets import resolve_model
    from .pool.resident import ResidentModel

    options = {
        "mmproj": mmproj,
        "lora": lora,
        "draft": draft,
        "context_length": ctx,
        "memory": memory,
        "threads": threads,
        "gpu_layers": gpu_layers,
        "kv_type": kv_type,
        "flash_attention": flash_attention,
        "chat_template": None if chat_template is None else str(chat_template),
        "slots": slots,
        "cache_mib": cache_mib,
        "cache_folder": cache_dir,
    }
    resolved = resolve_model(model, {name: value for name, value in options.items() if value is not None})
    service = ModelPool(ResidentModel(resolved.files, resolved.config, progress, isolated=isolated))
    service.load()
    return LocalModel(service)


def _request(prompt: ChatInput, **options: Unpack[ChatOptions]) -> Request:
    given: dict[str, Any] = {**options}
    media = _media(
        {kind: given.pop(kind, None) for kind in get_args(MediaKind)}, given.pop("frames", DEFAULT_VIDEO_FRAMES)
    )
    messages = _messages(prompt, given.pop("system", None), media)
    sampling = {option.name: option_value(option, given.pop(option.python_name, None)) for option in SAMPLING}
    fields: dict[str, Any] = {}
    for option in REQUEST:
        if option.python_name in given:
            fields[option.field_name] = option_value(option, given.pop(option.python_name))
    if given:
        raise TypeError(f"chat() got an unexpected keyword argument {next(iter(given))!r}")
    if fields.get("lora") is not None:
        fields["lora"] = tuple(fields["lora"])
    fields["tools"] = chat_input.tools(fields.get("tools") or ())
    fields |= chat_input.tool_choice(fields.get("tool_choice", "auto"))
    return Request(messages, Sampling(**sampling), **fields)


def read_media(kind: MediaKind, path: Path, frames: int = DEFAULT_VIDEO_FRAMES) -> Part:
    """Reads an image, audio or video file as a part of a message. Raises `MediaError`."""
    from .media.limits import MediaLimits, read_media_file

    return _media_part(kind, read_media_file(path.expanduser(), MediaLimits()), str(path), frames)


def _media(given: Mapping[MediaKind, Media | Iterable[Media] | None], frames: int) -> tuple[Part, ...]:
    return tuple(_read_part(kind, medium, frames) for kind, media in given.items() for medium in _as_list(kind, media))


def _as_list(kind: str, media: Media | Iterable[Media] | None) -> list[Media]:
    if media is None:
        return []
    if isinstance(media, str | Path | bytes | bytearray | memoryview):
        return [media]
    if isinstance(media, list | tuple):
        return list(media)
    raise InvalidRequest(f"{kind} must be a path, bytes or a list of them, not {type(media).__name__}", kind)


def _media_part(kind: MediaKind, data: bytes, source: str, frames: int) -> Part:
    if kind == "video":
        return Video(data, source, frames)
    return Image(data, source) if kind == "image" else Audio(data, source)


def _read_part(kind: MediaKind, medium: Media, frames: int) -> Part:
    if isinstance(medium, bytes | bytearray | memoryview):
        return _media_part(kind, bytes(medium), kind, frames)
    if isinstance(medium, str | Path):
        return read_media(kind, Path(medium), frames)
    raise InvalidRequest(f"{kind} must be a path, bytes or a list of them, not {type(medium).__name__}", kind)


def _messages(prompt: ChatInput, system: str | None, media: tuple[Part, ...]) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        chat = [Message("user", (Text(prompt),))]
    elif isinstance(prompt, list | tuple):
        chat = [chat_input.message(one) for one in prompt]
    else:
        raise InvalidRequest(f"a prompt must be a text or a list of messages, not {type(prompt).__name__}", "prompt")
    if media:
        last = next((i for i in reversed(range(len(chat))) if chat[i].role == "user"), None)
        if last is None:
            raise InvalidRequest("images, audio and video need a user message, and there is none", "prompt")
        chat[last] = Message("user", (*media, *chat[last].parts))
    if system is not None:
        chat.insert(0, Message("system", (Text(system),)))
    return tuple(chat)
