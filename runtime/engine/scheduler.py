"""Decides which sequences hold a slot and which rows go into the next step. Pure policy: no clock, thread or ctypes."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from ...models.capacity.throughput import TILE, chunk
from ..cache.prefix_cache import CachedPrefix, PrefixCache
from ..speculative.acceptance import MAX_DRAFT_TOKENS, DraftLengthPolicy, DraftProposal
from ..speculative.draft_model import MAX_DRAFTED, DraftModel, DraftRequest
from ..types.prompt import BatchToken, Item, MediaSpan, common_prefix, count_cells
from . import attention_tiles
from .sequence import Sequence
from .slots import Slot, cells_taken

TOGETHER = 128
"""Prompt rows from which on a step takes no further prompt: more are hardly faster, and the first come first."""

BREATH = 8
"""So many steps read prompts beside answers, then one is of answers alone: what that takes tells how much of a prompt
fits beside them, and a machine may have become busy since."""

RETREAD = 16
"""Items at the end of a prompt that are computed again where a recurrent model's memory is taken up: the next turn may
show the beginning of the answer differently, such as without its reasoning."""

HEADROOM = 32
"""Cells kept free for each running answer when another is admitted, lest it be set aside again at once."""


class SampleRow(NamedTuple):
    """A sequence that gets an answer token from the logits of `row`, and one more for each guess that is right.

    The guessed tokens follow in the next rows; `drafted` says whether the draft model made them.
    """

    row: int
    sequence: Sequence
    guess: list[int]
    drafted: bool = False


class PromptLogprob(NamedTuple):
    """The token at a `place` of a prompt is to be told; the logits of `row` say how probable it was."""

    row: int
    sequence: Sequence
    place: int


@dataclass(frozen=True, slots=True)
class TokenStep:
    """Token rows, and the recitals and answers they lead to."""

    rows: list[BatchToken]
    recitals: list[PromptLogprob]
    answers: list[SampleRow]
    prompt_rows: int
    adapters: tuple[float, ...]

    @property
    def guessed_rows(self) -> int:
        return sum(len(answer.guess) for answer in self.answers)


@dataclass(frozen=True, slots=True)
class MediaStep:
    sequence: Sequence
    media: MediaSpan
    position: int

    @property
    def adapters(self) -> tuple[float, ...]:
        return self.sequence.adapters


@dataclass(frozen=True, slots=True)
class SlotAssignment:
    """A sequence's new slot, and where its first `shared` items are computed already; `kept` of them are used."""

    sequence: Sequence
    slot: Slot
    source: Slot | CachedPrefix | None
    shared: int
    kept: int


