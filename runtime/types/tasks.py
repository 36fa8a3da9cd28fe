"""Questions to a model that it answers at once, not piece by piece, and their answers; frozen, as in `values.py`."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from ...models.errors import InvalidRequest
from .request import Request, check_number

R = TypeVar("R")
TokenIds: TypeAlias = tuple[int, ...]

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

    texts: tuple[str | TokenIds, ...]
    dimensions: int | None = None

    def __post_init__(self) -> None:
        check_count("input", len(self.texts))
        check_number("dimensions", self.dimensions, 1, 2**31 - 1, whole=True)


@dataclass(frozen=True, slots=True)
class Scores:
    """One for each document, as the model says it: the higher, the better. `tokens` were read."""

    scores: tuple[float, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Rerank(Task[Scores]):
    """How well each document answers a query."""

    query: str
    documents: tuple[str, ...]

    def __post_init__(self) -> None:
        check_count("documents", len(self.documents))


@dataclass(frozen=True, slots=True)
class TokenPieces:
    """Token ids, and the bytes that each stands for."""

    ids: TokenIds
    pieces: tuple[bytes, ...]

    @property
    def text(self) -> str:
        return b"".join(self.pieces).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Tokenize(Task[TokenPieces]):
    """The tokens of a text, or of the whole prompt of a request; in a text with the tokens that stand around every one
    (`add_special`), and with those that it spells (`parse_special`)."""

    text: str | Request
    add_special: bool = False
    parse_special: bool = True


@dataclass(frozen=True, slots=True)
class Detokenize(Task[TokenPieces]):
    """What token ids stand for, control tokens by their names."""

    tokens: TokenIds


@dataclass(frozen=True, slots=True)
class PartTokens:
    """What a part of a message takes, were it alone; `message` and `part` count from 0."""

    message: int
    part: int
    kind: Literal["text", "image", "audio"]
    tokens: int


@dataclass(frozen=True, slots=True)
class RequestEstimate:
    """What a request would take here now, with nothing beside it.

    Of its `tokens`, `frame` belong to no part: the template's, those of tools and names. `cached` need not be computed.
    It does not fit where `over` is more than 0: so many tokens are too many, with one for an answer. Of an answer of
    `max_tokens`, the first would come after `first_token` seconds and the last after `total`; `None` where they cannot
    be told. `memory` is what the model's process would take at most, in bytes.
    """

    parts: tuple[PartTokens, ...]
    frame: int
    tokens: int
    cached: int
    context: int
    over: int
    max_tokens: int
    first_token: float | None
    total: float | None
    memory: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate(Task[RequestEstimate]):
    """What a request would take, without answering it. Its media are decoded and counted, and not encoded."""

    request: Request


def check_count(name: str, count: int) -> None:
    """Raises `InvalidRequest` where there are no texts, or more than one question may have."""
    if not 1 <= count <= MAX_INPUTS:
        raise InvalidRequest(f"{name} holds {count} texts; 1 to {MAX_INPUTS} are possible", name)
