"""The part of `galago quantize` that leaves layers out, and tells first what each one's loss costs."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .ui import progress

if TYPE_CHECKING:
    from ...quantize.calibrate.calibration import Data
    from ...quantize.variants.layer_pruning import Losses
    from ...quantize.variants.plan import Source


@contextlib.contextmanager
def dropped(source: Source, data: Data, count: int | None) -> Iterator[tuple[Source, Data, list[tuple[int, Losses]]]]:
    """The model without so many layers, as it lies in a temporary folder, and what it was chosen by."""
    from ...quantize.variants import layer_pruning

    if count is None:
        yield source, data, []
        return
    losses = _losses(data, count)
    with tempfile.TemporaryDirectory(prefix="galago-pruned-") as folder:
        small = layer_pruning.without(source, [layer for layer, _ in losses], Path(folder))
        yield small, replace(data, source=small), losses


def _losses(data: Data, count: int) -> list[tuple[int, Losses]]:
    """The layers to drop, told on standard error before anything is written."""
    from ...quantize.search.divergence import mean
    from ...quantize.variants import layer_pruning

    with progress.bar("measuring layers", 1.0) as show:
        found = layer_pruning.rounds(data, count, lambda i, n, name: show(i / n, f"{name}, {i} of {n}"))
    for layer, losses in found:
        each = ", ".join(f"{other}: {mean(units):.4f}" for other, units in sorted(losses.items()))
        print(f"layer {layer} is left out; nats a token lost without each: {each}", file=sys.stderr)
    return found


def as_json(found: list[tuple[int, Losses]]) -> dict[str, Any]:
    from ...quantize.search.divergence import by_kind

    dropped = [{"layer": layer, "divergence": by_kind(losses[layer])} for layer, losses in found]
    return {"dropped_layers": dropped} if dropped else {}
