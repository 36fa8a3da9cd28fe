"""Parses an answer's text as it arrives into text, reasoning and tool calls. Knows no tokens.

The result does not depend on how the text was split. Text is released as soon as it cannot be the start of a call.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator

from ..types.events import Delta, OutputDelta, ReasoningDelta, ToolCallArguments, ToolCallStart
from ..types.messages import TOOL_NAME_CHARS, Tool
from .reasoning import ReasoningTags
from .tool_formats.notation import Transcoder
from .tool_formats.tool_format import ToolFormat

_NAME = re.compile(rf"\s*({TOOL_NAME_CHARS}+)")
_INCOMPLETE, _MISMATCH = -1, -2


class TextParser:
    """`feed` it text to get the parsed pieces; `finish` releases the text still held back.

    `tools` are those that may be called; without any, nothing is a call. With `tags`, reasoning at the start of the
    answer is separated; `in_reasoning`: the prompt has opened it already. `continues_message`: the answer continues
    text, so it cannot start with reasoning or a call without a block start.
    """

    def __init__(
        self,
        tool_format: ToolFormat,
        tools: Iterable[Tool] = (),
        tags: ReasoningTags | None = None,
        in_reasoning: bool = False,
        continues_message: bool = False,
    ) -> None:
        self._format = tool_format
        self._tools = {tool.name: tool for tool in tools}
        self._tags = tags
        self._held = ""
        self._final = False
        self._call_count = 0
        self._in_call = False
        self._transcoder: Transcoder | None = None
        self._step: Callable[[list[OutputDelta]], bool] = self._start
        if continues_message:
            self._step = self._text
        elif in_reasoning:
            self._step = self._reasoning_start

    @property
    def in_reasoning(self) -> bool:
        """Whether the next text may belong to the reasoning."""
        return self._step in (self._reasoning, self._reasoning_start)

    @property
    def holds_text(self) -> bool:
        """Whether some text is held back because its meaning is not clear yet."""
        return bool(self._held)

    @property
    def has_complete_calls(self) -> bool:
        """Whether the answer calls tools, and was not cut off within a call."""
        return self._call_count > 0 and not self._in_call

    def feed(self, text: str) -> list[OutputDelta]:
        self._held += text
        parsed: list[OutputDelta] = []
        while self._step(parsed):
            pass
        return parsed

    def finish(self) -> list[OutputDelta]:
        """Releases the held text. A call that is cut off before its arguments is dropped."""
        self._final = True
        return self.feed("")

    # Each step consumes what it can of the held text, and returns whether another step may consume more.

    def _start(self, parsed: list[OutputDelta]) -> bool:
        """Whitespace, then perhaps reasoning."""
        if self._tags is None:
            return self._go(self._answer)
        text = self._held.lstrip()
        if text.startswith(self._tags.opening):
            return self._go(self._reasoning_start, text[len(self._tags.opening) :])
        if self._tags.opening.startswith(text) and not self._final:
            return False
        return self._go(self._answer)

    def _reasoning_start(self, parsed: list[OutputDelta]) -> bool:
        self._held = self._held.lstrip()
        return bool(self._held or self._final) and self._go(self._reasoning)

    def _reasoning(self, parsed: list[OutputDelta]) -> bool:
        assert self._tags is not None
        reasoning, closing, rest = self._held.partition(self._tags.closing)
        if not closing and not self._final:
            reasoning = _before_possible_marker(self._held, self._tags.closing)
            rest = self._held[len(reasoning) :]
        text = reasoning.rstrip() if closing else reasoning
        if text:
            parsed.append(ReasoningDelta(text))
        self._held = rest
        return bool(closing) and self._go(self._reasoning_end)

    def _reasoning_end(self, parsed: list[OutputDelta]) -> bool:
        """Whitespace after the reasoning."""
        self._held = self._held.lstrip()
        return bool(self._held or self._final) and self._go(self._answer)

    def _answer(self, parsed: list[OutputDelta]) -> bool:
        """The start of the answer: the only place of calls without a block start."""
        if not (self._tools and self._format.block_start_optional):
            return self._go(self._text)
        blank = len(self._held) - len(self._held.lstrip())
        end = self._match_call(parsed, self._format.call_start, blank)
        if end == _INCOMPLETE and not self._final:
            return False
        return True if end >= 0 else self._go(self._text)

    def _text(self, parsed: list[OutputDelta]) -> bool:
        """Text, up to the start of a call."""
        marker = self._format.start_marker if self._tools else ""
        if not marker:
            return self._release(parsed, len(self._held))
        at = self._held.find(marker)
        if at < 0:
            safe = len(self._held) if self._final else len(_before_possible_marker(self._held, marker))
            self._release(parsed, safe)
            return False
        end = self._match_call(parsed, self._format.block_start + self._format.call_start, at)
        if end == _INCOMPLETE:
            if self._final:
                self._release(parsed, len(self._held[:at].rstrip()))
                self._held, self._in_call = "", True
            return False
        if end == _MISMATCH:
            self._release(parsed, at + len(marker))
        return True

    def _release(self, parsed: list[OutputDelta], length: int) -> bool:
        """Releases `length` characters of the held text. Drops bare whitespace where it may surround calls."""
        text, self._held = self._held[:length], self._held[length:]
        if text.strip() or (text and not self._tools):
            parsed.append(Delta(text))
        return False

    def _match_call(self, parsed: list[OutputDelta], prefix: str, at: int) -> int:
        """Matches a call at this position, with `prefix` before its name. Returns where its arguments start."""
        name_start = _match(prefix, self._held, at)
        if name_start < 0:
            return name_start
        name = _NAME.match(self._held, name_start)
        if name is None:
            return _MISMATCH if self._held[name_start:].strip() else _INCOMPLETE
        if name.end() == len(self._held):
            return _INCOMPLETE
        if name[1] not in self._tools:
            return _MISMATCH
        bracket = self._format.notation.bracket
        end = _match(self._format.arguments_start + bracket, self._held, name.end())
        if end < 0:
            return end
        if text := self._held[:at].rstrip():
            parsed.append(Delta(text))
        self._start_call(parsed, name[1], self._held[end - len(bracket) :])
        return end

    def _start_call(self, parsed: list[OutputDelta], name: str, arguments: str) -> None:
        """Starts a call; `arguments` is the held text from the arguments' first bracket."""
        parsed.append(ToolCallStart(self._call_count, _new_id(self._format.id_length), name))
        self._call_count += 1
        self._in_call = True
        self._transcoder = self._format.notation.transcoder(self._tools[name])
        self._go(self._arguments, arguments)

    def _arguments(self, parsed: list[OutputDelta]) -> bool:
        assert self._transcoder is not None
        text, consumed = self._transcoder.feed(self._held)
        self._held = self._held[consumed:]
        if text:
            parsed.append(ToolCallArguments(self._call_count - 1, text))
        return self._transcoder.done and self._go(self._call_end)

    def _call_end(self, parsed: list[OutputDelta]) -> bool:
        """After the arguments: another call in the same block, or the end of the block."""
        self._in_call = False
        tool_format = self._format
        incomplete = False
        if tool_format.call_separator is not None:
            prefix = tool_format.call_end + tool_format.call_separator + tool_format.call_start
            end = self._match_call(parsed, prefix, 0)
            if end >= 0:
                return True
            incomplete = end == _INCOMPLETE
        end = _match(tool_format.call_end + tool_format.block_end, self._held, 0)
        incomplete = incomplete or end == _INCOMPLETE
        if incomplete and not self._final:
            return False
        if incomplete:
            self._held = ""
        return self._go(self._text, self._held[max(end, 0) :])

    def _go(self, step: Callable[[list[OutputDelta]], bool], held: str | None = None) -> bool:
        self._step = step
        self._held = self._held if held is None else held
        return True


