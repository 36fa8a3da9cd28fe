"""One request inside the engine: its prompt, its answer's tokens and text, and the slot with its computed cells."""

from __future__ import annotations

import codecs
import collections.abc
import itertools
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import takewhile
from math import inf
from typing import Any, NamedTuple

from ..speculative.drafting import AcceptanceRate, NgramProposer
from ..types.events import Delta, Finished, FinishReason, Sink, Timings, TokenLogprob, Usage
from ..types.prompt import RELEASED_PAYLOAD, Item, MediaSpan, Prompt, count_cells, count_positions

LONG_PROMPT_CELLS = 512
"""A prompt with more uncomputed cells than this counts as long: it would delay other answers noticeably."""

_range_ids = itertools.count()


class CellRange(NamedTuple):
    """Cells `begin` to `end` of a slot that were computed together. Slots that share cells share the range's `id`."""

    id: int
    begin: int
    end: int


@dataclass(eq=False, slots=True)
class Slot:
    """One of llama.cpp's sequences. Keeps its items after its owner has left, so that others can continue them.

    The cells of a `dirty` slot could not be removed: nothing in it can be reused, but its ranges still count.
    """

    number: int
    owner: Sequence | None = None
    adapters: tuple[float, ...] = ()
    items: list[Item] = field(default_factory=list)
    ranges: list[CellRange] = field(default_factory=list)
    cells: int = 0
    position: int = 0
    last_used: int = 0
    dirty: bool = False

    def extend(self, items: Iterable[Item]) -> None:
        """Records that further items were computed."""
        if not self.ranges:
            self.ranges.append(CellRange(next(_range_ids), 0, 0))
        for item in items:
            self.items.append(_without_payload(item))
            self.cells += 1 if isinstance(item, int) else item.cells
            self.position += 1 if isinstance(item, int) else item.positions
        self.ranges[-1] = self.ranges[-1]._replace(end=self.cells)

    def truncate(self, count: int) -> None:
        """Records that only `count` items are left. The removed ones must be tokens of the last range."""
        removed = len(self.items) - count
        del self.items[count:]
        self.cells -= removed
        self.position -= removed
        self.ranges[-1] = self.ranges[-1]._replace(end=self.cells)

    def fill(self, items: collections.abc.Sequence[Item], ranges: Iterable[CellRange] = ()) -> None:
        """Records that the slot holds these items. It shares the cells of `ranges`; what is added later is its own."""
        self.items = [_without_payload(item) for item in items]
        self.cells, self.position = count_cells(items), count_positions(items)
        self.ranges = [cells._replace(end=min(cells.end, self.cells)) for cells in ranges if cells.begin < self.cells]
        shared_end = self.ranges[-1].end if self.ranges else 0
        if shared_end < self.cells:
            self.ranges.append(CellRange(next(_range_ids), shared_end, self.cells))
        self.ranges.append(CellRange(next(_range_ids), self.cells, self.cells))


def _without_payload(item: Item) -> Item:
    """Media without its payload: a slot only compares items, and may keep them for a long time."""
    return item if isinstance(item, int) else replace(item, payload=RELEASED_PAYLOAD)


def cells_in_use(ranges: Iterable[CellRange]) -> int:
    """Cells that these ranges take together, counting shared ones once."""
    longest: dict[int, int] = {}
    for cells in ranges:
        longest[cells.id] = max(longest.get(cells.id, 0), cells.end - cells.begin)
    return sum(longest.values())


