"""Which models of the catalogue run in a budget of memory, best first, before anything of them is downloaded.

The figures are estimates from sizes and numbers of weights; `memory.py` has exact ones once there is a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..gguf.header import GGML_TYPES
from ..registry.catalog import CatalogEntry, CatalogQuant
from .memory import MEDIA_BYTES, SERVER_BYTES, WORKER_BYTES
from .throughput import ENGINE_SECONDS_PER_TOKEN, MachineBenchmark

READING_TOKENS_PER_SECOND = 6.0
"""Tokens a second from which an answer is read as fast as it comes: about 4 words."""

_BYTES_PER_WEIGHT: Mapping[str, float] = {name: size / weights for name, weights, size in GGML_TYPES.values()}
_MIXED_TYPES_FACTOR = (
    1.1  # a quantized file's bytes to those of its main type: some tensors stay larger, the embedding first
)
_OTHER_BYTES = 150 << 20  # vocabulary and working memory of a model of a few billion weights
_TYPICAL_LAYERS = 28
_PROJECTOR_FRACTION = 0.12  # of the weights in Q8_0, where the catalogue does not know the projector's size


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A model in one quantization, and what it takes: `needed` bytes; `tokens_per_second` None where not measured."""

    entry: CatalogEntry
    quant: CatalogQuant
    needed: int
    tokens_per_second: float | None

    @property
    def fluent(self) -> bool:
        return self.tokens_per_second is None or self.tokens_per_second >= READING_TOKENS_PER_SECOND


def recommend(
    entries: Iterable[CatalogEntry], budget: int, context: int, benchmark: MachineBenchmark | None = None, kept: int = 0
) -> list[Recommendation]:
    """Those that fit `budget` bytes with a context of so many tokens: fluent ones first, then those with more weights,
    then with more bits to a weight. `kept` is what the caches may take, in bytes."""
    found = [_recommendation(entry, quant, context, benchmark, kept) for entry in entries for quant in entry.quants]
    fitting = [candidate for candidate in found if candidate is not None and candidate.needed <= budget]
    return sorted(
        fitting,
        key=lambda c: (not c.fluent, -c.entry.parameters, -_BYTES_PER_WEIGHT[weight_type_of_quant(c.quant.name)]),
    )


def weight_type_of_quant(quant: str) -> str:
    """The type of most weights in a quantization: Q4_K of Q4_K_M or UD-Q4_K_XL; empty where it is unknown."""
    name = quant.upper().removeprefix("UD-")
    return max((kind for kind in _BYTES_PER_WEIGHT if name == kind or name.startswith(f"{kind}_")), key=len, default="")


def _recommendation(
    entry: CatalogEntry, quant: CatalogQuant, context: int, benchmark: MachineBenchmark | None, kept: int
) -> Recommendation | None:
    kind = weight_type_of_quant(quant.name)
    if not kind or not (quant.weights or quant.total or entry.parameters):
        return None
    projector = _PROJECTOR_FRACTION * entry.parameters * _BYTES_PER_WEIGHT["Q8_0"] if entry.projector else 0.0
    weights = (
        quant.weights or (quant.total - projector if quant.total else 0) or entry.parameters * _bytes_per_weight(kind)
    )
    total = max(quant.total or 0, weights + (projector if not quant.total else 0))
    needed = total + context * _kv_bytes_per_token(entry.parameters) + _OTHER_BYTES + WORKER_BYTES + SERVER_BYTES + kept
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
    """Of KV cache a token, in F16: 128 KiB at 8B as in Llama 3, less at the square root; 1B has 32, 3B 112 there."""
    return float((128 << 10) * (parameters / 8e9) ** 0.5)
