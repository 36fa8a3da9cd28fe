"""The JSON shapes of completions: a prompt without messages, and the text that goes on from it. Holds no behaviour."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from .schema import FINGERPRINT, GenerationRequest, Timings, TokenId, Usage


class CompletionRequest(GenerationRequest, kw_only=True):
    """`POST /v1/completions`: the fields that are honoured."""

    prompt: str | list[str | TokenId | list[TokenId]]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None


class TextLogprobs(Struct):
    """The four lists go together; `text_offset` counts characters of the whole text. Nothing is known of how probable
    the first token of a prompt is."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Struct):
    text: str
    index: int
    logprobs: TextLogprobs | None = None
    finish_reason: str | None = None


class Completion(Struct):
    """The whole answer, or a piece of one that is streamed."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET
    system_fingerprint: str = FINGERPRINT
    object: str = "text_completion"