class Scheduler:
    """Sequences wait in order of arrival, run in slots, and share `cells` tokens of KV cache. Those in the background
    wait behind all others, and run only while there are no others.

    A slot keeps what it holds until another sequence needs the place: one that begins alike continues it. The cache
    may be promised more than once over: when it runs full, idle slots are cleared, then the youngest sequences set
    aside, to be continued from `states` or computed again. `divisible` says whether a slot's end can be cut off;
    recurrent models can only be continued where they stand. At most `outputs` rows of a step have logits.
    """

    def __init__(
        self,
        slots: int,
        cells: int,
        batch: int,
        states: PrefixCache,
        divisible: bool = True,
        drafter: DraftModel | None = None,
        outputs: int | None = None,
    ) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.short_prefill = self.long_prefill = batch
        """Rows of short and long prompts at most in a step that running answers wait for; set by whoever measures how
        long they take."""
        self.attention = 0.0
        """What a row's attention to each token before it takes of its matrices' time, in `tiles`; set by whoever knows
        the model."""
        self.odds = DraftLengthPolicy()
        self._slots = [Slot(number) for number in range(slots)]
        self._cells = cells
        self._batch = batch
        self._outputs = outputs or batch
        self._states = states
        self._divisible = divisible
        self._drafter = drafter
        self._mixed = 0
        self._turns: dict[tuple[tuple[float, ...], bool], int] = {}
        self._count = itertools.count(1)

    @property
    def sequences(self) -> list[Sequence]:
        return [*self.running, *self.waiting]

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    @property
    def idle_slots(self) -> list[Slot]:
        """Slots that hold something although nobody has them."""
        return [slot for slot in self._slots if slot.owner is None and slot.items]

    def add(self, sequence: Sequence) -> None:
        behind = len(self.waiting) if sequence.background else self._waiting_in_front()
        self.waiting.insert(behind, sequence)

    def _waiting_in_front(self) -> int:
        """How many of those that wait are not in the background."""
        return sum(not sequence.background for sequence in self.waiting)

    def remove(self, sequence: Sequence) -> Slot | None:
        """Takes a sequence out; returns the slot it leaves, with all that is computed there."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return None
        self.running.remove(sequence)
        slot = sequence.slot
        assert slot is not None
        slot.owner = sequence.slot = None
        slot.last_used = next(self._count)
        return slot

    def admit(self) -> SlotAssignment | None:
        """A slot for the first in line, if there is one and its prompt fits beside what is running."""
        free = [slot for slot in self._slots if slot.owner is None]
        if not self.waiting or not free:
            return None
        sequence = self.waiting[0]
        if sequence.background and not all(s.background for s in self.running):
            return None
        source, shared = self._best_source(sequence.items, sequence.adapters) if sequence.reuse else (None, 0)
        kept = self._used(sequence.items, shared)
        if self.running:
            runs = [run for s in self.running if s.slot for run in s.slot.runs]
            common = source.runs if isinstance(source, Slot) and source.owner else []
            new = count_cells(sequence.items[kept:] if common else sequence.items)
            ahead = HEADROOM * (len(self.running) + 1)
            if cells_taken(runs) + self._pending() + new + ahead > self._cells:
                return None
        return SlotAssignment(sequence, self._place(free, source, shared), source, shared, kept)

    def known(self, items: list[Item], adapters: tuple[float, ...]) -> int:
        """Cells of a prompt that need not be computed, were it to come now."""
        return count_cells(items[: self._used(items, self._best_source(items, adapters)[1])])

    def _used(self, items: list[Item], shared: int) -> int:
        """How many of the items computed already are used: fewer where few others would be computed without a tile."""
        alone = self._divisible and self._batch >= TILE and not any(s.decoding for s in self.running)
        return attention_tiles.kept(items, shared, self.attention) if alone and shared and self.attention else shared

    def _best_source(self, items: list[Item], adapters: tuple[float, ...]) -> tuple[Slot | CachedPrefix | None, int]:
        """Where most of some items is computed already; the last one never counts, since its logits are wanted."""
        wanted = items[:-1]
        source: Slot | CachedPrefix | None
        source, most = self._states.best(wanted, adapters)
        for slot in self._slots:
            if slot.owner is not None and not slot.owner.reuse:
                continue
            shared = common_prefix(slot.items, wanted) if slot.adapters == adapters else 0
            if shared >= most and shared and (self._divisible or shared == len(slot.items)):
                source, most = slot, shared
        return source, most

    @staticmethod
    def _place(free: list[Slot], source: Slot | CachedPrefix | None, kept: int) -> Slot:
        """The source itself where nothing of it is lost; else the slot that was used least recently."""
        if isinstance(source, Slot) and source.owner is None and len(source.items) == kept:
            return source
        others = [slot for slot in free if slot is not source] or free
        return min(others, key=lambda slot: slot.last_used if slot.items else -1)

    def seated(self, seat: SlotAssignment, kept: int) -> None:
        """Notes that a sequence holds its slot, with `kept` of its items computed there."""
        runs = seat.source.runs if isinstance(seat.source, Slot) else ()
        seat.slot.take(seat.sequence.items[:kept], tuple(runs))
        self.waiting.remove(seat.sequence)
        seat.slot.adapters = seat.sequence.adapters
        seat.slot.owner, seat.sequence.slot = seat.sequence, seat.slot
        self.running.append(seat.sequence)
        if not self._divisible and seat.sequence.reuse:
            seat.sequence.checkpoints = self._checkpoints(seat.sequence, kept)

    def _checkpoints(self, sequence: Sequence, kept: int) -> list[int]:
        """Where others may want to go on from: shortly before the end, and where an earlier prompt went another way."""
        known = self._states.common(sequence.items[:-1], sequence.adapters)
        for slot in self._slots:
            if slot is not sequence.slot and slot.adapters == sequence.adapters:
                known = max(known, common_prefix(slot.items, sequence.items[:-1]))
        return sorted({n for n in (known, len(sequence.items) - RETREAD) if n > kept})

    def yielding(self) -> Slot | None:
        """The slot to clear next because it is worked on in the background, and there is other work."""
        if all(s.background for s in self.sequences):
            return None
        return next((s.slot for s in self.running if s.background), None)

    def overfull(self) -> Slot | None:
        """The slot to clear next, while what is running does not fit: the oldest idle one, else the youngest's."""
        if self._free_cells() >= 0:
            return None
        if self.idle_slots:
            return min(self.idle_slots, key=lambda slot: slot.last_used)
        return self.running[-1].slot if len(self.running) > 1 else None

    def clear(self, slot: Slot) -> None:
        """Notes that a slot holds nothing any more. Its owner, if it has one, waits to go on, first of its kind."""
        owner = slot.owner
        if owner is not None:
            self.remove(owner)
            self.waiting.insert(self._waiting_in_front() if owner.background else 0, owner)
        slot.take(())

    def plan(self) -> TokenStep | MediaStep | None:
        """The next step. Token rows and media take turns, because llama.cpp takes one kind at a time; so do sequences
        under different adapters, because it applies them to a whole step."""
        kinds: dict[tuple[tuple[float, ...], bool], list[Sequence]] = {}
        for sequence in self.running:
            media = sequence.next_media
            if media is None or media.payload.ready:
                kinds.setdefault((sequence.adapters, media is not None), []).append(sequence)
        if not kinds:
            return None
        kind = min(kinds, key=lambda kind: self._turns.get(kind, 0))
        self._turns = {k: turn for k, turn in self._turns.items() if k in kinds} | {kind: next(self._count)}
        sequence = kinds[kind][0]
        if sequence.next_media is None:
            return self._token_step(kinds[kind])
        assert sequence.slot is not None
        return MediaStep(sequence, sequence.next_media, sequence.slot.position)

    def _token_step(self, group: list[Sequence]) -> TokenStep:
        rows: list[BatchToken] = []
        answers: list[SampleRow] = []
        decoding = [s for s in group if s.decoding]
        awaited = any(s.decoding for s in self.running)
        guesses = self._guesses(decoding) if len(decoding) == len(group) else {}
        for sequence in decoding:
            _append(rows, answers, sequence, 1, guesses.get(sequence, []), not sequence.echo.found)
        read = 0
        recitals: list[PromptLogprob] = []
        unused = self._outputs - len(group)  # each of them may come to an answer
        reading = [] if decoding and self._mixed >= BREATH else [s for s in group if s not in decoding]
        for sequence in reading:
            if read >= TOGETHER:
                break
            most = self._batch - len(rows)
            if awaited:
                most = min(most, (self.long_prefill if sequence.is_long else self.short_prefill) - read)
            most = chunk(len(sequence.items) - sequence.done, most, self._batch - len(rows))
            if sequence.recited is not None:
                most = min(most, unused + 1)
            if most > 0:
                recited = _recitals(sequence, len(rows), most)
                recitals += recited
                unused -= len(recited)
                read += _append(rows, answers, sequence, most, [])
        for recital in recitals:
            rows[recital.row] = rows[recital.row]._replace(wants_logits=True)
        self._mixed = self._mixed + 1 if decoding and read else 0
        return TokenStep(rows, recitals, answers, read, group[0].adapters)

    def _guesses(self, decoding: list[Sequence]) -> dict[Sequence, list[int]]:
        """What is worth guessing of each sequence, in the room that is left over.

        Not of one that takes nothing from others: its numbers must not depend on how long steps took.
        """
        may_guess = [s for s in decoding if s.reuse and (s.echo.found or self._drafter)] if self._divisible else []
        room = min(MAX_DRAFT_TOKENS, self._batch - len(decoding), self._free_cells()) if may_guess else 0
        if room <= 0:
            return {}
        echoes = {s: s.echo.guess(min(room, s.max_tokens - s.answered - 1)) for s in may_guess if s.echo.found}
        offers = [self._offer(s, echoes.get(s), room) for s in may_guess]
        lengths = dict(zip(may_guess, self.odds.lengths(len(decoding), offers, room), strict=True))
        return {s: guess[: lengths[s]] for s, guess in echoes.items()} | self._drafts(
            {s: length for s, length in lengths.items() if s not in echoes}
        )

    def _offer(self, sequence: Sequence, echo: list[int] | None, room: int) -> DraftProposal:
        if echo is not None:
            return DraftProposal(len(echo), sequence.echo.chance)
        assert self._drafter is not None
        most = min(room, MAX_DRAFTED, sequence.max_tokens - sequence.answered - 1)
        return DraftProposal(most, sequence.trust.chance, self._drafter.cost)

    def _drafts(self, lengths: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        """The draft model's guesses, so many for each sequence."""
        wishes = []
        for sequence, length in lengths.items():
            if length > 0 and sequence.slot is not None:
                wishes.append(DraftRequest(sequence.slot.number, sequence.items, length))
            else:
                sequence.trust.rested()
        drafts = self._drafter.guess(wishes) if self._drafter and wishes else {}
        return {s: drafts.get(s.slot.number, []) for s in lengths if s.slot is not None}

    @property
    def taken(self) -> int:
        """Cells in use."""
        return cells_taken([run for slot in self._slots for run in slot.runs])

    def _free_cells(self) -> int:
        """Cells left when each running sequence has all it holds of prompt and answer, and one token more."""
        return self._cells - self.taken - self._pending() - len(self.running)

    def _pending(self) -> int:
        """Cells that the running sequences still need for what they hold of prompt and answer."""
        return sum(s.pending_cells for s in self.running)


def _recitals(sequence: Sequence, row: int, limit: int) -> list[PromptLogprob]:
    """What the next rows of a sequence, from the number `row` on, say of the tokens behind them."""
    places = range(sequence.done + 1, sequence.done + len(sequence.next_tokens(limit)) + 1)
    return [PromptLogprob(row + i, sequence, place) for i, place in enumerate(places) if sequence.recites(place)]


def _append(
    rows: list[BatchToken],
    answers: list[SampleRow],
    sequence: Sequence,
    limit: int,
    guess: list[int],
    drafted: bool = False,
) -> int:
    slot = sequence.slot
    assert slot is not None
    tokens = sequence.next_tokens(limit)
    last = sequence.done + len(tokens) == len(sequence.items)
    rows.extend(BatchToken(token, slot.position + i, slot.number, False) for i, token in enumerate(tokens))
    if last:
        rows[-1] = rows[-1]._replace(wants_logits=True)
        answers.append(SampleRow(len(rows) - 1, sequence, guess, drafted))
    slot.extend(tokens)
    rows.extend(BatchToken(token, slot.position + i, slot.number, True) for i, token in enumerate(guess))
    slot.extend(guess)
    return len(tokens)
