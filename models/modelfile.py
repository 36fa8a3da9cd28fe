"""Reads and writes Ollama's Modelfiles: instructions of a keyword and a value, which quotes may spread over lines.

The grammar is that of `parser/parser.go` in github.com/ollama/ollama.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from .errors import ConfigError

KEYWORDS = (
    "FROM", "SYSTEM", "PARAMETER", "TEMPLATE", "ADAPTER", "MESSAGE", "LICENSE", "RENDERER", "PARSER", "REQUIRES",
)  # fmt: skip
ROLES = ("system", "user", "assistant")

_WITH_ARGUMENT = {"PARAMETER": "the name of a parameter", "MESSAGE": f"a role ({', '.join(ROLES)})"}
_QUOTES = ('"""', '"')


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction. `argument` is a parameter's name or a message's role, and empty for other keywords.

    `line` is that of its keyword, from 1.
    """

    keyword: str
    value: str
    argument: str = ""
    line: int = field(default=0, compare=False)


def parse_modelfile(text: str) -> list[Instruction]:
    """Returns the instructions of a Modelfile. Raises `ConfigError` with the line."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    instructions: list[Instruction] = []
    number = 0
    while number < len(lines):
        start, line = number, lines[number].strip()
        number += 1
        if not line or line.startswith("#"):
            continue
        keyword, rest = _first_word(line)
        keyword = keyword.upper()
        if keyword not in KEYWORDS:
            raise ConfigError(f"line {start + 1}: {keyword!r:.40} is not one of {', '.join(KEYWORDS)}", "from")
        argument = ""
        if keyword in _WITH_ARGUMENT:
            argument, rest = _first_word(rest)
        while (value := _unquoted(rest)) is None:
            if number == len(lines):
                raise ConfigError(f"line {start + 1}: the quotes of {keyword} are not closed", "from")
            rest += "\n" + lines[number]
            number += 1
        _check(keyword, argument, value, start + 1)
        instructions.append(Instruction(keyword, value, argument, start + 1))
    if not any(one.keyword == "FROM" for one in instructions):
        raise ConfigError("the Modelfile has no FROM, which names the base model", "from")
    return instructions


def modelfile_text(instructions: Iterable[Instruction]) -> str:
    """Writes instructions in a form that `parse_modelfile` reads."""
    lines = []
    for one in instructions:
        is_plain = one.value and one.value == one.value.strip() and "\n" not in one.value and one.value[0] != '"'
        value = one.value if is_plain else f'"""{one.value}"""'
        lines.append(" ".join(filter(None, (one.keyword, one.argument, value))))
    return "\n".join(lines) + "\n"


def _first_word(text: str) -> tuple[str, str]:
    word, *rest = re.split(r"[ \t]+", text, maxsplit=1)
    return word, rest[0] if rest else ""


def _unquoted(text: str) -> str | None:
    """The value without its quotes; `None` if they are not closed yet."""
    text = text.strip()
    for quotes in _QUOTES:
        if text.startswith(quotes):
            is_closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if is_closed else None
    return text


def _check(keyword: str, argument: str, value: str, line: int) -> None:
    if keyword in _WITH_ARGUMENT and not argument:
        raise ConfigError(f"line {line}: {keyword} needs {_WITH_ARGUMENT[keyword]} and a value", "from")
    if keyword == "MESSAGE" and argument not in ROLES:
        raise ConfigError(f"line {line}: {argument!r:.40} is not a role; use {', '.join(ROLES)}", "from")
    if keyword == "FROM" and not value:
        raise ConfigError(f"line {line}: FROM needs the name of a model, or a path", "from")
