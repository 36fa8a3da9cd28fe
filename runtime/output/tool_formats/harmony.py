"""GPT-OSS (OpenAI's Harmony format): the header of each message names its channel and its recipient.

Reasoning is in the channel `analysis`, answers in `final`, tool calls in `commentary` with the function as recipient.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...types.events import Delta, OutputDelta, ReasoningDelta
from ...types.messages import TOOL_NAME_CHARS, Tool
from ..reasoning import ReasoningTags
from ..text_parser import TextParser
from .notation import EnforcedTool
from .tool_format import COMMON_RULES, Speller, ToolFormat, literal

_START, _CHANNEL, _CONSTRAIN, _MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_BODY_END = re.compile("|".join(map(re.escape, (*_ENDS, _START, _CHANNEL))))
_CHANNELS = ("analysis", "commentary", "final")
_NAME = re.compile(f"{TOOL_NAME_CHARS}+")
_MAX_HEADER_CHARS = 200


@dataclass(frozen=True)
class HarmonyFormat(ToolFormat):
    """A call names its recipient before or after the channel. Text and reasoning before a call are messages too."""

    @property
    def start_marker(self) -> str:
        return _CONSTRAIN

    @property
    def control_texts(self) -> tuple[str, ...]:
        return (_START, _CHANNEL, _CONSTRAIN, _MESSAGE, *_ENDS)

    def header_grammar(self, spell: Speller) -> str:
        return "\n".join([*COMMON_RULES, *_reasoning_rules(spell), f"start: thought* {spell(self.answer_header)}"])

    def grammar(
        self,
        tools: Sequence[EnforcedTool],
        spell: Speller,
        *,
        required: bool,
        parallel: bool,
        alternative: str | None = None,
    ) -> str:
        rules = [*COMMON_RULES, *_reasoning_rules(spell)]
        for i, tool in enumerate(tools):
            arguments = self.notation.grammar(tool, f"args_{i}", rules, spell)
            to, channel = f"to=functions.{tool.name}", spell(_CHANNEL)
            before, after = literal(f" {to}"), literal(f"commentary {to}")
            rules.append(f'call_{i}: ({channel} {after} | {before} {channel} "commentary") json {arguments}')
        rules.append(f'json: (ws {spell(_CONSTRAIN)} "json" | WS "json" | ws) {spell(_MESSAGE)}')
        rules.append(f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}")
        more_calls = f'({spell("<|call|>")} {spell(_START)} "assistant" call)*' if parallel else ""
        any_text = not required and alternative is None
        before = f'(thought | {spell(_CHANNEL)} "commentary" {spell(_MESSAGE)} body)*' if any_text else "thought*"
        answer = [] if required else [f"{spell(self.answer_header)} ({alternative or 'TEXT'})"]
        rules.append(f"start: {before} ({' | '.join([f'call {more_calls}', *answer])})")
        return "\n".join(rules)


def _reasoning_rules(spell: Speller) -> tuple[str, ...]:
    end, then = spell(_ENDS[0]), f'{spell(_START)} "assistant"'
    lazy = "" if end.startswith("<[") else "[lazy]"
    return (
        f"ended{lazy}: TEXT {end}",
        f"body: ended {then}",
        f'thought: {spell(_CHANNEL)} "analysis" {spell(_MESSAGE)} body',
    )


class _Incomplete(Exception):
    """The text that follows decides what this text is."""


class _Header(NamedTuple):
    end: int
    channel: str | None
    recipient: str | None


class _HeaderReader:
    """Reads a header from the start of a text, with any whitespace between its words.

    Each method raises `_Incomplete` if the text ends before it is certain what it begins with. So the result for a text
    holds for everything that starts with it.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def header(self) -> _Header | None:
        """Returns the header, or `None` if the text starts with none."""
        if self._takes(_START) and not self._takes("assistant"):
            return None
        first_recipient = self._recipient()
        channel = None
        if self._takes(_CHANNEL):
            channel = next((name for name in _CHANNELS if self._takes(name)), None)
            if channel is None:
                return None
        recipient = self._recipient()
        self._takes(_CONSTRAIN)
        if not self._takes("json"):
            self._takes("code")
        if not self._takes(_MESSAGE):
            return None
        return _Header(self._at, channel, first_recipient or recipient)

    def _takes(self, word: str) -> bool:
        rest = self._text[self._at :].lstrip()
        if rest.startswith(word):
            self._at = len(self._text) - len(rest) + len(word)
            return True
        if word.startswith(rest):
            raise _Incomplete
        return False

    def _recipient(self) -> str | None:
        if not self._takes("to="):
            return None
        name = _NAME.match(self._text, self._at)
        end = self._at if name is None else name.end()
        if end == len(self._text):
            raise _Incomplete
        self._at = end
        return name and name[0]


