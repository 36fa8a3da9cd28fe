"""The JSON shapes of `/v1/tokenize` and `/v1/detokenize`."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from ..openai.chat.schema import ACCEPTED_VALUES, ChatMessage, ChatRequest, ToolDefinition
from ..openai.schema import TokenId


class TokenizeRequest(Struct):
    """`POST /v1/tokenize`: a text as `content`, or a chat as `messages`."""

    content: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[ToolDefinition] | None = None
    model: str | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None

    accepted_values = ACCEPTED_VALUES
    adapt = ChatRequest.adapt


class TokenPiece(Struct):
    """A token's text, or its bytes if they are not valid UTF-8 alone."""

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
