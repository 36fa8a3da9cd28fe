"""A draft model: a small model that proposes the next tokens of a large one."""

from __future__ import annotations

import time
from typing import Protocol

from ..types.prompt import BatchToken, Item, common_prefix
from .drafting import DraftRequest, moving_average

MAX_PREFILL_ROWS = 64
"""Prompt rows that the draft model computes in a step. Answers wait for it."""

_FIRST_TOKEN_SECONDS = 0.002
"""Seconds for a draft token before any was measured."""


class DraftRunner(Protocol):
    """The methods that a draft model needs from its runner."""

    def use_threads(self, threads: int) -> None: ...
    def decode(self, rows: list[BatchToken]) -> None: ...
    def truncate(self, sequence: int, position: int) -> None: ...
    def top_token(self, row: int) -> int: ...
    def close(self) -> None: ...


class DraftModel:
    """Computes the same sequences as the large model, in slots of the same numbers, sharing `cells` in all."""

    def __init__(self, runner: DraftRunner, slots: int, cells: int) -> None:
        self._runner = runner
        self._computed: list[list[Item]] = [[] for _ in range(slots)]
        self._dirty: set[int] = set()
        """Slots whose content is unknown since an error."""
        self._cells = cells
        self.token_seconds = _FIRST_TOKEN_SECONDS
        """Seconds that a draft token takes."""

    def close(self) -> None:
        self._runner.close()

    def use_threads(self, threads: int) -> None:
        self._runner.use_threads(threads)

    def draft(self, requests: list[DraftRequest]) -> dict[int, list[int]]:
        """The most probable next tokens by slot. None for a sequence that is not computed yet or contains media."""
        try:
            return self._draft(requests)
        except BaseException:
            self._dirty.update(range(len(self._computed)))
            raise

    def _draft(self, requests: list[DraftRequest]) -> dict[int, list[int]]:
        begin = time.perf_counter()
        drafts: dict[int, list[int]] = {}
        rows = self._prefill_rows(requests)
        limits = {request.slot: request.limit for request in requests}
        while rows:
            self._runner.decode(rows)
            next_rows = []
            for number, row in enumerate(rows):
                self._computed[row.sequence].append(row.token)
                if row.wants_logits:
                    token = self._runner.top_token(number)
                    draft = drafts.setdefault(row.sequence, [])
                    draft.append(token)
                    if len(draft) < limits[row.sequence]:
                        next_rows.append(BatchToken(token, row.position + 1, row.sequence, True))
            rows = next_rows
        if drafts:
            seconds = time.perf_counter() - begin
            self.token_seconds = moving_average(self.token_seconds, seconds / sum(map(len, drafts.values())))
        return drafts

    def _prefill_rows(self, requests: list[DraftRequest]) -> list[BatchToken]:
        """The tokens of these sequences that are not computed yet, as many as fit into a step."""
        rows: list[BatchToken] = []
        self._make_room(requests)
        for slot, items, limit in requests:
            kept = min(common_prefix(self._computed[slot], items), len(items) - 1)
            kept = self._truncate(slot, kept)
            tokens = [item for item in items[kept : kept + MAX_PREFILL_ROWS - len(rows)] if isinstance(item, int)]
            free = self._cells - sum(map(len, self._computed)) - len(rows) - limit
            if len(tokens) == min(len(items) - kept, MAX_PREFILL_ROWS - len(rows)) <= free:
                rows += [
                    BatchToken(token, kept + i, slot, kept + i == len(items) - 1) for i, token in enumerate(tokens)
                ]
        return rows

    def _make_room(self, requests: list[DraftRequest]) -> None:
        """Empties the slots without a request, if all together would not fit."""
        requested = {request.slot for request in requests}
        needed = sum(len(request.items) + request.limit for request in requests)
        if needed + sum(map(len, self._computed)) > self._cells:
            for slot in range(len(self._computed)):
                if slot not in requested:
                    self._truncate(slot, 0)

    def _truncate(self, slot: int, count: int) -> int:
        """Removes all but the first `count` items of a slot; all of them if it is dirty. Returns how many are left."""
        if slot in self._dirty:
            self._runner.truncate(slot, 0)
            self._dirty.discard(slot)
            self._computed[slot] = []
            return 0
        if count < len(self._computed[slot]):
            self._runner.truncate(slot, count)
            del self._computed[slot][count:]
        return count
