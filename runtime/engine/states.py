"""Sequences set aside in host memory, found again by what they begin with. Knows no llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..values import Item
from .slots import common_prefix


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The cells of some items as llama.cpp saved them."""

    items: list[Item]
    data: bytes


class StateCache:
    """At most `limit` bytes of states, those used least recently dropped first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._states: list[State] = []

    def __len__(self) -> int:
        return len(self._states)

    def add(self, state: State) -> None:
        """Keeps a state, instead of those that it continues."""
        for old in [s for s in self._states if self._continues(state.items, s.items)]:
            self._drop(old)
        self._states.append(state)
        self.size += len(state.data)
        while self.size > self.limit:
            self._drop(self._states[0])

    def holds(self, items: Sequence[Item]) -> bool:
        """Whether some state begins with all of these items."""
        return any(self._continues(s.items, items) for s in self._states)

    def best(self, items: Sequence[Item], whole: bool) -> tuple[State | None, int]:
        """The state that shares most of its beginning with `items`, and how many; `whole` ones only, if asked."""
        best, most = None, 0
        for state in self._states:
            shared = common_prefix(state.items, items)
            if shared > most and (shared == len(state.items) or not whole):
                best, most = state, shared
        return best, most

    def used(self, state: State) -> None:
        self._states.remove(state)
        self._states.append(state)

    def _drop(self, state: State) -> None:
        self._states.remove(state)
        self.size -= len(state.data)

    @staticmethod
    def _continues(longer: Sequence[Item], shorter: Sequence[Item]) -> bool:
        return common_prefix(longer, shorter) == len(shorter)
