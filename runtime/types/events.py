"""The events of an answer that is streamed, from `Started` to exactly one `Finished` or `Failed`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...models.errors import GalagoError
from .messages import Tool

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]


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
class ParserSpec:
    """What the reader of a stream needs to parse the answer's text into text, reasoning and tool calls.

    `tools` are those that the answer may call. `reasoning_tags` are the texts that open and close the reasoning.
    `in_reasoning`: the prompt has opened it already. `continues_message`: the answer continues a message's text.
    """

    tool_format: str
    tools: tuple[Tool, ...] = ()
    reasoning_tags: tuple[str, str] | None = None
    in_reasoning: bool = False
    continues_message: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt is accepted. `warnings` say which parts of the request could not be honoured as asked.

    `recited` are the prompt's tokens, if the request asked for them. `parsing` is `None` if the text is plain text.
    """

    prompt_tokens: int
    warnings: tuple[str, ...] = ()
    recited: tuple[TokenLogprob, ...] = ()
    parsing: ParserSpec | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer's text, with how many tokens it took since the last piece.

    `logprobs` are those of the tokens that begin in it, where they were asked for.
    """

    text: str
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """The answer begins to call a tool; `index` counts its calls from 0. The arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
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


OutputDelta: TypeAlias = Delta | ReasoningDelta | ToolCallStart | ToolCallArguments


Event: TypeAlias = Started | OutputDelta | Finished | Failed
"""What a stream carries: one `Started`, any number of `Said`, then exactly one `Finished` or `Failed`."""


Sink: TypeAlias = Callable[[Event], None]
