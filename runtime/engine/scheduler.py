"""Decides which sequences hold a slot and which rows go into the next step. Pure policy: no clock, thread or ctypes."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..cache.prefix_cache import CachedPrefix
from ..speculative.drafting import MAX_DRAFT_TOKENS, Draft
from ..types.prompt import AttentionTile, BatchToken, Item, MediaSpan, common_prefix, count_cells
from .sequence import Sequence, Slot, cells_in_use, place_in_turn, sequence_to_yield
from .tuning import PrefillLimits, reuse_before_tile

ENOUGH_PREFILL_ROWS = 128
"""A step with this many prompt rows takes no further prompt: more rows are hardly more efficient, and prompts are
served in order."""

MAX_MIXED_STEPS = 8
"""After this many steps with both prompt and answer rows, one step has answer rows only. Its duration, which changes as
the machine becomes busy, determines how many prompt rows fit next to answers."""

RECURRENT_REPLAY_TOKENS = 16
"""Items at the end of a prompt that are recomputed when a recurrent model's state is reused: the next turn may render
the beginning of the answer differently, for example without its reasoning."""

HEADROOM_CELLS = 32
"""Cells kept free for each running answer when another is admitted, so that it is not preempted again at once."""


class SampleRow(NamedTuple):
    """A sequence that gets a token from the logits of `row`, and one more for each draft token that is right.

    The draft tokens follow in the next rows.
    """

    row: int
    sequence: Sequence
    draft: Draft


class PromptLogprobRow(NamedTuple):
    """The logits of `row` give the log-probability of the prompt's item `item_index`."""

    row: int
    sequence: Sequence
    item_index: int


@dataclass(frozen=True, slots=True)
class TokenStep:
    """Token rows of `sequences`, and what is read from their logits."""

    sequences: Collection[Sequence]
    rows: list[BatchToken]
    prompt_logprobs: list[PromptLogprobRow]
    samples: list[SampleRow]
    prompt_rows: int
    draft_rows: int
    adapters: tuple[float, ...]

    @property
    def answer_rows(self) -> int:
        return len(self.rows) - self.prompt_rows - self.draft_rows


@dataclass(frozen=True, slots=True)
class MediaStep:
    """An encoded image or audio clip of one sequence."""

    sequence: Sequence
    media: MediaSpan
    position: int


@dataclass(frozen=True, slots=True)
class SlotAssignment:
    """A slot for a sequence. The first `shared` items are already computed in `source`; `reused` of them are used."""

    sequence: Sequence
    slot: Slot
    source: Slot | CachedPrefix | None
    shared: int
    reused: int


class PrefixLookup(Protocol):
    """Finds saved prefixes."""

    def find(self, items: list[Item], adapters: tuple[float, ...]) -> tuple[CachedPrefix | None, int]: ...
    def longest_shared(self, items: list[Item], adapters: tuple[float, ...]) -> int: ...


_NO_DRAFT = Draft([], False)


