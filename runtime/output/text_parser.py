"""Reads an answer while it is made: what is thought, what is said, and which tools are called. Knows no tokens.

The result does not depend on how the text was split. Text is passed on as soon as it cannot be the beginning of a call.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator

from ..types.events import Delta, OutputDelta, ReasoningDelta, ToolCallArguments, ToolCallStart
from ..types.messages import Tool
from .reasoning import ReasoningTags
from .tool_formats.notation import Transcoder
from .tool_formats.tool_format import ToolFormat

_NAME = re.compile(r"\s*([a-zA-Z0-9_-]+)")
_WAIT, _NO = -1, -2


class TextParser:
    """`feed` text, get what it says; `finish` releases what was held back.

    `tools` are those that may be called; where there are none, nothing is a call. With `tags` a thought at the
    answer's beginning is told apart; `thinking` says that the prompt has begun one already. An answer that `goes_on`
    from a text has its beginning there.
    """

    def __init__(
        self,
        dialect: ToolFormat,
        tools: Iterable[Tool] = (),
        tags: ReasoningTags | None = None,
        thinking: bool = False,
        goes_on: bool = False,
    ) -> None:
        self._dialect = dialect
        self._tools = {tool.name: tool for tool in tools}
        self._tags = tags
        self._held = ""
        self._final = False
        self._calls = 0
        self._open = False
        self._transcoder: Transcoder | None = None
        self._step: Callable[[list[OutputDelta]], bool] = self._begin
        if goes_on:
            self._step = self._text
        elif thinking:
            self._step = self._think_begun

    @property
    def thinking(self) -> bool:
        """Whether what comes next may belong to a thought."""
        return self._step in (self._think, self._think_begun)

    @property
    def holding(self) -> bool:
        """Whether some text waits to be understood."""
        return bool(self._held)

    @property
    def called(self) -> bool:
        """Whether the answer calls tools, and is not cut off within a call."""
        return self._calls > 0 and not self._open

    def feed(self, text: str) -> list[OutputDelta]:
        self._held += text
        said: list[OutputDelta] = []
        while self._step(said):
            pass
        return said

    def finish(self) -> list[OutputDelta]:
        """What was held back. Of a call that is cut off before its arguments nothing is left."""
        self._final = True
        return self.feed("")

    # Each step takes from the held text what it can, and returns whether another may take more.

    def _begin(self, said: list[OutputDelta]) -> bool:
        """White space, then perhaps a thought."""
        if self._tags is None:
            return self._go(self._answer)
        text = self._held.lstrip()
        if text.startswith(self._tags.opening):
            return self._go(self._think_begun, text[len(self._tags.opening) :])
        if self._tags.opening.startswith(text) and not self._final:
            return False
        return self._go(self._answer)

    def _think_begun(self, said: list[OutputDelta]) -> bool:
        self._held = self._held.lstrip()
        return bool(self._held or self._final) and self._go(self._think)

    def _think(self, said: list[OutputDelta]) -> bool:
        assert self._tags is not None
        thought, found, rest = self._held.partition(self._tags.closing)
        if not found and not self._final:
            thought = _certain(self._held, self._tags.closing)
            rest = self._held[len(thought) :]
        text = thought.rstrip() if found else thought
        if text:
            said.append(ReasoningDelta(text))
        self._held = rest
        return bool(found) and self._go(self._thought)

    def _thought(self, said: list[OutputDelta]) -> bool:
        """White space behind a thought."""
        self._held = self._held.lstrip()
        return bool(self._held or self._final) and self._go(self._answer)

    def _answer(self, said: list[OutputDelta]) -> bool:
        """The beginning of what is said: the only place of calls without an opening."""
        if not (self._tools and self._dialect.bare):
            return self._go(self._text)
        blank = len(self._held) - len(self._held.lstrip())
        taken = self._called(said, self._dialect.head, blank)
        if taken == _WAIT and not self._final:
            return False
        return True if taken >= 0 else self._go(self._text)

    def _text(self, said: list[OutputDelta]) -> bool:
        """Text, up to the opening of a call."""
        marker = self._dialect.marker if self._tools else ""
        if not marker:
            return self._say(said, len(self._held))
        at = self._held.find(marker)
        if at < 0:
            self._say(said, len(self._held) if self._final else len(_certain(self._held, marker)))
            return False
        taken = self._called(said, self._dialect.opening + self._dialect.head, at)
        if taken == _WAIT:
            if self._final:
                self._say(said, len(self._held[:at].rstrip()))
                self._held, self._open = "", True
            return False
        if taken == _NO:
            self._say(said, at + len(marker))
        return True

    def _say(self, said: list[OutputDelta], length: int) -> bool:
        """Says so much of the held text; white space alone is nothing where calls may stand around it."""
        text, self._held = self._held[:length], self._held[length:]
        if text.strip() or (text and not self._tools):
            said.append(Delta(text))
        return False

    def _called(self, said: list[OutputDelta], before: str, at: int) -> int:
        """Looks for a call at this place, with these texts before its name; returns where its arguments begin."""
        begun = _match(before, self._held, at)
        if begun < 0:
            return begun
        name = _NAME.match(self._held, begun)
        if name is None:
            return _NO if self._held[begun:].strip() else _WAIT
        if name.end() == len(self._held):
            return _WAIT
        if name[1] not in self._tools:
            return _NO
        bracket = self._dialect.notation.bracket
        end = _match(self._dialect.middle + bracket, self._held, name.end())
        if end < 0:
            return end
        if text := self._held[:at].rstrip():
            said.append(Delta(text))
        self._call(said, name[1], self._held[end - len(bracket) :])
        return end

    def _call(self, said: list[OutputDelta], name: str, arguments: str) -> None:
        """A call whose arguments begin so."""
        said.append(ToolCallStart(self._calls, _new_id(self._dialect.id_length), name))
        self._calls += 1
        self._open = True
        self._transcoder = self._dialect.notation.transcoder(self._tools[name])
        self._go(self._arguments, arguments)

    def _arguments(self, said: list[OutputDelta]) -> bool:
        assert self._transcoder is not None
        text, taken = self._transcoder.feed(self._held)
        self._held = self._held[taken:]
        if text:
            said.append(ToolCallArguments(self._calls - 1, text))
        return self._transcoder.done and self._go(self._called_already)

    def _called_already(self, said: list[OutputDelta]) -> bool:
        """Behind arguments: another call in the same block, or the end of it."""
        self._open = False
        dialect = self._dialect
        waiting = False
        if dialect.between is not None:
            taken = self._called(said, dialect.tail + dialect.between + dialect.head, 0)
            if taken >= 0:
                return True
            waiting = taken == _WAIT
        end = _match(dialect.tail + dialect.closing, self._held, 0)
        waiting = waiting or end == _WAIT
        if waiting and not self._final:
            return False
        if waiting:
            self._held = ""
        return self._go(self._text, self._held[max(end, 0) :])

    def _go(self, step: Callable[[list[OutputDelta]], bool], held: str | None = None) -> bool:
        self._step = step
        self._held = self._held if held is None else held
        return True


def _match(pattern: str, text: str, at: int) -> int:
    """Where a dialect's text ends in `text` from `at` on; `_WAIT` where more must come, `_NO` where it does not stand.

    A pattern's white space at its end takes none: what follows skips it.
    """
    loose = False
    for char in pattern:
        if char.isspace() or char == "·":
            loose = True
            continue
        while loose and at < len(text) and text[at].isspace():
            at += 1
        loose = False
        if at >= len(text):
            return _WAIT
        if text[at] != char:
            return _NO
        at += 1
    return at


def _certain(text: str, marker: str) -> str:
    """What of a text's beginning cannot belong to a marker, or be white space before one."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if marker.startswith(text[-length:]):
            text = text[:-length]
            break
    return text.rstrip()


def _new_id(length: int | None) -> str:
    return uuid.uuid4().hex[:length] if length else f"call_{uuid.uuid4().hex[:24]}"


def text_parser(
    dialect: ToolFormat,
    tools: Iterable[Tool] = (),
    tags: ReasoningTags | None = None,
    thinking: bool = False,
    goes_on: bool = False,
) -> TextParser:
    """The reader of answers in a dialect."""
    make = dialect.reader or TextParser
    return make(dialect, tools, tags, thinking, goes_on)


def reading(reader: TextParser, text: str) -> Iterator[OutputDelta]:
    """All that a whole text says."""
    yield from reader.feed(text)
    yield from reader.finish()
