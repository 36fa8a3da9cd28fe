"""The JSON shapes of `/v1/rerank`, in the format of Jina's API and of llama-server."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType


class Document(Struct):
    text: str


class RerankRequest(Struct):
    """`POST /v1/rerank`. Unknown fields are accepted and named in the answer's `warnings`."""

    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    keep_alive: float | str | None = None


class RerankUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class RerankResult(Struct):
    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class RerankResponse(Struct):
    """The results in order of relevance, the most relevant first."""

    model: str
    results: list[RerankResult]
    usage: RerankUsage
    warnings: list[str] | UnsetType = UNSET
    object: str = "list"
