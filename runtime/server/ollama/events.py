"""The runtime's events as Ollama's lines, streamed or as one whole answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec import UNSET

from ....models.errors import GalagoError, InvalidRequest
from ...types.events import (
    Delta,
    Finished,
    OutputDelta,
    ReasoningDelta,
    Started,
    TokenLogprob,
    ToolCallArguments,
    ToolCallStart,
)
from ...types.messages import ToolCall
from ..http.whole_answers import CollectedAnswer
from ..openai.chat.convert import logprobs
from . import schema
from .errors import error_response


@dataclass
class LineContent:
    """What one line adds to an answer. Tool calls are added when they are complete."""

    text: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    def __add__(self, other: LineContent) -> LineContent:
        return LineContent(
            self.text + other.text,
            self.thinking + other.thinking,
            self.calls + other.calls,
            self.logprobs + other.logprobs,
        )


class LineEncoder:
    """Encodes one answer as lines, or as one whole line; `now` returns the time that a line carries."""

    def __init__(self, model: str, is_chat: bool, warnings: Sequence[str], now: Callable[[], str]) -> None:
        self._model = model
        self._is_chat = is_chat
        self._warnings = list(warnings)
        self._now = now
        self._call: ToolCallStart | None = None
        self._arguments: list[str] = []
        self._cut_off_call = ""

    def start(self, index: int, event: Started) -> Iterable[schema.Line]:
        self._warnings += event.warnings
        return ()

    def delta(self, index: int, event: OutputDelta) -> Iterable[schema.Line]:
        content = self.content(event)
        return () if content == LineContent() else (self.line(content),)

    def finish(self, index: int, event: Finished) -> Iterable[schema.Line]:
        return (self._last_line(self.complete_call(), event),)

    def cancel(self) -> Iterable[schema.Line]:
        return ()

    def fail(self, error: GalagoError) -> Iterable[schema.ErrorResponse]:
        return (error_response(error),)

    def whole(self, answer: CollectedAnswer) -> schema.Line:
        """The whole answer."""
        self._warnings += answer.warnings
        return self._last_line(self.whole_content(answer.deltas), answer.end)

    def without_answer(self, reason: Literal["load", "unload"]) -> schema.Line:
        """The answer to a request that only wants the model to be loaded or unloaded."""
        line = self.line(LineContent())
        line.done, line.done_reason, line.warnings = True, reason, self._warnings or UNSET
        return line

    def whole_content(self, deltas: Iterable[OutputDelta]) -> LineContent:
        return sum((self.content(delta) for delta in deltas), LineContent()) + self.complete_call()

    def content(self, delta: OutputDelta) -> LineContent:
        """What is complete after this delta; it may be empty."""
        match delta:
            case ToolCallArguments(_, text):
                self._arguments.append(text)
                return LineContent()
            case ToolCallStart():
                previous = self.complete_call()
                self._call = delta
                return previous
            case Delta(text=text, logprobs=tokens):
                return self.complete_call() + LineContent(text, logprobs=tokens)
            case ReasoningDelta(text):
                return self.complete_call() + LineContent(thinking=text)

    def complete_call(self) -> LineContent:
        """The open tool call, which has ended; empty if there is none, or if it was cut off."""
        if self._call is None:
            return LineContent()
        call = ToolCall(self._call.id, self._call.name, "".join(self._arguments))
        self._call, self._arguments = None, []
        try:
            call.parsed()
        except InvalidRequest:
            self._cut_off_call = call.name
            return LineContent()
        return LineContent(calls=(call,))

    @property
    def warnings(self) -> list[str]:
        if not self._cut_off_call:
            return self._warnings
        return [*self._warnings, f"the tool call of {self._cut_off_call} was cut off and is left out"]

    def line(self, content: LineContent) -> schema.Line:
        line = schema.Line(self._model, self._now())
        if self._is_chat:
            calls = [
                schema.ToolCall(schema.CalledFunction(call.name, call.parsed(), i), call.id)
                for i, call in enumerate(content.calls)
            ]
            thinking, tool_calls = content.thinking or UNSET, calls or UNSET
            line.message = schema.AnswerMessage(content.text, thinking=thinking, tool_calls=tool_calls)
        else:
            line.response, line.thinking = content.text, content.thinking or UNSET
        if content.logprobs:
            line.logprobs = _logprobs(content.logprobs)
        return line

    def _last_line(self, content: LineContent, end: Finished) -> schema.Line:
        """The line that also says how the answer ended and how long it took."""
        line = self.line(content)
        line.warnings = self.warnings or UNSET
        times, usage = end.timings, end.usage
        line.done, line.done_reason = True, "length" if end.reason == "length" else "stop"
        line.total_duration, line.load_duration = _nanoseconds(times.total_seconds), 0
        line.prompt_eval_count, line.prompt_eval_duration = usage.prompt_tokens, _nanoseconds(times.first_token_seconds)
        line.eval_count, line.eval_duration = (
            usage.completion_tokens,
            _nanoseconds(times.total_seconds - times.first_token_seconds),
        )
        return line


def _logprobs(tokens: Sequence[TokenLogprob]) -> list[schema.Logprob]:
    return [
        schema.Logprob(
            one.token,
            one.logprob,
            one.bytes,
            [schema.TokenLogprob(other.token, other.logprob, other.bytes) for other in one.top_logprobs],
        )
        for one in logprobs(tokens).content
    ]


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
