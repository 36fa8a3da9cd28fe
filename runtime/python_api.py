"""The Python face: one model, for scripts. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack, overload

from ..models.errors import EngineError, InvalidRequest
from . import chat_input
from .output.assembled import AssembledAnswer
from .types.events import Delta, Failed, Finished, FinishReason, Started, Timings, TokenLogprob, Usage
from .types.messages import FRAMES, Audio, Effort, Image, Message, Part, Text, Tool, ToolCall, Video
from .types.model_info import ModelInfo
from .types.request import Request, Sampling

if TYPE_CHECKING:
    from .config import FlashAttention, KVType
    from .inference.stream import Stream
    from .service import Service

MediaKind: TypeAlias = Literal["image", "audio", "video"]
Media: TypeAlias = str | Path | bytes | bytearray | memoryview
"""A file's path, or the bytes of one."""

Chat: TypeAlias = str | Sequence[Mapping[str, Any]]


class Reply(str):
    """A whole answer: a text, with what it took to make it. `finish_reason` "length" means it was cut off.

    `calls` are those of tools, and `reasoning` is what the model thought first.
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
        """The text alone."""
        return str.__str__(self)


class ReplyStream:
    """An answer while it is made: iterate over its pieces of text, then read `reply`. Closing or dropping it ends the
    work."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._whole = AssembledAnswer()
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
                    text, logprobs = self._whole.text, tuple(self._logprobs)
                    reply = Reply(text, reason, usage, timings, self._warnings, logprobs)
                    reply.calls, reply.reasoning = self._whole.calls, self._whole.thoughts
                    self._reply = reply
                case said:
                    self._whole.add(said)
                    if isinstance(said, Delta):
                        self._logprobs += said.logprobs
                        return said.text
        raise StopIteration

    @property
    def reply(self) -> Reply:
        """The whole answer, once the iteration has ended."""
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
    """What `chat` takes. Media stand before the prompt's text, in the last user message. Of each `video`, so many
    `frames` are shown (8), each behind its time; that needs PyAV (`galago[video]`).

    `logprobs` asks for each token's probability, and for so many of the likeliest ones in its place.
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
    stop: str | Sequence[str] | None
    ignore_eos: bool
    cache: bool
    lora: Sequence[float] | None
    timeout: float | None
    tools: Sequence[Tool | Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    reasoning_effort: Effort | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repeat_penalty: float | None
    logit_bias: Mapping[int, float] | None
    logprobs: int | None
    grammar: str | None
    regex: str | None
    continue_final: bool


class LocalModel:
    """A loaded model. May be used from several threads; close it, or use it as a context manager."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def info(self) -> ModelInfo:
        """What the model is, and which senses it has."""
        return self._service.models()[0]

    @overload
    def chat(self, prompt: Chat, *, stream: Literal[False] = False, **options: Unpack[ChatOptions]) -> Reply: ...

    @overload
    def chat(self, prompt: Chat, *, stream: Literal[True], **options: Unpack[ChatOptions]) -> ReplyStream: ...

    def chat(self, prompt: Chat, *, stream: bool = False, **options: Unpack[ChatOptions]) -> Reply | ReplyStream:
        """Answers a prompt, or a chat given as `{"role": ..., "content": ...}` messages.

        With `stream=True` the answer comes piece by piece, as a `ReplyStream`. Settings left out are the model's own.
        `tools` are functions as the OpenAI API describes them; `tool_choice` is auto, none, required or a tool's name.
        """
        pieces = self.stream(_request(prompt, **options))
        if stream:
            return pieces
        for _ in pieces:
            pass
        return pieces.reply

    def stream(self, request: Request) -> ReplyStream:
        """Answers a request that was put together by hand: any roles, media in any place."""
        return ReplyStream(self._service.generate(None, request))

    @overload
    def embed(self, texts: str, dimensions: int | None = None) -> list[float]: ...

    @overload
    def embed(self, texts: list[str] | tuple[str, ...], dimensions: int | None = None) -> list[list[float]]: ...

    def embed(
        self, texts: str | list[str] | tuple[str, ...], dimensions: int | None = None
    ) -> list[float] | list[list[float]]:
        """What an embedding model makes of a text, or of each of several: a vector of length 1.

        The first `dimensions` numbers of it, where the model was trained for that.
        """
        if isinstance(texts, str):
            return self.embed([texts], dimensions)[0]
        return self._service.embed(texts, dimensions).rows()

    def close(self) -> None:
        """Frees the model. Answers still being made end with an error."""
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
    gpu_layers: int = -1,
    cache_mib: int = 256,
    cache_dir: Path | None = None,
    kv_type: KVType = "f16",
    flash_attention: FlashAttention = "auto",
    lora: Sequence[str | Path] = (),
    draft: str | Path | None = None,
    memory: str | None = None,
    isolated: bool = False,
    progress: Callable[[float], None] | None = None,
) -> LocalModel:
    """Loads a model: `"builtin"`, or the path of a GGUF file with, where it sees or hears, its projector `mmproj`.

    `ctx` is the context in tokens; `slots` how many threads may chat at once without waiting (4). Where `memory` says
    what the model may take (`"4GB"`, `"50%"`), what is left out of the two is chosen by it; `kv_type` how the context
    is stored ("f16", or smaller "q8_0" and "q4_0"); `lora` names adapters as `FILE[:SCALE]`; `draft` is a
    smaller model with the same vocabulary that guesses ahead. `cache_mib` is the memory
    for what later prompts may begin with again and for encoded media, and `cache_dir` a folder that keeps it over
    restarts. An `isolated` model lives in a process of its own: where llama.cpp crashes, this one goes on, and the
    model is loaded again. `progress` is called with the fraction of the weights loaded. Raises `GalagoError`.
    """
    from ..models.device import memory_size, this_machine
    from ..models.registry.resolve import resolve
    from .config import ModelConfig
    from .service import Service

    config = ModelConfig(
        ctx,
        threads,
        slots,
        gpu_layers,
        cache_mib=cache_mib,
        cache_folder=cache_dir,
        kv_type=kv_type,
        flash_attention=flash_attention,
        memory=None if memory is None else memory_size(memory, this_machine().total_memory),
    )
    service = Service(resolve(model, mmproj, lora=lora, draft=draft), config, progress, isolated=isolated)
    service.load()
    return LocalModel(service)


