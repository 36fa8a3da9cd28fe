"""The JSON shapes that several resources of OpenAI's API share."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any

from msgspec import Meta, Struct

from ...types.options import MAX_STOPS
from ..http.request_io import ANY, OtherFields

FINGERPRINT = f"galago-{metadata.version('galago')}-llama-cpp-python-{metadata.version('llama-cpp-python')}"
"""The versions that the answer to a seeded request depends on: it repeats only if both are the same."""

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Stop = Annotated[str, Meta(extra_json_schema={"minLength": 1})]

ONLY_SAVES_TIME = ": it would only save time"

GENERATION_FIELDS = OtherFields(
    ignored={
        "best_of": 1,
        "cache_prompt": ANY,
        "dry_allowed_length": ANY,
        "dry_base": ANY,
        "dry_multiplier": 0,
        "dry_penalty_last_n": ANY,
        "dry_sequence_breakers": ANY,
        "dynatemp_exponent": ANY,
        "dynatemp_range": 0,
        "include_stop_str_in_output": False,
        "input_extra": [],
        "length_penalty": 1,
        "metadata": ANY,
        "mirostat": 0,
        "mirostat_eta": ANY,
        "mirostat_tau": ANY,
        "n_probs": 0,
        "prompt_cache_key": ANY,
        "prompt_cache_retention": ANY,
        "repeat_last_n": 64,
        "safety_identifier": ANY,
        "samplers": (),
        "service_tier": ANY,
        "tfs_z": 1,
        "top_a": 0,
        "top_n_sigma": (-1, 0),
        "truncate_prompt_tokens": (),
        "typical_p": 1,
        "use_beam_search": False,
        "user": ANY,
        "xtc_probability": 0,
        "xtc_threshold": ANY,
    },
    refused={"bad_words": []},
    adapted={
        "guided_choice": "regex",
        "guided_grammar": "grammar",
        "guided_json": "response_format",
        "guided_regex": "regex",
        "json_schema": "response_format",
        "max_new_tokens": "max_tokens",
        "n_predict": "max_tokens",
        "random_seed": "seed",
        "repetition_penalty": "repeat_penalty",
        "structured_outputs": "response_format, regex or grammar",
    },
)
"""Fields that OpenAI's clients, llama-server's and vLLM's send with any request for an answer."""


class StreamOptions(Struct):
    include_usage: bool | None = None

    other_fields = OtherFields(ignored={"include_obfuscation": ANY})


class TextFormat(Struct, tag="text"):
    pass


class JsonObjectFormat(Struct, tag="json_object"):
    schema: dict[str, Any] | bool | None = None


class JsonSchema(Struct):
    schema: dict[str, Any] | bool
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, tag="json_schema"):
    json_schema: JsonSchema


class LoraScale(Struct):
    id: int
    scale: float


class GenerationRequest(Struct, kw_only=True):
    """The fields that all requests for an answer share."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: _Stop | Annotated[list[_Stop], Meta(extra_json_schema={"maxItems": MAX_STOPS})] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    cache: bool | None = None
    lora: list[LoraScale] | None = None
    timeout: float | None = None
    keep_alive: float | str | None = None
    n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    grammar: str | None = None
    regex: str | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    accepted_values = {"response_format.type": "text, json_object or json_schema"}
    settings = frozenset(
        "max_tokens min_tokens temperature top_p top_k min_p seed stop stop_token_ids ignore_eos cache timeout n "
        "frequency_penalty presence_penalty repeat_penalty logit_bias stream_options keep_alive".split()
    )


class PromptDetails(Struct):
    cached_tokens: int
    audio_tokens: int
    image_tokens: int


class CompletionDetails(Struct):
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int
    reasoning_tokens: int = 0


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class Timings(Struct):
    """Milliseconds from the request's arrival to the prepared prompt, the first and the last token, and the decoding
    rate after the first token."""

    prepared_ms: float
    first_token_ms: float
    total_ms: float
    tokens_per_second: float | None


class ErrorBody(Struct):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(Struct):
    error: ErrorBody
