"""The part of `galago quantize` that leaves layers out, and tells first what each one's loss costs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from . import progress

if TYPE_CHECKING:
    from ...quantize.calibration import Data
    from ...quantize.pruning import Losses


def drop(data: Data, count: int) -> list[tuple[int, Losses]]:
    """The layers to drop, told on standard error before anything is written."""
    from ...quantize import pruning
    from ...quantize.measuring import mean

    with progress.bar("measuring layers", 1.0) as show:
        found = pruning.rounds(data, count, lambda i, n, name: show(i / n, f"{name}, {i} of {n}"))
    for dropped, losses in found:
        each = ", ".join(f"{layer}: {mean(units):.4f}" for layer, units in sorted(losses.items()))
        print(f"layer {dropped} is left out; nats a token lost without each: {each}", file=sys.stderr)
    return found


def as_json(found: list[tuple[int, Losses]]) -> dict[str, Any]:
    from ...quantize.measuring import by_kind

    dropped = [{"layer": layer, "divergence": by_kind(losses[layer])} for layer, losses in found]
    return {"dropped_layers": dropped} if dropped else {}
