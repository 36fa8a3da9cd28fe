"""Recommends models of the catalog that run in a budget of memory, before anything is downloaded.

The figures are estimates from file sizes and numbers of weights; `memory.py` computes exact ones from a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..gguf.header import GGML_TYPES
from ..registry.catalog import CatalogEntry, CatalogQuant
from .memory import MEDIA_BYTES, SERVER_BYTES, WORKER_BYTES
from .throughput import ENGINE_SECONDS_PER_TOKEN, MachineBenchmark

READING_TOKENS_PER_SECOND = 6.0
"""Faster answers arrive faster than people read: about 4 words a second."""

_BYTES_PER_WEIGHT: Mapping[str, float] = {name: size / weights for name, weights, size in GGML_TYPES.values()}
_MIXED_TYPES_FACTOR = (
    1.1  # bytes of a quantized file relative to its main type: some tensors, such as the embedding, stay larger
)
_OTHER_BYTES = 150 << 20  # vocabulary and compute buffers of a model with a few billion weights
_TYPICAL_LAYERS = 28
_PROJECTOR_FRACTION = 0.12  # of the weights in Q8_0, if the catalog lacks the size of the projector


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A model in one quantization. `needed` is in bytes; `tokens_per_second` is None if it cannot be estimated."""

    entry: CatalogEntry
    quant: CatalogQuant
    needed: int
    tokens_per_second: float | None

    @property
    def fast_enough(self) -> bool:
        """Whether answers arrive as fast as people read, as far as that can be estimated."""
        return self.tokens_per_second is None or self.tokens_per_second >= READING_TOKENS_PER_SECOND


def recommend(
    entries: Iterable[CatalogEntry],
    budget: int,
    context: int,
    benchmark: MachineBenchmark | None = None,
    cache_bytes: int = 0,
) -> list[Recommendation]:
    """Returns the models that fit into `budget` bytes with a context of `context` tokens, the best first.

    Models that are fast enough come first, then those with more weights, then those with more bits per weight.
    `cache_bytes` are reserved for caches.
    """
    candidates = [
        _recommendation(entry, quant, context, benchmark, cache_bytes) for entry in entries for quant in entry.quants
    ]
    fitting = [candidate for candidate in candidates if candidate is not None and candidate.needed <= budget]
    return sorted(
        fitting,
        key=lambda c: (not c.fast_enough, -c.entry.parameters, -_BYTES_PER_WEIGHT[weight_type_of_quant(c.quant.name)]),
    )


def weight_type_of_quant(quant: str) -> str:
    """Returns the type of most weights in a quantization, such as Q4_K for Q4_K_M or UD-Q4_K_XL, or an empty text."""
    name = quant.upper().removeprefix("UD-")
    return max((kind for kind in _BYTES_PER_WEIGHT if name == kind or name.startswith(f"{kind}_")), key=len, default="")


def _recommendation(
    entry: CatalogEntry, quant: CatalogQuant, context: int, benchmark: MachineBenchmark | None, cache_bytes: int
) -> Recommendation | None:
    kind = weight_type_of_quant(quant.name)
    if not kind or not (quant.weights or quant.total or entry.parameters):
        return None
    projector = _PROJECTOR_FRACTION * entry.parameters * _BYTES_PER_WEIGHT["Q8_0"] if entry.projector else 0.0
    weights = (
        quant.weights or (quant.total - projector if quant.total else 0) or entry.parameters * _bytes_per_weight(kind)
    )
    total = max(quant.total or 0, weights + (projector if not quant.total else 0))
    needed = (
        total
        + context * _kv_bytes_per_token(entry.parameters)
        + _OTHER_BYTES
        + WORKER_BYTES
        + SERVER_BYTES
        + cache_bytes
    )
    needed += MEDIA_BYTES if entry.modalities else 0
    rate = benchmark.types.get(kind) if benchmark else None
    seconds = (
        weights / rate.bytes_per_second + _TYPICAL_LAYERS * benchmark.layer_seconds + ENGINE_SECONDS_PER_TOKEN
        if benchmark and rate
        else 0.0
    )
    return Recommendation(entry, quant, int(needed), 1 / seconds if seconds else None)


def _bytes_per_weight(kind: str) -> float:
    return _BYTES_PER_WEIGHT[kind] * (1.0 if kind in ("F32", "F16", "BF16") else _MIXED_TYPES_FACTOR)


def _kv_bytes_per_token(parameters: int) -> float:
    """Estimates the KV cache of a token in F16 from Llama 3: 128 KiB for 8B, and with the square root for others.

    The Llama 3 models of 1B and 3B have 32 and 112 KiB.
    """
    return float((128 << 10) * (parameters / 8e9) ** 0.5)
