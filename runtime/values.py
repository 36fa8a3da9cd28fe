"""The frozen values that travel between the parts of the runtime: messages and requests in, events out.

Knows no llama.cpp, no wire format and no thread; whatever crosses a thread or a process is one of these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..models.errors import GalagoError, InvalidRequest
from .films import Frame, Video

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

MAX_STOPS, MAX_TOOLS = 16, 128
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MAX_LIKELIEST = 20  # alternatives told of each token at most, as in OpenAI's API

BOUNDS: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "top_k": (0, 2**31 - 1),
    "min_p": (0, 1),
    "seed": (-(2**63), 2**63 - 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "repeat_penalty": (0.01, 100),
    "max_tokens": (1, 2**31 - 1),
    "timeout": (0, 86400),
}
"""The least and the greatest value of a request's numbers."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded picture (PNG, JPEG, ...), not yet decoded. `source` names the field or file it came from."""

    data: bytes
    source: str = "image"


@dataclass(frozen=True, slots=True)
class Audio:
    """An encoded sound file (WAV, FLAC, ...), not yet decoded. `source` names the field or file it came from."""

    data: bytes
    source: str = "audio"


Part: TypeAlias = Text | Image | Audio | Video | Frame


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that an answer may call; `parameters` is the JSON schema of its arguments, an object."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call, its `arguments` as JSON text."""

    id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, Any]:
        """The arguments as values. Raises `InvalidRequest` where they are no JSON object, as when they were cut off."""
        try:
            value = json.loads(self.arguments.strip() or "{}")
        except RecursionError:
            raise InvalidRequest(f"the arguments of {self.name}'s call are nested too deeply", "messages") from None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            what = f"the arguments of the call of {self.name} are no JSON object: {self.arguments[:80]!r}"
            raise InvalidRequest(what, "messages")
        return value


@dataclass(frozen=True, slots=True)
class Message:
    """`calls` and `reasoning` are an assistant's; `answers` is the id of the call whose result a tool's message is."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None
    calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    answers: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; `None` means what the model's file recommends, else greedy.

    Applied in the order repeat_penalty, frequency_penalty, presence_penalty and logit_bias, top_k, top_p, min_p,
    temperature. `temperature` 0 takes the likeliest token. `logit_bias` holds pairs of a token id and what is added to
    its logit. How the penalties reckon stands in `native/penalties.py`.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repeat_penalty"):
            check_number(name, getattr(self, name), *BOUNDS[name])
        for name in ("top_k", "seed"):
            check_number(name, getattr(self, name), *BOUNDS[name], whole=True)
        for token, bias in self.logit_bias:
            check_number("logit_bias", token, 0, 2**31 - 1, whole=True)
            check_number("logit_bias", bias, -100, 100)


@dataclass(frozen=True, slots=True)
class Raw:
    """A prompt without a chat template: a text, in which control tokens count, or token ids. With a `suffix` the answer
    is what stands between. One to be `recited` is told first, with its tokens' probabilities; no answer need follow."""

    prompt: str | tuple[int, ...]
    suffix: str | None = None
    recited: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One chat to answer, or a `raw` prompt to go on from, without messages.

    `max_tokens` `None`: as many as the context still holds. Without `cache` it neither takes nor leaves anything.
    `lora` says how strongly each of the model's adapters applies, those left out not at all; `None`: as loaded.
    An answer that is not complete `timeout` seconds after its request fails. At most one of `json_schema`, `grammar`
    (Lark, as llguidance reads it) and `regex` says what the answer must look like. `logprobs` asks for each token's
    logarithm of probability, and for so many of the likeliest tokens in its place. An assistant's message at the end is
    continued, unless `continue_final` is `False`.
    `tools` may be called as `tool_choice` says, only those `allowed` by name where that is given, and several in one
    answer unless `parallel` is `False`. `effort` says how much to think first; `None`: as the model's template does.
    `variables` are set for the chat template. Work in the `background` rests, even halfway, while there is any other.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    cache: bool = True
    json_schema: dict[str, Any] | bool | None = None
    lora: tuple[float, ...] | None = None
    timeout: float | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    allowed: tuple[str, ...] | None = None
    parallel: bool = True
    effort: Effort | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    grammar: str | None = None
    regex: str | None = None
    logprobs: int | None = None
    continue_final: bool = True
    raw: Raw | None = None
    background: bool = False

    @property
    def recited(self) -> bool:
        return self.raw is not None and self.raw.recited

    @property
    def continued(self) -> Message | None:
        """The assistant's message that the answer goes on from."""
        if self.raw is not None:
            return None
        last = self.messages[-1]
        return last if self.continue_final and last.role == "assistant" and last.parts and not last.calls else None

    def __post_init__(self) -> None:
        if self.raw is not None and (self.messages or self.tools):
            raise InvalidRequest("a raw prompt excludes messages and tools", "prompt")
        if not self.messages and self.raw is None:
            raise InvalidRequest("there is no message to answer", "messages")
        check_number("max_tokens", self.max_tokens, 1 - self.recited, BOUNDS["max_tokens"][1], whole=True)
        if self.recited and self.logprobs is None:
            raise InvalidRequest("a prompt is recited with its probabilities: logprobs says how many", "logprobs")
        if len(self.stop) > MAX_STOPS:
            raise InvalidRequest(f"stop holds {len(self.stop)} strings; at most {MAX_STOPS} are allowed", "stop")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise InvalidRequest("stop holds an empty string, which would end every answer at once", "stop")
        for scale in self.lora or ():
            check_number("lora", scale, -100, 100)
        check_number("timeout", self.timeout, *BOUNDS["timeout"])
        check_number("logprobs", self.logprobs, 0, MAX_LIKELIEST, whole=True)
        forms = [name for name in ("json_schema", "grammar", "regex") if getattr(self, name) is not None]
        if len(forms) > 1:
            raise InvalidRequest(f"{' and '.join(forms)} exclude each other; give one of them", forms[-1])
        self._check_tools()

    def _check_tools(self) -> None:
        for message in self.messages:
            for call in message.calls:
                call.parsed()
        names = [tool.name for tool in self.tools]
        if len(names) > MAX_TOOLS:
            raise InvalidRequest(f"there are {len(names)} tools; at most {MAX_TOOLS} are allowed", "tools")
        for i, name in enumerate(names):
            if not TOOL_NAME.fullmatch(name):
                raise InvalidRequest(f"tools[{i}]: {name!r} is not 1 to 64 of a-z, A-Z, 0-9, _ and -", "tools")
            if (self.tools[i].parameters or {}).get("type", "object") != "object":
                raise InvalidRequest(f"the parameters of tools[{i}] must be of the type object", "tools")
            if names.index(name) != i:
                raise InvalidRequest(f"two tools are named {name!r}", "tools")
        if self.tool_choice == "required" and not names:
            raise InvalidRequest("tool_choice requires a call, and there are no tools", "tool_choice")
        if self.allowed == ():
            raise InvalidRequest('tool_choice allows no tool; write "none" where none may be called', "tool_choice")
        for name in self.allowed or ():
            if name not in names:
                raise InvalidRequest(f"tool_choice names {name!r}, which is not among the tools", "tool_choice")


