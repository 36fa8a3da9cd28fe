"""What the cells of each slot hold, and how many cells all slots take together. Pure bookkeeping."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from ..types.prompt import RELEASED_PAYLOAD, Item, count_cells, count_positions

if TYPE_CHECKING:
    from . import sequence

_numbers = itertools.count()


class CellRange(NamedTuple):
    """A slot's cells from `begin` to `end` that were computed at one stretch; copies of a slot share its runs."""

    number: int
    begin: int
    end: int


@dataclass(eq=False, slots=True)
class Slot:
    """One of llama.cpp's sequences. Keeps its items when its owner has left, for whoever continues them."""

    number: int
    owner: sequence.Sequence | None = None
    adapters: tuple[float, ...] = ()
    items: list[Item] = field(default_factory=list)
    runs: list[CellRange] = field(default_factory=list)
    cells: int = 0
    position: int = 0
    last_used: int = 0

    def extend(self, items: Iterable[Item]) -> None:
        """Notes that further items were computed."""
        if not self.runs:
            self.runs.append(CellRange(next(_numbers), 0, 0))
        for item in items:
            self.items.append(_bare(item))
            self.cells += 1 if isinstance(item, int) else item.cells
            self.position += 1 if isinstance(item, int) else item.positions
        self.runs[-1] = self.runs[-1]._replace(end=self.cells)

    def cut(self, count: int) -> None:
        """Notes that the tokens computed last are gone, and `count` items left."""
        gone = len(self.items) - count
        del self.items[count:]
        self.cells -= gone
        self.position -= gone
        self.runs[-1] = self.runs[-1]._replace(end=self.cells)

    def take(self, items: Sequence[Item], runs: Iterable[CellRange] = ()) -> None:
        """Holds these items now, the cells of `runs` as far as they reach; what follows will be cells of its own."""
        self.items = [_bare(item) for item in items]
        self.cells, self.position = count_cells(items), count_positions(items)
        self.runs = [run._replace(end=min(run.end, self.cells)) for run in runs if run.begin < self.cells]
        reached = self.runs[-1].end if self.runs else 0
        if reached < self.cells:
            self.runs.append(CellRange(next(_numbers), reached, self.cells))
        self.runs.append(CellRange(next(_numbers), self.cells, self.cells))


def _bare(item: Item) -> Item:
    """Media without its payload: a slot keeps what it needs to compare, for as long as nobody takes it."""
    return item if isinstance(item, int) else replace(item, payload=RELEASED_PAYLOAD)


def cells_taken(runs: Iterable[CellRange]) -> int:
    """Cells that these runs take together, shared ones counted once."""
    longest: dict[int, int] = {}
    for run in runs:
        longest[run.number] = max(longest.get(run.number, 0), run.end - run.begin)
    return sum(longest.values())
