"""The part of `galago quantize` that finds the best mixture of types for a budget, and tells how good it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .calibrate import collect
from .ui import progress, report

if TYPE_CHECKING:
    from ...quantize.calibrate.calibration import Data
    from ...quantize.search.divergence import Units
    from ...quantize.search.latency import Pace
    from ...quantize.search.mixture import Found
    from ...quantize.variants.plan import Source

_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Wish:
    """How small, or how fast, a variant shall be, as the user says it."""

    size: str | None
    bits: float | None
    like: str | None
    speed: float | None


def search(source: Source, data: Data, without: bool, part: Path, wish: Wish, effort: str) -> Found:
    """Of what is read, three stretches or chats of four calibrate, and variants are compared on the fourth."""
    from ...models.device import parse_memory_size
    from ...models.errors import ConfigError
    from ...quantize.calibrate import calibration
    from ...quantize.search import divergence, mixture

    if without:
        raise ConfigError("a mixture needs calibration; leave out --no-calibration", "calibration")
    _check(source, data, wish, effort)
    limit = None if data.files else 2 * calibration.BUILTIN_UNITS
    data = replace(data, every=divergence.EVERY, products=True, limit=limit)
    matrix = collect(data, part)
    most = parse_memory_size(wish.size, source.size if "%" in wish.size else _NO_LIMIT) if wish.size else None
    room = mixture.budget_of(source, matrix, most, wish.bits, wish.like, _pace(source, wish.speed))
    with progress.bar("searching", 1.0) as show:
        return mixture.search(data, matrix, room, effort, lambda i, n, name: show(i / n, f"{name}, {i} of {n}"), source)


def _pace(source: Source, wanted: float | None) -> Pace | None:
    from ...quantize.search import latency, type_costs
    from ..inference.machine_benchmark import measured

    if wanted is None:
        return None
    return latency.pace(source, wanted, measured(type_costs.TYPES | set(latency.types(source))))


def _check(source: Source, data: Data, wish: Wish, effort: str) -> None:
    from ...models.errors import ConfigError
    from ...quantize.search import latency, mixture

    mixture.check(effort)
    if wish.speed is not None:
        latency.check(wish.speed)
    if not source.header.is_projector:
        return
    if wish.speed is not None:
        raise ConfigError("--speed is that of answers, which a projector does not make", "speed")
    if data.source is source or not data.files:
        raise ConfigError("a projector's mixture is measured by what its model says of pictures and sounds: name the "
                          "model by --for, and data by --calibration", "for")  # fmt: skip


def lines(found: Found) -> list[str]:
    foretold = "" if found.predicted is None else f"predicted {found.predicted:.5f}, "
    told = [
        f"  measured on   {', '.join(map(report.printable, found.searched_on))}",
        f"  divergence    {foretold}measured {_nats(found.mixture)}",
    ]
    matrix = found.plan.recipe.matrix
    if matrix is None or not matrix.tells_products:
        told.append("  rounded weight by weight: how inputs go together no importance matrix tells, only data does")
    if found.stock:
        told.append(f"  {found.stock:<14}{_nats(found.stock_measured)}")
    if found.beaten:
        told.append(f"  {found.stock} diverges less than the best mixture found, and was made instead")
    return told


def _nats(units: Units) -> str:
    from ...quantize.search.divergence import by_kind, mean

    kinds = by_kind(units)
    each = ", ".join(f"{kind} {nats:.5f}" for kind, nats in kinds.items())
    return f"{mean(units):.5f} nats a token" + (f" ({each})" if len(kinds) > 1 else "")


def as_json(found: Found) -> dict[str, Any]:
    from ...quantize.search.divergence import by_kind

    stock = {"scheme": found.stock, "measured": by_kind(found.stock_measured)} if found.stock else None
    return {
        "divergence": {"predicted": found.predicted, "measured": by_kind(found.mixture)},
        "searched_on": found.searched_on,
        "stock": stock,
        "stock_made": found.beaten,
    }
