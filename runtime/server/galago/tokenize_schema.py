"""The JSON shapes of texts as tokens. Holds no behaviour."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from ..openai.schema import ChatMessage, TokenId, ToolDefinition


class TokenizeRequest(Struct):
    """`POST /v1/tokenize`: a text as `content`, or a chat."""

    content: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[ToolDefinition] | None = None
    model: str | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class TokenPiece(Struct):
    """A token's text, or its bytes where they are no whole characters."""

    id: int
    piece: str | list[int]


class TokenList(Struct):
    tokens: list[int | TokenPiece]
    count: int
    warnings: list[str] | UnsetType = UNSET


class DetokenizeRequest(Struct):
    """`POST /v1/detokenize`."""

    tokens: list[TokenId]
    model: str | None = None


class DetokenizedText(Struct):
    content: str
    warnings: list[str] | UnsetType = UNSET
