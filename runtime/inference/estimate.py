"""What a request would take, from its prompt, the model's header and a benchmark of the machine. Computes no token."""

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
from ..engine.metrics import CacheForecast
from ..llamacpp.library import features
from ..types.messages import Image, Message, Text
from ..types.placement import Placement
from ..types.prompt import Prompt
from ..types.request import Request
from ..types.tasks import PartTokens, RequestEstimate
from .footprint import footprint_function
from .machine_benchmark import measured

Sense: TypeAlias = Literal["image", "audio"]


class RequestEstimator:
    """Plans requests for one loaded model, of `context` tokens. `pace` says how many seconds its projector has taken
    for each cell of the media that it has encoded."""

    def __init__(
        self,
        files: ModelFiles,
        config: ModelConfig,
        placement: Placement,
        context: int,
        slots: int,
        pace: Mapping[Sense, float],
    ) -> None:
        self._header = files.header
        self._projector = read_header(files.projector) if files.projector else None
        self._placement = placement
        self._threads = config.threads
        self._context = context
        self._pace = pace
        self._kv_type = config.kv_type
        self._most_kept = config.state_bytes
        self._guesses = estimate_caveats(self._header, self._projector)
        footprint = footprint_function(files, replace(config, cache_mib=0), placement, features(), server=False)
        self._resident = footprint(context, slots).needed

    def plan(
        self,
        request: Request,
        prompt: Prompt,
        parts: Sequence[PartTokens],
        outlook: CacheForecast,
        prepared: float,
    ) -> RequestEstimate:
        """Making the prompt took `prepared` seconds."""
        tokens = prompt.cells
        room = max(self._context - tokens, 0)
        answer = min(request.max_tokens or room, room)
        warnings = [*prompt.warnings, *self._guesses]
        if room and request.max_tokens is not None and request.max_tokens > room:
            warnings.append(f"max_tokens {request.max_tokens} would be lowered to {room}, what the context still holds")
        first = total = None
        unfilled = max(self._context - max(outlook.most, min(tokens + answer, self._context)), 0)
        cell = sum(
            gpu_offload.kv_bytes_per_token(self._header, layer, self._kv_type)
            for layer in range(gpu_offload.layer_count(self._header))
        )
        kept = max(outlook.kept, min(outlook.kept + outlook.idle * cell, self._most_kept))
        if room:
            try:
                found, benchmark = self._costs()
                each = cell * benchmark.save_seconds_per_byte if outlook.keeping is None else outlook.keeping
                making_room = outlook.idle * each
                ready = REQUEST_SECONDS + prepared + self._encoding(prompt, benchmark) + making_room
                first = ready + found.first_token(tokens, outlook.cached)
                total = ready + found.answer(tokens, answer, outlook.cached)
            except EngineError as error:
                warnings.append(error.message)
        return RequestEstimate(
            parts=tuple(parts),
            frame=tokens - sum(part.tokens for part in parts),
            tokens=tokens,
            cached=outlook.cached,
            context=self._context,
            over=max(tokens + 1 - self._context, 0),
            max_tokens=answer,
            first_token=first,
            total=total,
            memory=self._resident - unfilled * cell + kept,
            warnings=tuple(warnings),
        )

    def _costs(self) -> tuple[TokenCosts, MachineBenchmark]:
        """Raises `EngineError` where no time can be told."""
        if self._placement.gpu_layers:
            raise EngineError("no seconds are told for a model on a GPU")
        kinds = {*matrix_types(self._header), *(matrix_types(self._projector) if self._projector else ())}
        benchmark = measured(kinds, threads=self._threads)
        found = token_costs(self._header, benchmark)
        if found is None:
            raise EngineError("some weights have a type that cannot be measured: no seconds are told")
        return found, benchmark

    def _encoding(self, prompt: Prompt, benchmark: MachineBenchmark) -> float:
        """Of the media that are not encoded yet: as the last ones took; by the header before the first."""
        if self._projector is None:
            return 0.0
        waiting = {span.digest: span for span in prompt.media if not span.payload.ready}.values()
        seconds = 0.0
        for span in waiting:
            measured_pace = self._pace.get(span.kind)
            if measured_pace is not None:
                seconds += span.cells * measured_pace
            else:
                seconds += encoding_seconds(self._projector, benchmark, span.kind, span.cells) or 0.0
        return seconds


def counted(messages: Sequence[Message], prompt: Prompt, count: Callable[[str], int]) -> list[PartTokens]:
    """The tokens of each part: of media as they stand in the prompt, of texts as `count` tells."""
    cuts = iter(prompt.cuts)
    found = []
    for i, message in enumerate(messages):
        for k, part in enumerate(message.parts):
            if isinstance(part, Text):
                found.append(PartTokens(i, k, "text", count(part.text)))
            else:
                found.append(PartTokens(i, k, "image" if isinstance(part, Image) else "audio", next(cuts)))
    return found
