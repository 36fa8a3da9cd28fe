"""The part of `galago quantize` that finds the best mixture of types for a budget, and tells how good it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import progress, report
from .calibrate import collect

if TYPE_CHECKING:
    from ...quantize.search import Found, Units
    from ...quantize.variant import Source

_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Budget:
    """One of the ways to say how large a variant may be."""

    size: str | None
    bits: float | None
    like: str | None


def search(
    source: Source, eyes: Path | None, files: list[Path], without: bool, part: Path, budget: Budget, effort: str
) -> Found:
    """Of what is read, three stretches or chats of four calibrate, and variants are compared on the fourth."""
    from ...models.device import memory_size
    from ...models.errors import ConfigError
    from ...quantize import calibration, search

    if without:
        raise ConfigError("a mixture needs calibration; leave out --no-calibration", "calibration")
    search.check(source, effort)
    data = calibration.data(source, eyes, files)
    data = replace(data, every=search.EVERY, limit=2 * calibration.BUILTIN_UNITS if not data.files else None)
    matrix = collect(data, part)
    most = memory_size(budget.size, source.size if "%" in budget.size else _NO_LIMIT) if budget.size else None
    room = search.budget_of(source, matrix, most, budget.bits, budget.like)
    with progress.bar("searching", 1.0) as show:
        return search.search(
            data, matrix, room, effort, budget.like, lambda i, n, name: show(i / n, f"{name}, {i} of {n}")
        )


def lines(found: Found) -> list[str]:
    told = [
        f"  searched on   {', '.join(map(report.printable, found.searched_on))}",
        f"  divergence    predicted {found.predicted:.5f}, measured {_nats(found.mixture)}",
    ]
    if found.stock:
        told.append(f"  {found.stock:<14}{_nats(found.stock_measured)}")
    if found.beaten:
        told.append(f"  {found.stock} diverges less than the best mixture found, and was made instead")
    return told


def _nats(units: Units) -> str:
    from ...quantize.search import by_kind, mean

    kinds = by_kind(units)
    each = ", ".join(f"{kind} {nats:.5f}" for kind, nats in kinds.items())
    return f"{mean(units):.5f} nats a token" + (f" ({each})" if len(kinds) > 1 else "")


def as_json(found: Found) -> dict[str, Any]:
    from ...quantize.search import by_kind

    stock = {"scheme": found.stock, "measured": by_kind(found.stock_measured)} if found.stock else None
    return {
        "divergence": {"predicted": found.predicted, "measured": by_kind(found.mixture)},
        "searched_on": found.searched_on,
        "stock": stock,
        "stock_made": found.beaten,
    }