def _request(
    prompt: Chat,
    *,
    image: Media | Sequence[Media] | None = None,
    audio: Media | Sequence[Media] | None = None,
    video: Media | Sequence[Media] | None = None,
    frames: int = FRAMES,
    system: str | None = None,
    json_schema: dict[str, Any] | bool | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    ignore_eos: bool = False,
    cache: bool = True,
    lora: Sequence[float] | None = None,
    timeout: float | None = None,
    tools: Sequence[Tool | Mapping[str, Any]] | None = None,
    tool_choice: str | Mapping[str, Any] = "auto",
    parallel_tool_calls: bool = True,
    reasoning_effort: Effort | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    repeat_penalty: float | None = None,
    logit_bias: Mapping[int, float] | None = None,
    logprobs: int | None = None,
    grammar: str | None = None,
    regex: str | None = None,
    continue_final: bool = True,
) -> Request:
    bias = tuple((logit_bias or {}).items())
    penalties = (frequency_penalty, presence_penalty, repeat_penalty)
    return Request(
        messages=_messages(prompt, system, _media(image, audio, video, frames)),
        sampling=Sampling(temperature, top_p, top_k, min_p, seed, *penalties, bias),
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        ignore_eos=ignore_eos,
        cache=cache,
        json_schema=json_schema,
        lora=None if lora is None else tuple(lora),
        timeout=timeout,
        tools=chat_input.tools(tools or ()),
        effort=reasoning_effort,
        **{"parallel": parallel_tool_calls, **chat_input.choice(tool_choice)},
        grammar=grammar,
        regex=regex,
        logprobs=logprobs,
        continue_final=continue_final,
    )


def read_media(kind: MediaKind, path: Path, frames: int = FRAMES) -> Part:
    """A picture, sound or film file as a part of a message. Raises `MediaError`."""
    from .media.decode import MediaLimits, read_media_file

    return _part_of(kind, read_media_file(path.expanduser(), MediaLimits()), str(path), frames)


def _media(
    image: Media | Iterable[Media] | None,
    audio: Media | Iterable[Media] | None,
    video: Media | Iterable[Media] | None,
    frames: int,
) -> tuple[Part, ...]:
    given: dict[MediaKind, Media | Iterable[Media] | None] = {"image": image, "audio": audio, "video": video}
    return tuple(_part(kind, medium, frames) for kind, media in given.items() for medium in _several(kind, media))


def _several(kind: str, media: Media | Iterable[Media] | None) -> list[Media]:
    if media is None:
        return []
    if isinstance(media, str | Path | bytes | bytearray | memoryview):
        return [media]
    if isinstance(media, list | tuple):
        return list(media)
    raise InvalidRequest(f"{kind} is a path, bytes or a list of them, not {type(media).__name__}", kind)


def _part_of(kind: MediaKind, data: bytes, source: str, frames: int) -> Part:
    if kind == "video":
        return Video(data, source, frames)
    return Image(data, source) if kind == "image" else Audio(data, source)


def _part(kind: MediaKind, medium: Media, frames: int) -> Part:
    if isinstance(medium, bytes | bytearray | memoryview):
        return _part_of(kind, bytes(medium), kind, frames)
    if isinstance(medium, str | Path):
        return read_media(kind, Path(medium), frames)
    raise InvalidRequest(f"{kind} is a path, bytes or a list of them, not {type(medium).__name__}", kind)


def _messages(prompt: Chat, system: str | None, media: tuple[Part, ...]) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        chat = [Message("user", (Text(prompt),))]
    elif isinstance(prompt, list | tuple):
        chat = [chat_input.message(m) for m in prompt]
    else:
        raise InvalidRequest(f"a prompt is a text or a list of messages, not {type(prompt).__name__}", "prompt")
    if media:
        last = next((i for i in reversed(range(len(chat))) if chat[i].role == "user"), None)
        if last is None:
            raise InvalidRequest("pictures, sounds and films need a user message to stand in", "prompt")
        chat[last] = Message("user", (*media, *chat[last].parts))
    if system is not None:
        chat.insert(0, Message("system", (Text(system),)))
    return tuple(chat)
