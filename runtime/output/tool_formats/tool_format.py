"""What a dialect is: the texts around a call, from which writing, the grammar and the parser in `reader.py` follow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ....models.errors import InvalidRequest
from ...types.messages import Tool, ToolCall
from ..structured.json_schema import enforceable
from .notation import JSON_NOTATION, Notation, parameters

if TYPE_CHECKING:
    from ..text_parser import TextParser

Spell = Callable[[str], str]
"""A text of the template's own as a grammar's expression, its control tokens by number."""

_WHITE = re.compile(r"[\s·]+")
RULES = ("%llguidance {}", r"TEXT: /(.|\n)*/", "ws: WS?", r"WS: /[ \t\r\n]{1,3}/")
"""What grammars of calls begin with."""
_QUOTE = '"'


@dataclass(frozen=True)
class ToolFormat:
    """One family's way of calling tools: `opening`, `head`, name, `middle`, arguments, `tail`, `closing`.

    White space in these texts stands for any or none, and `·` for some that is not usually there. Where there is a
    `between`, an opening may hold several calls; otherwise each has one of its own. `bare` calls may lack their
    opening, but are the whole answer then. A chat template that speaks this dialect holds one of the texts `detects`.
    `id_length` is that of the ids its template takes, and `tools_in_system` says that it looks for tools there.
    Where all that is said stands behind a text, that is the `preface`; `reader` reads answers that `AnswerReader` does
    not.
    """

    name: str
    detects: tuple[str, ...]
    opening: str
    head: str
    middle: str
    tail: str
    closing: str
    between: str | None = None
    bare: bool = False
    notation: Notation = field(default_factory=lambda: JSON_NOTATION)
    id_length: int | None = None
    tools_in_system: bool = False
    preface: str = ""
    reader: Callable[..., TextParser] | None = None

    @property
    def marker(self) -> str:
        """What cannot be text once it was said."""
        return _WHITE.split(self.opening)[0]

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that may be control tokens in a model's vocabulary."""
        return (self.opening, self.head, self.middle, self.tail, self.closing, *self.notation.marks)

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model itself would have written them."""
        opening, head, middle, tail, closing = (
            text.replace("·", "") for text in (self.opening, self.head, self.middle, self.tail, self.closing)
        )
        written = [head + call.name + middle + self.notation.write(call.parsed()) + tail for call in calls]
        if self.between is None:
            return "\n".join(opening + call + closing for call in written)
        return ("" if self.bare else opening) + self.between.join(written) + closing

    def describe(self, tools: Sequence[Tool]) -> str:
        """What a system message says of the tools to a model whose template has no place for them."""
        listed = "\n".join(json.dumps(shown(tool), ensure_ascii=False) for tool in tools)
        example = self.write([ToolCall("", "NAME", '{"KEY": "VALUE"}')])
        return (
            f"You may call these functions, given as JSON:\n<tools>\n{listed}\n</tools>\n"
            f"To call one, answer with its name and arguments, and nothing behind it:\n{example}"
        )

    def beginning(self, spell: Spell) -> str:
        """A grammar of what stands before anything said, where there is a `preface`."""
        return "\n".join([*RULES, f"start: {spell(self.preface)}"])

    def lark(
        self, tools: Sequence[Tool], spell: Spell, *, required: bool, parallel: bool, instead: str | None = None
    ) -> str:
        """A grammar of answers that call these tools, or say something else where a call is not `required`.

        That is any text, which may also stand before the calls; or an expression, given as `instead`.
        """
        rules = [*RULES]
        for i, tool in enumerate(tools):
            with naming(tool):
                arguments = self.notation.grammar(tool, f"args_{i}", rules, spell)
            rules.append(f"after_{i}: {spell(self.middle.removeprefix(_QUOTE))} {arguments} {spell(self.tail)}")
            quote = literal(_QUOTE) if self.middle.startswith(_QUOTE) else ""
            rules.append(f"call_{i}: {literal(tool.name)} {quote} after_{i}")
        any_call = " | ".join(f"call_{i}" for i in range(len(tools)))
        more = f"({spell(self.between)} call)*" if self.between is not None and parallel else ""
        again = "(ws block)*" if self.between is None and parallel else ""
        rules += [
            f"call: {spell(self.head)} ({any_call})",
            f"rest: {spell(self.opening.removeprefix(self.marker))} call {more} {spell(self.closing)}",
            f"block: {spell(self.marker)} rest",
        ]
        if required or instead is not None:
            starts = [f"ws block {again}", *([f"ws call {more}"] if self.bare else [])]
            starts += [] if required or instead is None else [instead]
        else:
            starts = [f"said rest {again}", *(self._bare(tools, more, rules) if self.bare else []), "TEXT"]
            before, marker = "ws" if self.bare else "TEXT", spell(self.marker)
            rules.append(f"said: {before} {marker}" if marker.startswith("<[") else f"said[lazy]: TEXT {marker}")
        return "\n".join([*rules, f"start: {' | '.join(starts)}"])

    def _bare(self, tools: Sequence[Tool], more: str, rules: list[str]) -> list[str]:
        """Calls without an opening beside any text: lazy, so that what begins like a call is one."""
        begin = r"\s*".join(re.escape(part) for part in _WHITE.split(self.head))
        for i, tool in enumerate(tools):
            rules.append(f"begun_{i}[lazy]: /\\s*{begin}{re.escape(tool.name)}{_QUOTE}/")
        return [f"begun_{i} after_{i} {more}" for i in range(len(tools))]


@contextmanager
def naming(tool: Tool) -> Iterator[None]:
    """What is wrong with the tool's schema inside becomes an error that names the tool."""
    try:
        yield
    except InvalidRequest as error:
        message = f"the parameters of the tool {tool.name!r} cannot be enforced: {error.message}"
        raise InvalidRequest(message, "tools") from error
    except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
        message = f"the parameters of the tool {tool.name!r} are no JSON schema: {error}"
        raise InvalidRequest(message, "tools") from error


def unknown_keywords(tool: Tool) -> list[str]:
    """Warnings of keywords in the tool's schema that nobody here knows. Raises `InvalidRequest` as a grammar of it."""
    with naming(tool):
        _, warnings = enforceable(parameters(tool))
    return [f"in the parameters of the tool {tool.name!r}, {warning}" for warning in warnings]


def speller(controls: Mapping[str, int]) -> Spell:
    """Spells texts for a vocabulary with these control tokens."""
    known = re.compile("|".join(re.escape(t) for t in sorted(controls, key=len, reverse=True)) or r"(?!)")

    def spell(text: str) -> str:
        parts: list[str] = []
        at = 0
        for match in known.finditer(text):
            parts += [_plain(text[at : match.start()]), f"<[{controls[match[0]]}]>"]
            at = match.end()
        parts.append(_plain(text[at:]))
        return " ".join(part for part in parts if part)

    return spell


def _plain(text: str) -> str:
    parts = re.split(f"({_WHITE.pattern})", text)
    return " ".join("ws" if _WHITE.match(part) else literal(part) for part in parts if part)


def literal(text: str) -> str:
    """A text to the letter, as a grammar's expression."""
    return json.dumps(text, ensure_ascii=False)


def shown(tool: Tool) -> dict[str, Any]:
    """A tool as chat templates expect it."""
    function = {
        "name": tool.name,
        "description": tool.description or "",  # some templates cannot do without one, as GPT-OSS's
        "parameters": tool.parameters or {"type": "object", "properties": {}},
    }
    return {"type": "function", "function": function}
