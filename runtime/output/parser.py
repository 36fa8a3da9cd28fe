"""Turns raw events of an answer into parsed ones: text, reasoning and tool calls.

An `EventParser` runs where a stream is read, so that neither the engine's thread nor the worker process parses text.
Its `ParserSpec` is made from the request in the model's process. Pure Python.
"""

from __future__ import annotations

from dataclasses import replace

from ..types.events import Delta, Event, Finished, OutputDelta, ParserSpec, ReasoningDelta, TokenLogprob
from ..types.messages import Tool
from ..types.request import Request
from .reasoning import ReasoningTags
from .text_parser import text_parser
from .tool_formats.detect import tool_format_named
from .tool_formats.tool_format import ToolFormat


def parser_spec(
    request: Request,
    tools: tuple[Tool, ...],
    tool_format: ToolFormat,
    tags: ReasoningTags | None,
    in_reasoning: bool,
) -> ParserSpec | None:
    """Describes the parser of a chat's answer; `None` if all of the answer is plain text.

    `tools` may be called, and have their schemas as they are enforced. `in_reasoning`: the prompt has opened the
    reasoning already.
    """
    message = request.continued_message
    continues = message is not None and bool(message.text or tool_format.answer_header)
    if tool_format.parser is None and not tools and (tags is None or continues):
        return None
    return ParserSpec(tool_format.name, tools, tags and (tags.opening, tags.closing), in_reasoning, continues)


class EventParser:
    """`feed` it every event of one answer in order; the parsed events do not depend on how the text was split."""

    def __init__(self, spec: ParserSpec) -> None:
        tags = ReasoningTags(*spec.reasoning_tags) if spec.reasoning_tags else None
        tool_format = tool_format_named(spec.tool_format)
        self._text = text_parser(tool_format, spec.tools, tags, spec.in_reasoning, spec.continues_message)
        self._reasoning_tokens = 0
        self._pending_logprobs: list[TokenLogprob] = []

    def feed(self, event: Event) -> list[Event]:
        match event:
            case Delta():
                return self._feed_delta(event)
            case Finished():
                return self.finish(event)
            case _:
                return [event]

    def finish(self, event: Finished) -> list[Event]:
        """Releases held text, and completes the finish reason and the token usage."""
        events = self._attach_logprobs(self._text.finish())
        if self._pending_logprobs:
            events.append(Delta("", 0, tuple(self._pending_logprobs)))
        reason = "tool_calls" if event.reason == "stop" and self._text.has_complete_calls else event.reason
        usage = replace(event.usage, reasoning_tokens=self._reasoning_tokens)
        return [*events, replace(event, reason=reason, usage=usage)]

    def _feed_delta(self, delta: Delta) -> list[Event]:
        self._pending_logprobs += delta.logprobs
        was_in_reasoning = self._text.in_reasoning
        parsed = self._text.feed(delta.text)
        if was_in_reasoning or self._text.in_reasoning or any(isinstance(piece, ReasoningDelta) for piece in parsed):
            self._reasoning_tokens += delta.tokens
        events = self._attach_logprobs(parsed)
        if delta.text and not parsed and not self._text.holds_text:
            self._pending_logprobs.clear()  # the text was only a tag, such as the one that ends the reasoning
        return events

    def _attach_logprobs(self, parsed: list[OutputDelta]) -> list[Event]:
        """Gives each text the logprobs collected since the last event; drops those of reasoning and tool calls."""
        events: list[Event] = []
        for piece in parsed:
            if isinstance(piece, Delta):
                piece = replace(piece, logprobs=tuple(self._pending_logprobs))
            self._pending_logprobs.clear()
            events.append(piece)
        return events
