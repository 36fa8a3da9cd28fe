"""Decides which sequences hold a slot and which rows go into the next step. Pure policy: no clock, thread or ctypes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..values import MediaSpan, Row, count_cells
from .sequence import Sequence

SHARED_PREFILL = 128
"""Prompt rows in a step that others wait for: a quarter of a full batch, so that a long prompt does not freeze them."""

HEADROOM = 32
"""Cells kept free for each running answer when another is admitted, lest it be set aside again at once."""


@dataclass(frozen=True, slots=True)
class TokenStep:
    """Token rows, and for each sequence that gets an answer token the row its logits stand in."""

    rows: list[Row]
    answers: list[tuple[int, Sequence]]
    adapters: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MediaStep:
    sequence: Sequence
    media: MediaSpan
    position: int

    @property
    def adapters(self) -> tuple[float, ...]:
        return self.sequence.adapters


class Scheduler:
    """Sequences wait in order of arrival, run in slots, and share `cells` tokens of KV cache.

    The cache may be promised more than once over: when it runs full, the youngest sequence is set aside and computed
    again later, its answer so far kept.
    """

    def __init__(self, slots: int, cells: int, batch: int) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._free_slots = list(range(slots))[::-1]
        self._cells = cells
        self._batch = batch
        self._media_last: dict[tuple[float, ...], bool] = {}

    @property
    def sequences(self) -> list[Sequence]:
        return [*self.running, *self.waiting]

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> int | None:
        """Takes a sequence out; returns the slot whose cells are now free, if it held one."""
        if sequence in self.running:
            self.running.remove(sequence)
            return self._free(sequence)
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        return None

    def admit(self) -> None:
        """Gives free slots to the first in line, as long as their prompts fit beside what is computed already."""
        while self.waiting and self._free_slots:
            sequence = self.waiting[0]
            ahead = HEADROOM * (len(self.running) + 1)
            if self.running and self._promised() + count_cells(sequence.pending) + ahead > self._cells:
                return
            self.waiting.popleft()
            sequence.slot = self._free_slots.pop()
            self.running.append(sequence)

    def make_room(self) -> list[int]:
        """Sets the youngest sequences aside until the next step fits; returns the slots to clear."""
        cleared = []
        while len(self.running) > 1 and self._promised() + len(self.running) > self._cells:
            youngest = self.running.pop()
            cleared.append(self._free(youngest))
            youngest.rewind()
            self.waiting.appendleft(youngest)
        return cleared

    def plan(self) -> TokenStep | MediaStep | None:
        """The next step. Token rows and media take turns, because llama.cpp takes one kind at a time; so do sequences
        under different adapters, because it applies them to a whole step."""
        if not self.running:
            return None
        adapters, media_last = self._take_turn()
        group = [s for s in self.running if s.adapters == adapters]
        media = next((s for s in group if s.next_media is not None), None)
        tokens = any(s.next_media is None for s in group)
        self._media_last[adapters] = media is not None and not (media_last and tokens)
        if media is not None and self._media_last[adapters]:
            position = media.position
            return MediaStep(media, media.take_media(), position)
        return self._token_step(group)

    def _take_turn(self) -> tuple[tuple[float, ...], bool]:
        """The adapters that have waited longest, and whether their last step was media."""
        present = dict.fromkeys(s.adapters for s in self.running)
        waited = {adapters: last for adapters, last in self._media_last.items() if adapters in present}
        self._media_last = waited | {adapters: False for adapters in present if adapters not in waited}
        adapters = next(iter(self._media_last))
        return adapters, self._media_last.pop(adapters)

    def _token_step(self, group: list[Sequence]) -> TokenStep:
        step = TokenStep([], [], group[0].adapters)
        decoding = [s for s in group if s.decoding]
        shared = any(s.decoding for s in self.running)
        for sequence in decoding:
            _append(step, sequence, 1)
        budget = min(SHARED_PREFILL, self._batch - len(decoding)) if shared else self._batch
        for sequence in group:
            if budget > 0 and sequence not in decoding and sequence.next_media is None:
                budget -= _append(step, sequence, budget)
        return step

    def _promised(self) -> int:
        """Cells that the running sequences hold or will hold once their prompts are computed."""
        return sum(s.cells + count_cells(s.pending) for s in self.running)

    def _free(self, sequence: Sequence) -> int:
        assert sequence.slot is not None
        self._free_slots.append(sequence.slot)
        return sequence.slot


def _append(step: TokenStep, sequence: Sequence, limit: int) -> int:
    assert sequence.slot is not None
    position = sequence.position
    tokens, answers = sequence.take_tokens(limit)
    step.rows.extend(Row(token, position + i, sequence.slot, False) for i, token in enumerate(tokens))
    if answers:
        step.rows[-1] = step.rows[-1]._replace(wants_logits=True)
        step.answers.append((len(step.rows) - 1, sequence))
    return len(tokens)
