"""Tasks that a model answers at once instead of streaming, and their results."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from ...models.errors import InvalidRequest
from .request import Request, RequestLimits, check_number

R = TypeVar("R")
TokenIds: TypeAlias = tuple[int, ...]

_FLOAT_BYTES = 4

MAX_INPUTS = 2048
"""Texts in one task, as in OpenAI's API."""


class Task(Generic[R]):
    """A task whose result is an `R`."""

    __slots__ = ()

    def is_answered_by(self, result: object) -> bool:
        """Whether the result is one of this task: of its kind, and with a part for each part of the task."""
        raise NotImplementedError

    def check(self, limits: RequestLimits) -> None:
        """Raises `RequestTooLarge` if the task is too large."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Consecutive vectors of `width` float32 numbers in native byte order. `tokens` counts the input tokens."""

    data: bytes
    width: int
    tokens: int

    def rows(self) -> list[list[float]]:
        """The vectors as lists of numbers."""
        numbers = array("f", self.data).tolist()
        return [numbers[i : i + self.width] for i in range(0, len(numbers), self.width)]


@dataclass(frozen=True, slots=True)
class Embed(Task[Vectors]):
    """Embeds each text, given as text or token ids, as a vector of length 1.

    With `dimensions` each vector is cut to its first numbers and normalized again.
    """

    texts: tuple[str | TokenIds, ...]
    dimensions: int | None = None

    def __post_init__(self) -> None:
        check_count("input", len(self.texts))
        check_number("dimensions", self.dimensions, 1, 2**31 - 1, whole=True)

    def is_answered_by(self, result: object) -> bool:
        return isinstance(result, Vectors) and len(result.data) == _FLOAT_BYTES * result.width * len(self.texts)

    def check(self, limits: RequestLimits) -> None:
        limits.check_characters(sum(len(text) for text in self.texts), "input")


@dataclass(frozen=True, slots=True)
class Scores:
    """The model's score of each document; higher is better. `tokens` is the number of input tokens."""

    scores: tuple[float, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Rerank(Task[Scores]):
    """Scores how well each document answers a query."""

    query: str
    documents: tuple[str, ...]

    def __post_init__(self) -> None:
        check_count("documents", len(self.documents))

    def is_answered_by(self, result: object) -> bool:
        return isinstance(result, Scores) and len(result.scores) == len(self.documents)

    def check(self, limits: RequestLimits) -> None:
        limits.check_characters(len(self.query) + sum(map(len, self.documents)), "documents")


@dataclass(frozen=True, slots=True)
class TokenPieces:
    """Token ids and the bytes of each token. `warnings` are those of the prompt that was tokenized."""

    ids: TokenIds
    pieces: tuple[bytes, ...]
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return b"".join(self.pieces).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Tokenize(Task[TokenPieces]):
    """Tokenizes a text, or the whole prompt of a request.

    For a text: `add_special` adds BOS and EOS as the model requires; `parse_special` parses control tokens.
    """

    text: str | Request
    add_special: bool = False
    parse_special: bool = True

    def is_answered_by(self, result: object) -> bool:
        return isinstance(result, TokenPieces) and len(result.ids) == len(result.pieces)

    def check(self, limits: RequestLimits) -> None:
        if isinstance(self.text, Request):
            limits.check(self.text)
        else:
            limits.check_characters(len(self.text), "text")


@dataclass(frozen=True, slots=True)
class Detokenize(Task[TokenPieces]):
    """Converts token ids to text, control tokens to their names."""

    tokens: TokenIds

    def is_answered_by(self, result: object) -> bool:
        return isinstance(result, TokenPieces) and len(result.ids) == len(result.pieces)


@dataclass(frozen=True, slots=True)
class PartTokens:
    """The tokens of one part of a message on its own. `message` and `part` count from 0."""

    message: int
    part: int
    kind: Literal["text", "image", "audio"]
    tokens: int


@dataclass(frozen=True, slots=True)
class RequestEstimate:
    """The estimated cost of a request if it ran now and alone.

    `template_tokens`: the prompt tokens that belong to no part: those of the template, tools and names.
    `cached_tokens` need not be computed. `excess_tokens`: by how many tokens the prompt, with one for an answer,
    exceeds the context. The times assume an answer of `max_tokens`; `None` if they cannot be estimated.
    `memory_bytes`: the peak memory of the model's process.
    """

    parts: tuple[PartTokens, ...]
    template_tokens: int
    prompt_tokens: int
    cached_tokens: int
    context_length: int
    excess_tokens: int
    max_tokens: int
    first_token_seconds: float | None
    total_seconds: float | None
    memory_bytes: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate(Task[RequestEstimate]):
    """Estimates a request without answering it. Its media are decoded and counted but not encoded.

    Times come from a benchmark of this machine, which takes seconds the first time. With `predict_seconds=False` only
    tokens and memory are estimated.
    """

    request: Request
    predict_seconds: bool = True

    def is_answered_by(self, result: object) -> bool:
        return isinstance(result, RequestEstimate)

    def check(self, limits: RequestLimits) -> None:
        limits.check(self.request)


def check_count(name: str, count: int) -> None:
    """Raises `InvalidRequest` for no texts, or more than `MAX_INPUTS`."""
    if not 1 <= count <= MAX_INPUTS:
        raise InvalidRequest(f"{name} has {count} texts; 1 to {MAX_INPUTS} are accepted", name)
