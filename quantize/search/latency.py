"""How long a token takes as weights change their types, from what the kernels of this CPU were measured to take.

Knows no quality; `search.py` weighs one against the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...models.capacity import throughput
from ...models.capacity.throughput import MachineBenchmark
from ...models.errors import ConfigError
from ...models.gguf.header import GGUFHeader
from ..variants.plan import Source, nbytes
from ..variants.schemes import TYPE_NUMBERS


@dataclass(frozen=True)
class Pace:
    """Seconds a token of one answer takes, nothing before it; `wanted` tokens a second are asked for."""

    header: GGUFHeader
    benchmark: MachineBenchmark
    wanted: float

    @property
    def limit(self) -> float:
        return 1 / self.wanted

    def seconds(self, types: Mapping[str, str]) -> float:
        """With tensors in these types, and all others as they are."""
        tensors = tuple(
            replace(t, type=TYPE_NUMBERS[types[t.name]], nbytes=nbytes(t, types[t.name])) if t.name in types else t
            for t in self.header.tensors
        )
        costs = throughput.token_costs(replace(self.header, tensors=tensors), self.benchmark)
        assert costs is not None
        return costs.token(0)


def check(wanted: float) -> None:
    """Raises `ConfigError` where no model is so fast."""
    if not 0 < wanted < 1 / throughput.ENGINE_SECONDS_PER_TOKEN:
        raise ConfigError(f"{wanted:g} tokens a second are not possible", "speed")


def types(source: Source) -> list[str]:
    """Those of its tensors now, which a benchmark must know."""
    return throughput.matrix_types(replace(source.header, tensors=source.tensors))


def pace(source: Source, wanted: float, benchmark: MachineBenchmark) -> Pace:
    """Of a model whose `types`, and those it may become, the benchmark knows."""
    check(wanted)
    return Pace(replace(source.header, tensors=source.tensors), benchmark, wanted)
