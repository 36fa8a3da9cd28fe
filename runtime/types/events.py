"""The events of a streamed answer, from `Started` to exactly one `Finished` or `Failed`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...models.errors import GalagoError
from .messages import Tool

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one request.

    `cached_tokens`, `image_tokens` and `audio_tokens` are part of `prompt_tokens`. `accepted_draft_tokens` and
    `reasoning_tokens` are part of `completion_tokens`; `rejected_draft_tokens` are not.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0
    accepted_draft_tokens: int = 0
    rejected_draft_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from the request's arrival until its prompt is ready, its first token and its last token."""

    prompt_seconds: float
    first_token_seconds: float
    total_seconds: float

    def tokens_per_second(self, tokens: int) -> float | None:
        """The rate after the first token, or `None` for fewer than two tokens."""
        seconds = self.total_seconds - self.first_token_seconds
        return (tokens - 1) / seconds if tokens > 1 and seconds > 0 else None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's bytes and the natural logarithm of its probability; NaN for the first token of a prompt.

    `top_logprobs` are the most likely tokens in its place, the best first. The probabilities are the model's own,
    before sampling settings, penalties and grammars.
    """

    token: bytes
    logprob: float
    top_logprobs: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ParserSpec:
    """Tells the reader of a stream how to parse the answer's text into text, reasoning and tool calls.

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

    `prompt_logprobs` are those of the prompt's tokens, if requested. `parsing` is `None` if the text is plain text.
    """

    prompt_tokens: int
    warnings: tuple[str, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    parsing: ParserSpec | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer's text, and the number of tokens generated since the last piece.

    `logprobs` are those of the tokens that start in it, if requested.
    """

    text: str
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A tool call starts; `index` counts the answer's calls from 0. The arguments follow."""

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
    """The answer is complete. `stopped_by` is the stop string that ended it."""

    reason: FinishReason
    usage: Usage
    timings: Timings
    stopped_by: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    error: GalagoError


OutputDelta: TypeAlias = Delta | ReasoningDelta | ToolCallStart | ToolCallArguments


Event: TypeAlias = Started | OutputDelta | Finished | Failed
"""A stream carries one `Started`, any number of `OutputDelta`s, then exactly one `Finished` or `Failed`."""


Sink: TypeAlias = Callable[[Event], None]