def check_number(name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Raises `InvalidRequest` unless a value is `None` or within its bounds."""
    kinds = int if whole else (int, float)
    if value is not None and (not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high):
        kind = "a whole number" if whole else "a number"
        raise InvalidRequest(f"{name} is {value!r}, and must be {kind} from {low} to {high}", name)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request; `cached_tokens`, `image_tokens` and `audio_tokens` are parts of `prompt_tokens`.

    Of the tokens guessed ahead, those `accepted` are part of `completion_tokens`, those `rejected` were in vain.
    `reasoning_tokens`, thought before the answer, are part of `completion_tokens`.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0
    accepted: int = 0
    rejected: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from the request's arrival: until its prompt is ready, its first token, and its last."""

    prepared: float
    first_token: float
    total: float

    def tokens_per_second(self, tokens: int) -> float | None:
        """The rate after the first token, or `None` where fewer than two tokens were made."""
        seconds = self.total - self.first_token
        return (tokens - 1) / seconds if tokens > 1 and seconds > 0 else None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, as its bytes, and the natural logarithm of the probability that the model gave it: NaN for the first one
    of a prompt, before which nothing stands.

    `likeliest` are the likeliest tokens in its place in the same form, the best first. Sampling settings, penalties and
    grammars do not count.
    """

    token: bytes
    logprob: float
    likeliest: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt is accepted; `warnings` says what did not go quite as asked. `recited` are the tokens, if it is."""

    prompt_tokens: int
    warnings: tuple[str, ...] = ()
    recited: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer's text, with how many tokens it took since the last piece.

    `logprobs` are those of the tokens that begin in it, where they were asked for.
    """

    text: str
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The answer begins to call a tool; `index` counts its calls from 0. The arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """How an answer ended; `stopped_by` is the stop string that it met."""

    reason: FinishReason
    usage: Usage
    timings: Timings
    stopped_by: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    error: GalagoError


Said: TypeAlias = Delta | Thought | CallBegun | CallArguments
Event: TypeAlias = Started | Said | Finished | Failed
"""What a stream carries: one `Started`, any number of `Said`, then exactly one `Finished` or `Failed`."""

Sink: TypeAlias = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is and can take; `warnings` say what did not go as well as it could have.

    An `embedding` model turns texts into vectors, one for `rerank` scores documents; neither answers.
    """

    id: str
    description: str
    context_length: int
    parameters: int
    size_bytes: int
    vision: bool
    audio: bool
    created: int
    warnings: tuple[str, ...] = ()
    kind: Literal["chat", "embedding", "rerank"] = "chat"


@dataclass(frozen=True, slots=True)
class Stats:
    """What a model is doing, and what it has done since it was loaded. Seconds and tokens are sums over requests.

    `first_token_seconds` are those from requests to their first tokens, `busy_seconds` those spent computing.
    """

    slots: int = 0
    running: int = 0
    waiting: int = 0
    threads: int = 0
    memory_bytes: int = 0
    cache_bytes: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token_seconds: float = 0.0
    busy_seconds: float = 0.0
    restarts: int = 0
