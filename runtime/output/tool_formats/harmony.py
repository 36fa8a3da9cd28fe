"""GPT-OSS: every message begins with a header that names its channel, and whom it is to (OpenAI's Harmony format).

Thoughts are messages in the channel `analysis`, answers in `final`, calls in `commentary`, to the function's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...types.events import Delta, OutputDelta, ReasoningDelta
from ...types.messages import Tool
from ..reasoning import ReasoningTags
from ..text_parser import TextParser
from .tool_format import RULES, Spell, ToolFormat, literal, naming

_START, _CHANNEL, _CONSTRAIN, _MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_MARK = re.compile("|".join(map(re.escape, (*_ENDS, _START, _CHANNEL))))
_HEADER = re.compile(
    r"\s*(?:<\|start\|>\s*assistant)?(?:\s*to=(?P<first>[\w.-]+))?"
    r"\s*(?:<\|channel\|>\s*(?P<channel>analysis|commentary|final))?(?:\s*to=(?P<then>[\w.-]+))?"
    r"\s*(?:<\|constrain\|>)?\s*(?:json|code)?\s*<\|message\|>"
)
_BEGINS = (_START, _CHANNEL, _MESSAGE, "to=", *_ENDS)
_LONGEST_HEADER = 200


@dataclass(frozen=True)
class Harmony(ToolFormat):
    """A call is named before the channel or behind it; what is said or thought before it is a message of its own."""

    @property
    def marker(self) -> str:
        return _CONSTRAIN

    @property
    def markers(self) -> tuple[str, ...]:
        return (_START, _CHANNEL, _CONSTRAIN, _MESSAGE, *_ENDS)

    def beginning(self, spell: Spell) -> str:
        return "\n".join([*RULES, *_thoughts(spell), f"start: thought* {spell(self.preface)}"])

    def lark(
        self, tools: Sequence[Tool], spell: Spell, *, required: bool, parallel: bool, instead: str | None = None
    ) -> str:
        rules = [*RULES, *_thoughts(spell)]
        for i, tool in enumerate(tools):
            with naming(tool):
                arguments = self.notation.grammar(tool, f"args_{i}", rules, spell)
            to, channel = f"to=functions.{tool.name}", spell(_CHANNEL)
            first, then = literal(f" {to}"), literal(f"commentary {to}")
            rules.append(f'call_{i}: ({channel} {then} | {first} {channel} "commentary") json {arguments}')
        rules.append(f'json: ws ({spell(_CONSTRAIN)} "json" | "json")? {spell(_MESSAGE)}')
        rules.append(f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}")
        again = f'({spell("<|call|>")} {spell(_START)} "assistant" call)*' if parallel else ""
        free = not required and instead is None
        before = f'(thought | {spell(_CHANNEL)} "commentary" {spell(_MESSAGE)} body)*' if free else "thought*"
        said = [] if required else [f"{spell(self.preface)} ({instead or 'TEXT'})"]
        rules.append(f"start: {before} ({' | '.join([f'call {again}', *said])})")
        return "\n".join(rules)


def _thoughts(spell: Spell) -> tuple[str, ...]:
    end, then = spell(_ENDS[0]), f'{spell(_START)} "assistant"'
    lazy = "" if end.startswith("<[") else "[lazy]"
    return (
        f"ended{lazy}: TEXT {end}",
        f"body: ended {then}",
        f'thought: {spell(_CHANNEL)} "analysis" {spell(_MESSAGE)} body',
    )


class HarmonyParser(TextParser):
    """Reads message by message. Text without a header is said as it stands, so is what goes to nobody known."""

    def __init__(
        self,
        dialect: ToolFormat,
        tools: Iterable[Tool] = (),
        tags: ReasoningTags | None = None,
        thinking: bool = False,
        goes_on: bool = False,
    ) -> None:
        super().__init__(dialect, tools)
        self._spoken = self._thought_of = False
        self._step = self._text if goes_on else self._header

    def _header(self, said: list[OutputDelta]) -> bool:
        found = _HEADER.match(self._held[:_LONGEST_HEADER])
        if found is None:
            return self._no_header(said)
        rest = self._held[found.end() :]
        to = found["first"] or found["then"]
        if to is not None:
            return self._message_to(said, to.removeprefix("functions."), found.end())
        if found["channel"] == "analysis":
            return self._go(self._think, "\n\n" + rest.lstrip() if self._thought_of else rest)
        return self._go(self._text, "\n\n" + rest.lstrip() if self._spoken else rest)

    def _no_header(self, said: list[OutputDelta]) -> bool:
        text = self._held.lstrip()
        for end in _ENDS:
            if text.startswith(end):
                return self._go(self._header, text[len(end) :])
        begun = any(text.startswith(mark) or mark.startswith(text) for mark in _BEGINS)
        if begun and not self._final and len(self._held) < _LONGEST_HEADER:
            return False
        mark = _MARK.match(text)
        if mark and self._final:
            self._held, self._open = "", True
            return False
        if mark:
            self._tell(said, self._held[: len(self._held) - len(text) + mark.end()])
        return bool(self._held) and self._go(self._text, text[mark.end() :] if mark else None)

    def _message_to(self, said: list[OutputDelta], name: str, end: int) -> bool:
        body = self._held[end:].lstrip()
        if name in self._tools and (not body or body[0] == self._dialect.notation.bracket):
            if body:
                self._call(said, name, body)
            elif self._final:
                self._held, self._open = "", True
            return bool(body)
        self._tell(said, self._held[:end])
        return self._go(self._text, self._held[end:])

    def _called_already(self, said: list[OutputDelta]) -> bool:
        self._open = False
        return self._go(self._header)

    def _text(self, said: list[OutputDelta]) -> bool:
        text, ended = self._body()
        self._tell(said, text)
        return ended and self._go(self._header)

    def _think(self, said: list[OutputDelta]) -> bool:
        text, ended = self._body()
        if text:
            said.append(ReasoningDelta(text))
            self._thought_of = True
        return ended and self._go(self._header)

    def _body(self) -> tuple[str, bool]:
        """Takes what certainly belongs to the message, and says whether that was all of it."""
        found = _MARK.search(self._held)
        if found is not None:
            text = self._held[: found.start()].rstrip()
            self._held = self._held[found.end() if found[0] in _ENDS else found.start() :]
            return text, True
        text = self._held
        begun = text.rfind("<")
        if begun >= 0 and any(mark.startswith(text[begun:]) for mark in (*_ENDS, _START, _CHANNEL)):
            text = text[:begun]
        text = self._held if self._final else text.rstrip()
        self._held = self._held[len(text) :]
        return text, False

    def _tell(self, said: list[OutputDelta], text: str) -> None:
        if text.strip() or (text and not self._tools):
            said.append(Delta(text))
            self._spoken = True


HARMONY = Harmony(
    name="harmony",
    detects=("<|channel|>analysis",),
    opening="<|channel|>commentary to=functions.",
    head="",
    middle=" <|constrain|>json<|message|>",
    tail="",
    closing="",
    between="<|call|><|start|>assistant<|channel|>commentary to=functions.",
    preface="<|channel|>final<|message|>",
    reader=HarmonyParser,
)