def _match(pattern: str, text: str, at: int) -> int:
    """Matches a tool format's text at a position. Returns its end, `_INCOMPLETE` at the end of text, or `_MISMATCH`.

    Whitespace at the end of a pattern consumes none: the next match skips it.
    """
    skip_whitespace = False
    for char in pattern:
        if char.isspace() or char == "·":
            skip_whitespace = True
            continue
        while skip_whitespace and at < len(text) and text[at].isspace():
            at += 1
        skip_whitespace = False
        if at >= len(text):
            return _INCOMPLETE
        if text[at] != char:
            return _MISMATCH
        at += 1
    return at


def _before_possible_marker(text: str, marker: str) -> str:
    """The part of a text that can be neither the start of the marker nor whitespace before it."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if marker.startswith(text[-length:]):
            text = text[:-length]
            break
    return text.rstrip()


def _new_id(length: int | None) -> str:
    return uuid.uuid4().hex[:length] if length else f"call_{uuid.uuid4().hex[:24]}"


def text_parser(
    tool_format: ToolFormat,
    tools: Iterable[Tool] = (),
    tags: ReasoningTags | None = None,
    in_reasoning: bool = False,
    continues_message: bool = False,
) -> TextParser:
    """Makes the parser for a tool format."""
    make = tool_format.parser or TextParser
    return make(tool_format, tools, tags, in_reasoning, continues_message)


def parse_text(parser: TextParser, text: str) -> Iterator[OutputDelta]:
    """Parses a complete text."""
    yield from parser.feed(text)
    yield from parser.finish()
