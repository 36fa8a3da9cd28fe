"""Estimates a request's time and memory from its prompt, the model's header and a benchmark. Computes no token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from ...models.capacity import gpu_offload
from ...models.capacity.memory import estimate_caveats
from ...models.capacity.throughput import (
    REQUEST_SECONDS,
    MachineBenchmark,
    TokenCosts,
    encoding_seconds,
    matrix_types,
    token_costs,
)
from ...models.errors import EngineError
from ...models.files import ModelFiles
from ...models.gguf.reader import read_header
from ..config import ModelConfig
from ..engine.tuning import CacheForecast
from ..llamacpp.library import features
from ..types.messages import Image, Message, Text
from ..types.placement import Placement
from ..types.prompt import Prompt
from ..types.request import Request
from ..types.tasks import PartTokens, RequestEstimate
from .footprint import footprint_function
from .machine_benchmark import measured

SpanKind: TypeAlias = Literal["image", "audio"]


class RequestEstimator:
    """Estimates requests to one loaded model with a context of `context` tokens.

    `encode_seconds` is what its projector has taken for each cell of the media that it has encoded.
    """

    def __init__(
        self,
        files: ModelFiles,
        config: ModelConfig,
        placement: Placement,
        context: int,
        slots: int,
        encode_seconds: Mapping[SpanKind, float],
    ) -> None:
        self._header = files.header
        self._projector = read_header(files.projector) if files.projector else None
        self._placement = placement
        self._threads = config.threads
        self._context = context
        self._encode_seconds = encode_seconds
        self._kv_type = config.kv_type
        self._max_cache_bytes = config.state_bytes
        self._caveats = estimate_caveats(self._header, self._projector)
        footprint = footprint_function(files, replace(config, cache_mib=0), placement, features(), server=False)
        self._memory_bytes = footprint(context, slots).needed

    def estimate(
        self,
        request: Request,
        prompt: Prompt,
        parts: Sequence[PartTokens],
        forecast: CacheForecast,
        preparation_seconds: float | None,
    ) -> RequestEstimate:
        """Estimates a request whose prompt took `preparation_seconds` to build; `None` if no times are wanted."""
        tokens = prompt.cells
        room = max(self._context - tokens, 0)
        answer_tokens = room if request.max_tokens is None else min(request.max_tokens, room)
        warnings = [*prompt.warnings, *self._caveats]
        if room and request.max_tokens is not None and request.max_tokens > room:
            warnings.append(f"max_tokens {request.max_tokens} would be lowered to {room}, the room left in the context")
        first = total = None
        unfilled = max(self._context - max(forecast.peak_cells, min(tokens + answer_tokens, self._context)), 0)
        cell_bytes = sum(
            gpu_offload.kv_bytes_per_token(self._header, layer, self._kv_type)
            for layer in range(gpu_offload.layer_count(self._header))
        )
        cache_bytes = max(
            forecast.saved_bytes, min(forecast.saved_bytes + forecast.idle_cells * cell_bytes, self._max_cache_bytes)
        )
        if room and preparation_seconds is not None:
            try:
                costs, benchmark = self._token_costs()
                save_seconds = forecast.save_seconds_per_cell
                if save_seconds is None:
                    save_seconds = cell_bytes * benchmark.save_seconds_per_byte
                eviction_seconds = forecast.idle_cells * save_seconds
                encode_seconds = self._estimate_encoding(prompt, benchmark)
                ready = REQUEST_SECONDS + preparation_seconds + encode_seconds + eviction_seconds
                first = ready + costs.first_token_seconds(tokens, forecast.cached_cells)
                total = ready + costs.answer_seconds(tokens, answer_tokens, forecast.cached_cells)
            except EngineError as error:
                warnings.append(error.message)
        return RequestEstimate(
            parts=tuple(parts),
            template_tokens=tokens - sum(part.tokens for part in parts),
            prompt_tokens=tokens,
            cached_tokens=forecast.cached_cells,
            context_length=self._context,
            excess_tokens=max(tokens + 1 - self._context, 0),
            max_tokens=answer_tokens,
            first_token_seconds=first,
            total_seconds=total,
            memory_bytes=self._memory_bytes - unfilled * cell_bytes + cache_bytes,
            warnings=tuple(warnings),
        )

    def _token_costs(self) -> tuple[TokenCosts, MachineBenchmark]:
        """Raises `EngineError` if no time can be estimated."""
        if self._placement.gpu_layers:
            raise EngineError("no time is estimated for a model on a GPU")
        weight_types = {*matrix_types(self._header), *(matrix_types(self._projector) if self._projector else ())}
        benchmark = measured(weight_types, threads=self._threads)
        costs = token_costs(self._header, benchmark)
        if costs is None:
            raise EngineError("no time is estimated: some weights have a type that cannot be measured")
        return costs, benchmark

    def _estimate_encoding(self, prompt: Prompt, benchmark: MachineBenchmark) -> float:
        """Returns the seconds to encode new media: from those encoded before, or from the projector's header."""
        if self._projector is None:
            return 0.0
        waiting = {span.digest: span for span in prompt.media if not span.payload.ready}.values()
        seconds = 0.0
        for span in waiting:
            cell_seconds = self._encode_seconds.get(span.kind)
            if cell_seconds is not None:
                seconds += span.cells * cell_seconds
            else:
                seconds += encoding_seconds(self._projector, benchmark, span.kind, span.cells) or 0.0
        return seconds


def count_part_tokens(messages: Sequence[Message], prompt: Prompt, count: Callable[[str], int]) -> list[PartTokens]:
    """Returns the tokens of each part: media as they are in the prompt, texts as `count` counts them."""
    media_tokens = iter(prompt.media_part_cells)
    parts = []
    for i, message in enumerate(messages):
        for k, part in enumerate(message.parts):
            if isinstance(part, Text):
                parts.append(PartTokens(i, k, "text", count(part.text)))
            else:
                parts.append(PartTokens(i, k, "image" if isinstance(part, Image) else "audio", next(media_tokens)))
    return parts
