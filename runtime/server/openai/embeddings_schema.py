"""The JSON shapes of embeddings and rankings. Holds no behaviour."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from .schema import TokenId


class EmbeddingRequest(Struct):
    """`POST /v1/embeddings`: the fields that are honoured."""

    input: str | list[str | TokenId | list[TokenId]]
    model: str | None = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None


class Embedding(Struct):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class VectorUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class Document(Struct):
    text: str


class RerankRequest(Struct):
    """`POST /v1/rerank`: the fields that are honoured."""

    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None


class Rank(Struct):
    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class Ranking(Struct):
    """The best first."""

    model: str
    results: list[Rank]
    usage: VectorUsage
    warnings: list[str] | UnsetType = UNSET
    object: str = "list"


class EmbeddingList(Struct):
    model: str
    data: list[Embedding]
    usage: VectorUsage
    warnings: list[str] | UnsetType = UNSET
    object: str = "list"