class Scheduler:
    """Sequences wait, run in slots, and share `cells` of KV cache. Those of a client wait in order of arrival.
    Background sequences wait behind all others, and run only while there are no others. Clients that wait
    get as many slots as those that run.

    A slot keeps its content until another sequence needs it; a sequence with the same beginning continues it. The cells
    may be overcommitted: when they run out, idle slots are cleared, then the youngest sequences are preempted, to be
    restored from `prefixes` or recomputed. Without `partial_removal`, as in recurrent models, a
    slot can only be continued at its end. At most `outputs` rows of a step have logits.
    """

    def __init__(
        self,
        slots: list[Slot],
        cells: int,
        batch: int,
        prefixes: PrefixLookup,
        tile: AttentionTile,
        partial_removal: bool = True,
        outputs: int | None = None,
    ) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._slots = slots
        self._cells = cells
        self._batch = batch
        self._prefixes = prefixes
        self._partial_removal = partial_removal
        self._outputs = outputs or batch
        self._tile = tile
        self._may_recompute = partial_removal and tile.cost > 0 and batch >= tile.rows
        self._mixed_steps = 0
        self._turns: dict[tuple[tuple[float, ...], bool], int] = {}
        """When each kind of step was last chosen."""
        self._counter = itertools.count(1)

    @property
    def sequences(self) -> list[Sequence]:
        return [*self.running, *self.waiting]

    @property
    def idle_cells(self) -> int:
        """Cells of slots without an owner."""
        return sum(slot.cells for slot in self._slots if slot.owner is None)

    @property
    def cells_in_use(self) -> int:
        return cells_in_use([cells for slot in self._slots for cells in slot.ranges])

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence. Clients take turns, so that one with many requests does not delay another's single one."""
        self.waiting.insert(len(self.waiting) if sequence.background else self._place(sequence), sequence)

    def _place(self, sequence: Sequence, returns: bool = False) -> int:
        foreground = itertools.islice(self.waiting, self._waiting_foreground())
        return place_in_turn(sequence.client, self.running, foreground, returns)

    def _waiting_foreground(self) -> int:
        return sum(not sequence.background for sequence in self.waiting)

    def remove(self, sequence: Sequence) -> Slot | None:
        """Removes a sequence. Returns the slot it held, with everything computed there."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return None
        if sequence not in self.running:
            return None
        self.running.remove(sequence)
        slot = sequence.slot
        assert slot is not None
        slot.owner = sequence.slot = None
        slot.last_used = next(self._counter)
        return slot

    def preempt(self, slot: Slot) -> None:
        """Takes a slot, whose content is lost, from its owner, if any. The owner goes to the front of its queue, or,
        if its client yields the slot, behind as many sequences of each other client."""
        owner = slot.owner
        if owner is not None:
            yields = self._waiting_foreground() and owner is sequence_to_yield(self.running, self.waiting[0])
            self.remove(owner)
            place = self._place(owner, returns=True) if yields else 0
            self.waiting.insert(self._waiting_foreground() if owner.background else place, owner)

    def admit(self) -> SlotAssignment | None:
        """Assigns a slot to the first waiting sequence, if one is free and its prompt fits next to the running ones."""
        free = [slot for slot in self._slots if slot.owner is None]
        if not self.waiting or not free:
            return None
        sequence = self.waiting[0]
        if sequence.background and not all(s.background for s in self.running):
            return None
        source, shared = self._best_source(sequence.items, sequence.adapters) if sequence.reuse else (None, 0)
        reused = self._reusable(sequence.items, shared)
        if self.running:
            ranges = [cells for s in self.running if s.slot for cells in s.slot.ranges]
            shares_cells = isinstance(source, Slot) and source.owner and source.ranges
            new = count_cells(sequence.items[reused:] if shares_cells else sequence.items)
            headroom = HEADROOM_CELLS * (len(self.running) + 1)
            if cells_in_use(ranges) + self._pending_cells() + new + headroom > self._cells:
                return None
        return SlotAssignment(sequence, self._choose_slot(free, source, shared), source, shared, reused)

    def cached_cells(self, items: list[Item], adapters: tuple[float, ...]) -> int:
        """Cells of a prompt submitted now that need not be computed."""
        return count_cells(items[: self._reusable(items, self._best_source(items, adapters)[1])])

    def _reusable(self, items: list[Item], shared: int) -> int:
        """How many computed items to reuse: fewer if the rest is faster to compute as a whole attention tile."""
        if not self._may_recompute or not shared or any(s.is_decoding for s in self.running):
            return shared
        return reuse_before_tile(items, shared, self._tile)

    def _best_source(self, items: list[Item], adapters: tuple[float, ...]) -> tuple[Slot | CachedPrefix | None, int]:
        """The source that shares the most items, and how many. The last item does not count: its logits are needed."""
        wanted = items[:-1]
        source: Slot | CachedPrefix | None
        source, most = self._prefixes.find(wanted, adapters)
        for slot in self._slots:
            if slot.owner is not None and not slot.owner.reuse:
                continue
            shared = common_prefix(slot.items, wanted) if slot.adapters == adapters else 0
            if shared >= most and shared and (self._partial_removal or shared == len(slot.items)):
                source, most = slot, shared
        return source, most

    @staticmethod
    def _choose_slot(free: list[Slot], source: Slot | CachedPrefix | None, shared: int) -> Slot:
        """The source itself if all of it is reused, else the least recently used slot. Dirty slots come last."""
        if isinstance(source, Slot) and source.owner is None and len(source.items) == shared:
            return source
        others = [slot for slot in free if slot is not source] or free
        return min(others, key=lambda slot: (slot.dirty, slot.last_used if slot.items else -1))

    def assign(self, assignment: SlotAssignment, reused: int) -> None:
        """Records that a sequence holds its slot, with its first `reused` items computed there."""
        sequence, slot, source = assignment.sequence, assignment.slot, assignment.source
        slot.fill(sequence.items[:reused], tuple(source.ranges) if isinstance(source, Slot) else ())
        self.waiting.remove(sequence)
        slot.adapters = sequence.adapters
        slot.owner, sequence.slot = sequence, slot
        self.running.append(sequence)
        if not self._partial_removal and sequence.reuse:
            sequence.checkpoints = self._checkpoints(sequence, reused)

    def _checkpoints(self, sequence: Sequence, reused: int) -> list[int]:
        """Where other prompts may continue: shortly before the end, and where an earlier prompt differs."""
        shared = self._prefixes.longest_shared(sequence.items[:-1], sequence.adapters)
        for slot in self._slots:
            if slot is not sequence.slot and slot.adapters == sequence.adapters:
                shared = max(shared, common_prefix(slot.items, sequence.items[:-1]))
        return sorted({n for n in (shared, len(sequence.items) - RECURRENT_REPLAY_TOKENS) if n > reused})

    def slot_to_yield(self) -> Slot | None:
        """The slot of a background sequence, if there is other work, or of a client that yields one to another."""
        if all(s.background for s in self.sequences):
            return None
        yielding = next((s for s in self.running if s.background), None)
        if yielding is None and self._waiting_foreground() and len(self.running) == len(self._slots):
            yielding = sequence_to_yield(self.running, self.waiting[0])
        return yielding.slot if yielding else None

    def slot_to_clear(self) -> Slot | None:
        """A slot to clear because running sequences need its cells: the least recently used idle one, else that of the
        youngest sequence, unless it is the only one."""
        if self._free_cells() >= 0:
            return None
        idle = [slot for slot in self._slots if slot.owner is None and slot.items]
        if idle:
            return min(idle, key=lambda slot: slot.last_used)
        return self.running[-1].slot if len(self.running) > 1 else None

    def next_group(self) -> list[Sequence]:
        """The sequences that can share the next step; none if there is nothing to compute.

        Tokens and media take turns, because llama.cpp computes one kind at a time. So do sequences under different
        adapters, because llama.cpp applies adapters to a whole step.
        """
        groups: dict[tuple[tuple[float, ...], bool], list[Sequence]] = {}
        for sequence in self.running:
            media = sequence.next_media
            if media is None or media.payload.ready:
                groups.setdefault((sequence.adapters, media is not None), []).append(sequence)
        if not groups:
            return []
        kind = min(groups, key=lambda kind: self._turns.get(kind, 0))
        self._turns = {k: turn for k, turn in self._turns.items() if k in groups} | {kind: next(self._counter)}
        return groups[kind]

    def draft_room(self, group: list[Sequence]) -> int:
        """How many draft tokens fit into a step of these sequences. None fit next to prompt rows."""
        if not self._partial_removal or not all(s.is_decoding for s in group):
            return 0
        return min(MAX_DRAFT_TOKENS, self._batch - len(group), self._free_cells())

    def schedule(
        self, group: list[Sequence], drafts: Mapping[Sequence, Draft], limits: PrefillLimits
    ) -> TokenStep | MediaStep:
        """The next step, of a group from `next_group`. Its rows count as computed from now on."""
        media = group[0].next_media
        if media is not None:
            assert group[0].slot is not None
            return MediaStep(group[0], media, group[0].slot.position)
        step = _StepBuilder()
        decoding = [s for s in group if s.is_decoding]
        answers_wait = any(s.is_decoding for s in self.running)
        for sequence in decoding:
            step.add(sequence, 1, drafts.get(sequence, _NO_DRAFT))
        prefilling = [s for s in group if s not in decoding] if len(decoding) < len(group) else []
        if prefilling and not (decoding and self._mixed_steps >= MAX_MIXED_STEPS):
            free_outputs = self._outputs - len(group)  # each sequence may need one for its answer
            self._add_prompts(step, prefilling, free_outputs, limits if answers_wait else None)
        self._mixed_steps = self._mixed_steps + 1 if decoding and step.prompt_rows else 0
        return step.build(group[0].adapters)

    def _add_prompts(
        self, step: _StepBuilder, prefilling: list[Sequence], free_outputs: int, limits: PrefillLimits | None
    ) -> None:
        """Adds rows of prompts, within the `limits` if answers wait for the step."""
        for sequence in prefilling:
            if step.prompt_rows >= ENOUGH_PREFILL_ROWS:
                break
            room = limit = self._batch - len(step.rows)
            if limits is not None:
                most = limits.long_prompt_rows if sequence.has_long_prompt else limits.short_prompt_rows
                limit = min(limit, most - step.prompt_rows)
            limit = prefill_rows(len(sequence.items) - sequence.computed, limit, room, self._tile.rows)
            if sequence.next_logprob is not None:
                limit = min(limit, free_outputs + 1)
            if limit > 0:
                free_outputs -= step.add_prompt(sequence, limit)

    def _free_cells(self) -> int:
        """Cells left when each running sequence has those for its items so far and one more token."""
        return self._cells - self.cells_in_use - self._pending_cells() - len(self.running)

    def _pending_cells(self) -> int:
        """Cells that the running sequences still need for their prompts and answers so far."""
        return sum(s.pending_cells for s in self.running)


class _StepBuilder:
    """Collects the rows of a step, and records them in their slots."""

    def __init__(self) -> None:
        self.rows: list[BatchToken] = []
        self.prompt_rows = 0
        self._draft_rows = 0
        self._sequences: list[Sequence] = []
        self._prompt_logprobs: list[PromptLogprobRow] = []
        self._samples: list[SampleRow] = []

    def add(self, sequence: Sequence, limit: int, draft: Draft = _NO_DRAFT) -> int:
        """Adds the sequence's next tokens, followed by draft tokens; returns the number of the former."""
        rows, slot = self.rows, sequence.slot
        assert slot is not None
        tokens = sequence.next_tokens(limit)
        is_last = sequence.computed + len(tokens) == len(sequence.items)
        rows.extend(BatchToken(token, slot.position + i, slot.number, False) for i, token in enumerate(tokens))
        if is_last:
            rows[-1] = rows[-1]._replace(wants_logits=True)
            self._samples.append(SampleRow(len(rows) - 1, sequence, draft))
        slot.extend(tokens)
        if draft.tokens:
            drafts = enumerate(draft.tokens, slot.position)
            rows.extend(BatchToken(token, position, slot.number, True) for position, token in drafts)
            slot.extend(draft.tokens)
            self._draft_rows += len(draft.tokens)
        self._sequences.append(sequence)
        return len(tokens)

    def add_prompt(self, sequence: Sequence, limit: int) -> int:
        """Adds prompt tokens; returns how many of them need logits for prompt log-probabilities."""
        first_row, first_index = len(self.rows), sequence.computed + 1
        count = self.add(sequence, limit)
        self.prompt_rows += count
        if sequence.next_logprob is None:
            return 0
        wanted = [i for i in range(count) if sequence.wants_logprob(first_index + i)]
        for i in wanted:
            self.rows[first_row + i] = self.rows[first_row + i]._replace(wants_logits=True)
            self._prompt_logprobs.append(PromptLogprobRow(first_row + i, sequence, first_index + i))
        return len(wanted)

    def build(self, adapters: tuple[float, ...]) -> TokenStep:
        counts = self.prompt_rows, self._draft_rows
        return TokenStep(self._sequences, self.rows, self._prompt_logprobs, self._samples, *counts, adapters)


def prefill_rows(left: int, limit: int, room: int, tile_rows: int) -> int:
    """Chooses how many of a prompt's `left` rows go into a step of at most `limit`, so that its last step fills a tile.

    That may be fewer than `limit`. If `limit` is one tile and there is `room`, the step also takes the rows beyond
    whole tiles.
    """
    if limit >= left or limit < tile_rows:
        return min(left, limit)
    if limit == tile_rows:
        longer = tile_rows + left % tile_rows
        return longer if longer <= room else tile_rows
    return min(limit, left - tile_rows) if left >= 2 * tile_rows else limit
