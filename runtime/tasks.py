"""Questions to a model that it answers at once, not piece by piece, and their answers; frozen, as in `values.py`."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from ..models.errors import InvalidRequest
from .values import Request

R = TypeVar("R")
Tokenized: TypeAlias = tuple[int, ...]

MAX_INPUTS = 2048
"""Texts in one question, as in OpenAI's API."""


class Task(Generic[R]):
    """What is answered by an `R`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Vectors:
    """One vector after the other, `width` numbers each, as float32 in this machine's order; `tokens` were read."""

    data: bytes
    width: int
    tokens: int

    def rows(self) -> list[list[float]]:
        """The vectors as numbers."""
        numbers = array("f", self.data).tolist()
        return [numbers[i : i + self.width] for i in range(0, len(numbers), self.width)]


@dataclass(frozen=True, slots=True)
class Embed(Task[Vectors]):
    """The meaning of each text, or of each text's tokens, as a vector of length 1; its first `dimensions` numbers,
    again of length 1, where they are given."""

    texts: tuple[str | Tokenized, ...]
    dimensions: int | None = None

    def __post_init__(self) -> None:
        check_count("input", len(self.texts))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids, and the bytes that each stands for."""

    ids: Tokenized
    pieces: tuple[bytes, ...]

    @property
    def text(self) -> str:
        return b"".join(self.pieces).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Tokenize(Task[Tokens]):
    """The tokens of a text, or of the whole prompt of a request; in a text with the tokens that stand around every one
    (`add_special`), and with those that it spells (`parse_special`)."""

    text: str | Request
    add_special: bool = False
    parse_special: bool = True


@dataclass(frozen=True, slots=True)
class Count(Task[int]):
    """How many tokens a request's whole prompt has, its pictures and sounds included; they are not encoded for that."""

    request: Request


@dataclass(frozen=True, slots=True)
class Detokenize(Task[Tokens]):
    """What token ids stand for, control tokens by their names."""

    tokens: Tokenized


def check_count(name: str, count: int) -> None:
    """Raises `InvalidRequest` where there are no texts, or more than one question may have."""
    if not 1 <= count <= MAX_INPUTS:
        raise InvalidRequest(f"{name} holds {count} texts; 1 to {MAX_INPUTS} are possible", name)