class Detokenizer:
    """`feed` takes bytes and returns the text that is certain; `finish` returns what was held back.

    The result does not depend on how the bytes were split. The text ends before the stop string that is completed
    first, or before the longest one if several end at the same place.
    """

    def __init__(self, stop: Iterable[str] = ()) -> None:
        self._stop = tuple(stop)
        self._first_characters = frozenset(text[0] for text in self._stop)
        self._longest_stop = max(map(len, self._stop), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped_by: str | None = None
        """The stop string that ended the text."""
        self.cut_bytes = 0
        """Bytes at the end of the input that are not in the text: the stop string and whatever follows it."""

    @property
    def stopped(self) -> bool:
        return self.stopped_by is not None

    def feed(self, data: bytes) -> str:
        if self.stopped:
            return ""
        self._held += self._decoder.decode(data)
        return self._release()

    def finish(self) -> str:
        """Returns the rest of the text. An incomplete character becomes U+FFFD."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        text = self._release()
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self) -> str:
        stop = self._first_stop()
        if stop is not None:
            cut, self.stopped_by = stop
            self.cut_bytes = len(self._held[cut:].encode())
            text, self._held = self._held[:cut], ""
            return text
        split = len(self._held) - self._possible_stop_length()
        text, self._held = self._held[:split], self._held[split:]
        return text

    def _first_stop(self) -> tuple[int, str] | None:
        """The start of the stop string that is completed first, and the string."""
        if self._first_characters.isdisjoint(self._held):
            return None
        matches = [(at + len(stop), at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        return min(matches)[1:] if matches else None

    def _possible_stop_length(self) -> int:
        """Length of the longest suffix of the held text that may be the start of a stop string."""
        for length in range(min(self._longest_stop - 1, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if tail[0] in self._first_characters and any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0


@dataclass(eq=False, slots=True)
class Sequence:
    """Belongs to the engine's thread. Only the runner understands `sampler` and the payload of media.

    `items` are those of the prompt and of the answer so far; together they take `cells`. The first ones are computed
    in `slot`, under the adapter strengths `adapters`. Prefill pauses at each of the `checkpoints`, counts of items, so
    that the slot can be saved there. `pending_logprobs` belong to tokens whose text is still held back. Of the
    prompt's log-probabilities, those before the item `next_logprob` have been collected in `prompt_logprobs`.
    `arrived_at` and `deadline` are times of `time.perf_counter`.
    """

    prompt: Prompt
    sampler: Any
    max_tokens: int
    end_tokens: frozenset[int]
    detokenizer: Detokenizer
    sink: Sink
    prepared_at: float
    arrived_at: float
    reuse: bool = True
    background: bool = False
    client: str = ""
    adapters: tuple[float, ...] = ()
    deadline: float = inf
    checkpoints: list[int] = field(default_factory=list)
    pending_logprobs: list[TokenLogprob] = field(default_factory=list)
    items: list[Item] = field(init=False)
    cells: int = field(init=False)
    next_logprob: int | None = field(init=False)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    ngram: NgramProposer = field(init=False)
    draft_acceptance: AcceptanceRate | None = None
    slot: Slot | None = None
    cached_cells: int | None = None
    generated: int = 0
    emitted: int = 0
    drafted: int = 0
    accepted: int = 0
    first_token_at: float | None = None
    ended: bool = False

    def __post_init__(self) -> None:
        self.items = list(self.prompt.items)
        self.cells = self.prompt.cells
        self.ngram = NgramProposer(self.items)
        self.next_logprob = self.prompt.logprobs_from

    @property
    def computed(self) -> int:
        """How many items are computed."""
        return 0 if self.slot is None else len(self.slot.items)

    @property
    def pending_cells(self) -> int:
        """Cells that the items not computed yet will take."""
        return self.cells - (0 if self.slot is None else self.slot.cells)

    @property
    def has_long_prompt(self) -> bool:
        return self.cells - (self.cached_cells or 0) > LONG_PROMPT_CELLS

    @property
    def next_media(self) -> MediaSpan | None:
        item = self.items[self.computed]
        return item if isinstance(item, MediaSpan) else None

    @property
    def is_decoding(self) -> bool:
        """Whether only the last sampled token is still to be computed."""
        return self.computed == len(self.items) - 1 and self.next_media is None

    @property
    def slot_number(self) -> int:
        assert self.slot is not None
        return self.slot.number

    @property
    def max_draft_tokens(self) -> int:
        """Draft tokens that the answer can still take, with one sampled token after them."""
        return self.max_tokens - self.generated - 1

    def next_tokens(self, limit: int) -> list[int]:
        """The next tokens to compute, at most `limit`, up to the next checkpoint or media."""
        stop = min((c for c in self.checkpoints if c > self.computed), default=len(self.items))
        ahead = self.items[self.computed : min(self.computed + limit, stop)]
        return list(takewhile(lambda item: isinstance(item, int), ahead))  # type: ignore[arg-type]

    def wants_logprob(self, index: int) -> bool:
        """Whether the log-probability of this item, a token of the prompt, is still to be collected."""
        return self.next_logprob is not None and self.next_logprob <= index < len(self.prompt.items)

    def append(self, token: int) -> None:
        """Adds a sampled token."""
        self.items.append(token)
        self.cells += 1
        self.ngram.add(token)
        self.generated += 1

    def take_text(self, piece: bytes, is_end: bool) -> tuple[Delta | None, FinishReason | None]:
        """Adds a token's bytes to the text. Returns the text that can be sent now, and why the answer ends, if so."""
        detokenizer = self.detokenizer
        text = "" if is_end else detokenizer.feed(piece)
        reason: FinishReason | None = None
        if is_end or detokenizer.stopped:
            reason = "stop"
        elif self.generated >= self.max_tokens:
            reason = "length"
        if reason is not None:
            text += detokenizer.finish()
            reason = "stop" if detokenizer.stopped else reason
        logprobs = self._take_logprobs() if text or reason else ()
        if not text and not logprobs:
            return None, reason
        delta = Delta(text, self.generated - self.emitted, logprobs)
        self.emitted = self.generated
        return delta, reason

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        """The pending log-probabilities, without those of tokens that a stop string cut off entirely."""
        if not self.pending_logprobs:
            return ()
        cut_bytes = self.detokenizer.cut_bytes
        while self.pending_logprobs and len(self.pending_logprobs[-1].token) <= cut_bytes:
            cut_bytes -= len(self.pending_logprobs.pop().token)
        taken, self.pending_logprobs = tuple(self.pending_logprobs), []
        return taken

    def finished(self, reason: FinishReason) -> Finished:
        """The final event, with usage and timings up to now."""
        assert self.first_token_at is not None
        usage = Usage(
            prompt_tokens=self.prompt.cells,
            completion_tokens=self.generated,
            cached_tokens=self.cached_cells or 0,
            image_tokens=self.prompt.media_cells("image"),
            audio_tokens=self.prompt.media_cells("audio"),
            accepted_draft_tokens=self.accepted,
            rejected_draft_tokens=self.drafted - self.accepted,
        )
        timings = Timings(
            prompt_seconds=self.prepared_at - self.arrived_at,
            first_token_seconds=self.first_token_at - self.arrived_at,
            total_seconds=time.perf_counter() - self.arrived_at,
        )
        return Finished(reason, usage, timings, self.detokenizer.stopped_by)


def place_in_turn(client: str, running: Iterable[Sequence], waiting: Iterable[Sequence], returns: bool = False) -> int:
    """Queue index of the client's next sequence: behind its own, and behind as many of each other client.

    With `returns`, the sequence was preempted, and goes before the client's own.
    """
    others, turns = list(waiting), Counter(one.client for one in running)
    own, place = turns[client], len(others)
    if not returns:
        own += sum(one.client == client for one in others)
    for i, other in enumerate(others):
        if other.client == client:
            if returns:
                return min(place, i)
            place = len(others)
        elif turns[other.client] > own:
            place = min(place, i)
        turns[other.client] += 1
    return place


def sequence_to_yield(running: list[Sequence], first_waiting: Sequence) -> Sequence | None:
    """The youngest sequence of the client that runs the most, if that is at least two more than the waiting one's."""
    counts = Counter(one.client for one in running)
    most = max(counts.values(), default=0)
    if most - counts[first_waiting.client] < 2:
        return None
    return next(one for one in reversed(running) if counts[one.client] == most)
