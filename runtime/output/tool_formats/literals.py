"""Arguments as literals of a language other than JSON, and a transcoder to JSON. The grammar: `literal_grammar.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...types.messages import Tool
from .notation import EnforcedTool, Transcoder

_MAX_QUOTE_LENGTH = 16


@dataclass(frozen=True)
class LiteralNotation:
    """How a language writes values.

    `words`: the literals for true, false and null. `quotes`: the pairs of string delimiters that are read, of which
    the first is written. `escapes`: strings have backslash escapes. `brackets`: delimit the arguments. Argument names
    are unquoted and followed by `assign`; so are the keys of inner objects unless `quoted_keys` is set. `sorted_keys`:
    arguments are written in alphabetical order.
    """

    words: Mapping[str, str]
    quotes: tuple[tuple[str, str], ...]
    escapes: bool
    brackets: tuple[str, str]
    assign: str
    comma: str
    quoted_keys: bool
    sorted_keys: bool = False

    @property
    def bracket(self) -> str:
        return self.brackets[0]

    @property
    def tags(self) -> tuple[str, ...]:
        return self.quotes[0] if len(self.quotes[0][0]) > 1 else ()

    def render(self, arguments: dict[str, Any]) -> str:
        begin, end = self.brackets
        return begin + self.comma.join(f"{k}{self.assign}{self.literal(v)}" for k, v in self.items(arguments)) + end

    def items(self, value: Mapping[str, Any]) -> list[tuple[str, Any]]:
        return sorted(value.items(), key=lambda item: item[0].lower()) if self.sorted_keys else list(value.items())

    def literal(self, value: Any) -> str:
        if isinstance(value, str):
            return self.string(value)
        if isinstance(value, list):
            return "[" + self.comma.join(map(self.literal, value)) + "]"
        if isinstance(value, dict):
            items = ((self.string(k) + ": " if self.quoted_keys else k + ":", v) for k, v in self.items(value))
            return "{" + self.comma.join(k + self.literal(v) for k, v in items) + "}"
        word = json.dumps(value)
        return self.words.get(word, word)

    def string(self, text: str) -> str:
        begin, end = self.quotes[0]
        return json.dumps(text, ensure_ascii=False) if self.escapes else begin + text + end

    def transcoder(self, tool: Tool) -> Transcoder:
        return _LiteralTranscoder(self)

    def grammar(self, tool: EnforcedTool, name: str, rules: list[str], spell: Callable[[str], str]) -> str:
        from .literal_grammar import ArgumentsGrammar

        return ArgumentsGrammar(self, tool, name, rules, spell).arguments()


class _LiteralTranscoder:
    """Turns literals into JSON text, character by character."""

    def __init__(self, notation: LiteralNotation) -> None:
        self.done = False
        self._notation = notation
        self._words = {word: name for name, word in notation.words.items()}
        self._depth = 0
        self._closing_quote: str | None = None
        self._word = ""

    def feed(self, text: str) -> tuple[str, int]:
        out: list[str] = []
        at = 0
        while at < len(text) and not self.done:
            consumed = (
                self._read_plain(text, at, out) if self._closing_quote is None else self._read_quoted(text, at, out)
            )
            if not consumed:
                break
            at += consumed
        return "".join(out), at

    def _read_plain(self, text: str, at: int, out: list[str]) -> int:
        char, ahead = text[at], text[at : at + _MAX_QUOTE_LENGTH]
        for begin, end in self._notation.quotes:
            if ahead.startswith(begin):
                self._closing_quote = end
                out.append('"')
                return len(begin)
            if begin.startswith(ahead):
                return 0
        if char in "({[":
            self._depth += 1
            out.append("{" if self._depth == 1 else char)
        elif char in ")}]":
            self._flush_word(out)
            self._depth -= 1
            self.done = self._depth == 0
            out.append("}" if self.done else char)
        elif char == ",":
            self._flush_word(out)
            out.append(", ")
        elif char in ":=":
            out.append((json.dumps(self._word.rstrip(), ensure_ascii=False) if self._word else "") + ": ")
            self._word = ""
        elif self._word or not char.isspace():
            self._word += char
        return 1

    def _flush_word(self, out: list[str]) -> None:
        word = self._word.rstrip()
        out.append(self._words.get(word, word))
        self._word = ""

    def _read_quoted(self, text: str, at: int, out: list[str]) -> int:
        assert self._closing_quote is not None
        ahead = text[at : at + _MAX_QUOTE_LENGTH]
        if ahead.startswith(self._closing_quote):
            out.append('"')
            consumed, self._closing_quote = len(self._closing_quote), None
            return consumed
        if self._closing_quote.startswith(ahead):
            return 0
        if ahead[0] == "\\" and self._notation.escapes:
            return _escape(ahead, out)
        out.append(json.dumps(ahead[0], ensure_ascii=False)[1:-1])
        return 1


def _escape(ahead: str, out: list[str]) -> int:
    """Translates a backslash escape of Python or JSON. Returns its length, or 0 if it is not complete yet."""
    if len(ahead) < 2:
        return 0
    if ahead[1] == "x":
        if len(ahead) < 4:
            return 0
        out.append("\\u00" + ahead[2:4])
        return 4
    if ahead[1] in '"\\/bfnrtu':
        out.append(ahead[:2])
    elif ahead[1] == "'":
        out.append("'")
    else:
        out.append("\\\\" + json.dumps(ahead[1], ensure_ascii=False)[1:-1])
    return 2
