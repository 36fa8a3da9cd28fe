"""The JSON shapes of `/v1/embeddings`."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from ...http.request_io import ANY, OtherFields
from ..schema import TokenId


class EmbeddingRequest(Struct):
    """`POST /v1/embeddings`. Unknown fields are accepted and named in the answer's `warnings`."""

    input: str | list[str | TokenId | list[TokenId]]
    model: str | None = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None
    keep_alive: float | str | None = None

    other_fields = OtherFields(
        ignored={
            "embd_normalize": 2,
            "input_type": (),
            "task_type": (),
            "truncate": False,
            "user": ANY,
        },
    )


class Embedding(Struct):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct):
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage
    warnings: list[str] | UnsetType = UNSET
    object: str = "list"
