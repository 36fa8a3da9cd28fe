"""A loaded model as the engine sees it: computes steps and chooses tokens."""

from __future__ import annotations

from ..sampling.sampler import Sampler
from ..types.prompt import MediaPayload, SampledToken
from .context import Context
from .projector import MediaChunk, encode_first
from .weights import Weights

FEW_ROWS = 5.0
"""How many times longer the attention of few rows takes for a value than their matrices for a weight: 5 on two cores of
an AMD EPYC (Zen 5), 16 on those of an Intel Xeon."""


class LlamaRunner:
    """Owns the context; the weights belong to whoever loaded them and must outlive it."""

    def __init__(self, weights: Weights, context: Context) -> None:
        self._context = context
        self.attention = FEW_ROWS * weights.attention if context.in_tiles and not weights.gpu_layers else 0.0
        self.use_adapters = context.use_adapters
        self.decode = context.decode
        self.decode_media = context.decode_media
        self.use_threads = context.use_threads
        self.cut = context.cut
        self.copy = context.copy
        self.save = context.save
        self.restore = context.restore
        self.piece = weights.piece
        self.name = weights.name
        self.divisible = not weights.recurrent

    def encode(self, media: list[MediaPayload]) -> None:
        encode_first([chunk for chunk in media if isinstance(chunk, MediaChunk)])

    def choose(self, row: int, sampler: Sampler) -> SampledToken:
        return sampler.choose(self._context.logits(row))

    def tell(self, row: int, token: int, sampler: Sampler) -> SampledToken:
        return sampler.tell(self._context.logits(row), token)

    def likeliest(self, row: int) -> int:
        return int(self._context.logits(row).argmax())

    def close(self) -> None:
        self._context.close()
