"""A loaded model as the engine sees it: computes steps and chooses tokens."""

from __future__ import annotations

from .context import Context
from .sampler import Sampler
from .weights import Weights


class NativeBackend:
    """Owns the context; the weights belong to whoever loaded them and must outlive it."""

    def __init__(self, weights: Weights, context: Context) -> None:
        self._context = context
        self.use_adapters = context.use_adapters
        self.decode = context.decode
        self.decode_media = context.decode_media
        self.forget = context.forget
        self.piece = weights.piece

    def choose(self, row: int, sampler: Sampler) -> int:
        return sampler.choose(self._context.logits(row))

    def close(self) -> None:
        self._context.close()
