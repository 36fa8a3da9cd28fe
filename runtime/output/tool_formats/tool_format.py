"""A tool-call format: the texts around a call. Rendering, the grammar and the parser are derived from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from ...types.messages import Tool, ToolCall
from .notation import JSON_NOTATION, EnforcedTool, Notation

if TYPE_CHECKING:
    from ..text_parser import TextParser

Speller: TypeAlias = Callable[[str], str]
"""Turns a text into a grammar expression, with the vocabulary's control tokens as token ids."""

_WHITESPACE = re.compile(r"[\s·]+")
COMMON_RULES = ("%llguidance {}", r"TEXT: /(.|\n)*/", "ws: WS?", r"WS: /[ \t\r\n]{1,3}/")
"""The first lines of every tool-call grammar."""
_QUOTE = '"'


@dataclass(frozen=True)
class ToolFormat:
    """How one model family writes tool calls.

    A call is `block_start`, `call_start`, the tool's name, `arguments_start`, the arguments, `call_end`, `block_end`.
    Whitespace in these texts matches any amount of whitespace or none; `·` matches optional whitespace that is not
    usually written.

    `template_markers`: a chat template uses this format if it contains one of these texts.
    `call_separator`: separates several calls in one block; `None` if each call has a block of its own.
    `block_start_optional`: a call may lack its block start, but then it must be the whole answer.
    `id_length`: the length of call ids that the chat template requires.
    `tools_in_system`: the chat template looks for the tools in the system message.
    `answer_header`: the text that precedes every final answer.
    `parser`: the parser of answers, if `TextParser` cannot parse them.
    """

    name: str
    template_markers: tuple[str, ...]
    block_start: str
    call_start: str
    arguments_start: str
    call_end: str
    block_end: str
    call_separator: str | None = None
    block_start_optional: bool = False
    notation: Notation = field(default_factory=lambda: JSON_NOTATION)
    id_length: int | None = None
    tools_in_system: bool = False
    answer_header: str = ""
    parser: Callable[..., TextParser] | None = None

    @property
    def start_marker(self) -> str:
        """The first word of `block_start`. Once it is written, a call follows."""
        return _WHITESPACE.split(self.block_start)[0]

    @property
    def control_texts(self) -> tuple[str, ...]:
        """The texts that may contain control tokens of a model's vocabulary."""
        return (
            self.block_start,
            self.call_start,
            self.arguments_start,
            self.call_end,
            self.block_end,
            *self.notation.tags,
        )

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Writes calls as the model itself would have written them."""
        block_start, call_start, arguments_start, call_end, block_end = (
            text.replace("·", "")
            for text in (self.block_start, self.call_start, self.arguments_start, self.call_end, self.block_end)
        )
        rendered = [
            call_start + call.name + arguments_start + self.notation.render(call.parsed()) + call_end for call in calls
        ]
        if self.call_separator is None:
            return "\n".join(block_start + call + block_end for call in rendered)
        return ("" if self.block_start_optional else block_start) + self.call_separator.join(rendered) + block_end

    def instructions(self, tools: Sequence[Tool]) -> str:
        """The system message that explains the tools to a model whose chat template has no place for them."""
        listed = "\n".join(json.dumps(template_tool(tool), ensure_ascii=False) for tool in tools)
        example = self.render([ToolCall("", "NAME", '{"KEY": "VALUE"}')])
        return (
            f"You may call these functions, given as JSON:\n<tools>\n{listed}\n</tools>\n"
            f"To call one, answer with its name and arguments, and nothing behind it:\n{example}"
        )

    def header_grammar(self, spell: Speller) -> str:
        """The grammar of everything up to and including the `answer_header`."""
        return "\n".join([*COMMON_RULES, f"start: {spell(self.answer_header)}"])

    def grammar(
        self,
        tools: Sequence[EnforcedTool],
        spell: Speller,
        *,
        required: bool,
        parallel: bool,
        alternative: str | None = None,
    ) -> str:
        """A Lark grammar of answers that call these tools, or that hold other text unless a call is `required`.

        The other text is anything, and may also precede the calls; or it must match the expression `alternative`.
        """
        rules = [*COMMON_RULES]
        for i, tool in enumerate(tools):
            arguments = self.notation.grammar(tool, f"args_{i}", rules, spell)
            rules.append(
                f"after_{i}: {spell(self.arguments_start.removeprefix(_QUOTE))} {arguments} {spell(self.call_end)}"
            )
            quote = literal(_QUOTE) if self.arguments_start.startswith(_QUOTE) else ""
            rules.append(f"call_{i}: {literal(tool.name)} {quote} after_{i}")
        any_call = " | ".join(f"call_{i}" for i in range(len(tools)))
        more_calls = f"({spell(self.call_separator)} call)*" if self.call_separator is not None and parallel else ""
        more_blocks = "(ws block)*" if self.call_separator is None and parallel else ""
        block_rest = spell(self.block_start.removeprefix(self.start_marker))
        rules += [
            f"call: {spell(self.call_start)} ({any_call})",
            f"rest: {block_rest} call {more_calls} {spell(self.block_end)}",
            f"block: {spell(self.start_marker)} rest",
        ]
        bare = self.block_start_optional
        if required or alternative is not None:
            starts = [f"ws block {more_blocks}", *([f"ws call {more_calls}"] if bare else [])]
            starts += [] if required or alternative is None else [alternative]
        else:
            starts = [f"said rest {more_blocks}", *(self._bare_calls(tools, more_calls, rules) if bare else []), "TEXT"]
            before, marker = "ws" if bare else "TEXT", spell(self.start_marker)
            rules.append(f"said: {before} {marker}" if marker.startswith("<[") else f"said[lazy]: TEXT {marker}")
        return "\n".join([*rules, f"start: {' | '.join(starts)}"])

    def _bare_calls(self, tools: Sequence[EnforcedTool], more_calls: str, rules: list[str]) -> list[str]:
        """Calls without a block start as alternatives to any text: lazy, so that what starts like a call is one."""
        start = r"\s*".join(re.escape(part) for part in _WHITESPACE.split(self.call_start))
        for i, tool in enumerate(tools):
            rules.append(f"begun_{i}[lazy]: /\\s*{start}{re.escape(tool.name)}{_QUOTE}/")
        return [f"begun_{i} after_{i} {more_calls}" for i in range(len(tools))]


def speller(control_tokens: Mapping[str, int]) -> Speller:
    """Makes the speller for a vocabulary with these control tokens."""
    known = re.compile("|".join(re.escape(t) for t in sorted(control_tokens, key=len, reverse=True)) or r"(?!)")

    def spell(text: str) -> str:
        parts: list[str] = []
        at = 0
        for match in known.finditer(text):
            parts += [_plain(text[at : match.start()]), f"<[{control_tokens[match[0]]}]>"]
            at = match.end()
        parts.append(_plain(text[at:]))
        return " ".join(part for part in parts if part)

    return spell


def _plain(text: str) -> str:
    parts = re.split(f"({_WHITESPACE.pattern})", text)
    return " ".join("ws" if _WHITESPACE.match(part) else literal(part) for part in parts if part)


def literal(text: str) -> str:
    """A grammar expression that matches exactly this text."""
    return json.dumps(text, ensure_ascii=False)


def template_tool(tool: Tool) -> dict[str, Any]:
    """A tool as chat templates expect it. Some read its description, such as GPT-OSS's, or its properties."""
    given = {keyword: value for keyword, value in (tool.parameters or {}).items() if value is not None}
    properties = given.get("properties")
    parameters = {"type": "object", **given, "properties": properties if isinstance(properties, dict) else {}}
    function = {"name": tool.name, "description": tool.description or "", "parameters": parameters}
    return {"type": "function", "function": function}