class HarmonyParser(TextParser):
    """Parses message by message. Text without a header, and messages to unknown recipients, are released verbatim."""

    def __init__(
        self,
        tool_format: ToolFormat,
        tools: Iterable[Tool] = (),
        tags: ReasoningTags | None = None,
        in_reasoning: bool = False,
        continues_message: bool = False,
    ) -> None:
        super().__init__(tool_format, tools)
        self._has_text = self._has_reasoning = False
        self._body = self._text
        self._step = self._text if continues_message else self._header

    def _header(self, parsed: list[OutputDelta]) -> bool:
        text = self._held.lstrip()
        for end in _ENDS:
            if text.startswith(end):
                return self._go(self._header, text[len(end) :])
        try:
            if any(end.startswith(text) for end in _ENDS):
                raise _Incomplete
            header = _HeaderReader(text).header()
        except _Incomplete:
            if len(text) < _MAX_HEADER_CHARS:
                return self._final and self._cut_header(text)
            header = None
        if header is None or header.end > _MAX_HEADER_CHARS:
            return self._no_header(parsed, text)
        body = text[header.end :]
        if header.recipient is not None:
            return self._message_to(parsed, header.recipient.removeprefix("functions."), len(self._held) - len(body))
        reasons = header.channel == "analysis"
        self._body = self._reasoning if reasons else self._text
        is_first = not (self._has_reasoning if reasons else self._has_text)
        return self._go(self._body if is_first else self._body_start, body)

    def _cut_header(self, text: str) -> bool:
        """At the end of the answer: drops a header that is cut off. It may have been a call's."""
        if _BODY_END.match(text) is None:
            return bool(text) and self._go(self._text)
        self._held, self._in_call = "", True
        return False

    def _no_header(self, parsed: list[OutputDelta], text: str) -> bool:
        """Releases a marker that starts no header as text, and what follows it."""
        marker = _BODY_END.match(text)
        if marker is None:
            return self._go(self._text)
        self._release_text(parsed, self._held[: len(self._held) - len(text) + marker.end()])
        return self._go(self._text, text[marker.end() :])

    def _body_start(self, parsed: list[OutputDelta]) -> bool:
        """Whitespace before the body of a further message, which an empty line separates from the one before."""
        self._held = self._held.lstrip()
        return bool(self._held) and self._go(self._body, "\n\n" + self._held)

    def _message_to(self, parsed: list[OutputDelta], name: str, header_end: int) -> bool:
        body = self._held[header_end:].lstrip()
        if name in self._tools and (not body or body[0] == self._format.notation.bracket):
            if body:
                self._start_call(parsed, name, body)
            elif self._final:
                self._held, self._in_call = "", True
            return bool(body)
        self._release_text(parsed, self._held[:header_end])
        return self._go(self._text, self._held[header_end:])

    def _call_end(self, parsed: list[OutputDelta]) -> bool:
        self._in_call = False
        return self._go(self._header)

    def _text(self, parsed: list[OutputDelta]) -> bool:
        text, ended = self._take_body()
        self._release_text(parsed, text)
        return ended and self._go(self._header)

    def _reasoning(self, parsed: list[OutputDelta]) -> bool:
        text, ended = self._take_body()
        if text:
            parsed.append(ReasoningDelta(text))
            self._has_reasoning = True
        return ended and self._go(self._header)

    def _take_body(self) -> tuple[str, bool]:
        """Takes the held text that certainly belongs to the message, and says whether the message has ended."""
        end = _BODY_END.search(self._held)
        if end is not None:
            text = self._held[: end.start()].rstrip()
            self._held = self._held[end.end() if end[0] in _ENDS else end.start() :]
            return text, True
        text = self._held
        possible_end = text.rfind("<")
        if possible_end >= 0 and any(m.startswith(text[possible_end:]) for m in (*_ENDS, _START, _CHANNEL)):
            text = text[:possible_end]
        text = self._held if self._final else text.rstrip()
        self._held = self._held[len(text) :]
        return text, False

    def _release_text(self, parsed: list[OutputDelta], text: str) -> None:
        if text.strip() or (text and not self._tools):
            parsed.append(Delta(text))
            self._has_text = True


HARMONY = HarmonyFormat(
    name="harmony",
    template_markers=("<|channel|>analysis",),
    block_start="<|channel|>commentary to=functions.",
    call_start="",
    arguments_start=" <|constrain|>json<|message|>",
    call_end="",
    block_end="",
    call_separator="<|call|><|start|>assistant<|channel|>commentary to=functions.",
    answer_header="<|channel|>final<|message|>",
    parser=HarmonyParser,
)
