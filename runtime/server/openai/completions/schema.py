"""The JSON shapes of `/v1/completions`: prompts without messages, and their continuations."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from ....types.warnings import Warnings
from ...http.request_io import OtherFields
from ..schema import FINGERPRINT, GENERATION_FIELDS, GenerationRequest, Timings, TokenId, Usage


class CompletionRequest(GenerationRequest, kw_only=True):
    """`POST /v1/completions`. Unknown fields are accepted and named in the answer's `warnings`."""

    prompt: str | list[str | TokenId | list[TokenId]]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None

    @staticmethod
    def adapt(raw: dict[str, Any], warnings: Warnings) -> dict[str, Any]:
        from ...http.text_forms import as_text
        from .. import other_forms

        raw = other_forms.settings(raw, warnings)
        if raw.get("prompt") and not isinstance(raw["prompt"], list):
            raw["prompt"] = as_text(raw["prompt"], "prompt", warnings)
        if isinstance(raw.get("logprobs"), bool):
            raw["logprobs"] = 0 if raw["logprobs"] else None
        return raw

    settings = GenerationRequest.settings | {"echo", "logprobs", "best_of"}
    other_fields = OtherFields(
        ignored={name: values for name, values in GENERATION_FIELDS.ignored.items() if name != "best_of"},
        warned=GENERATION_FIELDS.warned,
        refused=GENERATION_FIELDS.refused,
        adapted=GENERATION_FIELDS.adapted,
    )


class TextLogprobs(Struct):
    """Four parallel lists, one item for each token. `text_offset` counts characters of the whole text. The first token
    of a prompt has no probability."""

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
    """A whole answer, or a chunk of a streamed one."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET
    system_fingerprint: str = FINGERPRINT
    object: str = "text_completion"
