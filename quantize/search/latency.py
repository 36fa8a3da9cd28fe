"""Predicts how weight types affect the time per token, from a benchmark of this CPU's kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...models.capacity import throughput
from ...models.capacity.throughput import MachineBenchmark
from ...models.errors import ConfigError
from ...models.gguf.header import GGUFHeader
from ..variants.schemes import TYPE_NUMBERS
from ..variants.source import SourceModel, typed_nbytes


@dataclass(frozen=True)
class LatencyTarget:
    """A required speed of one answer with an empty context, and how to predict the seconds per token."""

    header: GGUFHeader
    benchmark: MachineBenchmark
    tokens_per_second: float

    @property
    def max_seconds(self) -> float:
        return 1 / self.tokens_per_second

    def seconds(self, types: Mapping[str, str]) -> float:
        """Returns the seconds per token if tensors have these types, and all others their current types."""
        tensors = tuple(
            replace(t, type=TYPE_NUMBERS[types[t.name]], nbytes=typed_nbytes(t, types[t.name]))
            if t.name in types
            else t
            for t in self.header.tensors
        )
        costs = throughput.token_costs(replace(self.header, tensors=tensors), self.benchmark)
        assert costs is not None
        return costs.token_seconds(0)


def check_speed(tokens_per_second: float) -> None:
    """Raises `ConfigError` if no model is that fast."""
    if not 0 < tokens_per_second < 1 / throughput.ENGINE_SECONDS_PER_TOKEN:
        raise ConfigError(
            f"{tokens_per_second:g} tokens per second are impossible; give a speed between 0 and "
            f"{1 / throughput.ENGINE_SECONDS_PER_TOKEN:.0f}",
            "speed",
        )


def benchmarked_types(source: SourceModel) -> list[str]:
    """Returns the current types of the source's tensors, which a benchmark must include."""
    return throughput.matrix_types(replace(source.header, tensors=source.tensors))


def latency_target(source: SourceModel, tokens_per_second: float, benchmark: MachineBenchmark) -> LatencyTarget:
    """The benchmark must include the source's types and those it may become."""
    check_speed(tokens_per_second)
    return LatencyTarget(replace(source.header, tensors=source.tensors), benchmark, tokens_per_second)
