"""Everything that calls the model runner for a sequence: its slot in the KV cache, its steps, and its sampled tokens.

Does not handle failures of requests: the engine ends the sequence for which something is raised here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Items

from ..cache.prefix_cache import MIN_CELLS, CachedPrefix, PrefixCache
from ..log import RecoveredErrors
from ..speculative.drafting import Drafter
from ..types.events import Event, Finished, Started
from ..types.prompt import Item, SampledToken, SavedState, count_positions
from . import prompt_logprobs
from .model_runner import ModelRunner
from .scheduler import MediaStep, PromptLogprobRow, SampleRow, SlotAssignment, TokenStep
from .sequence import Sequence, Slot
from .tuning import PrefillBudget, SavePolicy, ThreadTuner


class SinkError(Exception):
    """A request's sink raised an error, so its events can no longer be delivered."""


class KVCache:
    """Owns the slots, and keeps their bookkeeping and the runner's cells equal.

    Caching is an optimization: if saving, finding, reading or copying fails, only the cached content is lost, and
    `errors` records it.
    """

    def __init__(self, runner: ModelRunner, slots: int, prefix_cache: PrefixCache) -> None:
        self.slots = [Slot(number) for number in range(slots)]
        self.errors = RecoveredErrors()
        self.save_policy = SavePolicy()
        self._runner = runner
        self._prefixes = prefix_cache
        self._dirty: list[Slot] = []

    @property
    def saved_bytes(self) -> int:
        return self._prefixes.size

    def find(self, items: Items[Item], adapters: tuple[float, ...]) -> tuple[CachedPrefix | None, int]:
        """The saved prefix to restore for these items, and how many of them it holds."""
        if not self._prefixes.size and not self._prefixes.is_persistent:
            return None, 0
        try:
            return self._prefixes.find(items, adapters)
        except BaseException as error:
            self.errors.record("look for a cached prefix", error)
            return None, 0

    def longest_shared(self, items: Items[Item], adapters: tuple[float, ...]) -> int:
        """Length of the longest start of the items that some saved prefix shares."""
        try:
            return self._prefixes.longest_shared(items, adapters)
        except BaseException as error:
            self.errors.record("look for a cached prefix", error)
            return 0

    def prepare(self, assignment: SlotAssignment) -> int:
        """Fills a slot for its new owner; returns how many items need not be computed.

        Raises if the slot's old cells cannot be removed.
        """
        slot, source = assignment.slot, assignment.source
        data = self._read(source)  # before saving the slot can drop it
        if slot is not source or assignment.shared < len(slot.items):
            self.save(slot)
        if slot is not source:
            self._remove_cells(slot)
        position = count_positions(assignment.sequence.items[: assignment.reused])
        try:
            if self._load(slot, source, data, position):
                return assignment.reused
        except BaseException as error:
            self.errors.record("load a cached prefix", error)
        self._remove_cells(slot)
        return 0

    def _read(self, source: Slot | CachedPrefix | None) -> SavedState | None:
        try:
            return self._prefixes.read(source) if isinstance(source, CachedPrefix) else None
        except BaseException as error:
            self.errors.record("read a cached prefix", error)
            return None

    def _load(self, slot: Slot, source: Slot | CachedPrefix | None, data: SavedState | None, position: int) -> bool:
        """Brings the source's first cells into a slot."""
        if isinstance(source, CachedPrefix):
            if data is None or not self._runner.restore(slot.number, data):
                return False
        elif isinstance(source, Slot) and source is not slot:
            self._runner.copy(source.number, slot.number, position)
        self._runner.truncate(slot.number, position)
        return True

    def save(self, slot: Slot) -> None:
        """Saves a slot in host memory, if it may be reused and saving costs less than recomputing."""
        try:
            if slot.cells < MIN_CELLS or not self._prefixes.limit or self._prefixes.holds(slot.items, slot.adapters):
                return
            if self.save_policy.worth_saving():
                begin = time.perf_counter()
                data = self._runner.save(slot.number)
                self.save_policy.record_save(slot.cells, time.perf_counter() - begin)
                self._prefixes.add(CachedPrefix(list(slot.items), slot.adapters, data))
        except BaseException as error:
            self.errors.record("keep a prefix in the cache", error)

    def persist(self, slot: Slot) -> None:
        """Writes a slot to the disk cache, if there is one."""
        if not self._prefixes.is_persistent or slot.cells < MIN_CELLS:
            return
        try:
            self._prefixes.store(CachedPrefix(list(slot.items), slot.adapters, self._runner.save(slot.number)))
        except BaseException as error:
            self.errors.record("write a prefix to the cache folder", error)

    def save_and_clear(self, slot: Slot) -> None:
        """Empties a slot, saving its content first unless its owner does not take part in reuse."""
        if slot.owner is None or slot.owner.reuse:
            self.save(slot)
        self.discard(slot)

    def clear_idle(self) -> None:
        """Saves and empties the slots without an owner, because attention reads all cells in use, including theirs.

        A slot that would take more than half of the prefix cache stays.
        """
        largest = self._prefixes.limit / 2 / self._prefixes.cell_bytes
        for slot in self.slots:
            if slot.owner is None and slot.items and MIN_CELLS <= slot.cells <= largest:
                self.save_and_clear(slot)

    def truncate(self, slot: Slot, count: int) -> None:
        """Removes all but the first `count` items. If that fails, all content is discarded and the error raised."""
        try:
            slot.truncate(count)
            self._runner.truncate(slot.number, slot.position)
        except BaseException:
            self.discard(slot)
            raise

    def discard(self, slot: Slot) -> None:
        """Empties a slot without saving it. Never raises: if the cells cannot be removed now, `retry` removes them."""
        try:
            self._remove_cells(slot)
        except BaseException as error:
            self.errors.record("clear a slot of the KV cache", error)

    def retry(self) -> None:
        """Tries again to empty the dirty slots."""
        for slot in tuple(self._dirty):
            if slot.owner is None:
                self.discard(slot)

    def _remove_cells(self, slot: Slot) -> None:
        slot.items, slot.cells, slot.position = [], 0, 0
        try:
            self._runner.truncate(slot.number, 0)
        except BaseException:
            if not slot.dirty:
                slot.dirty = True
                self._dirty.append(slot)
            raise
        slot.ranges = []
        if slot.dirty:
            slot.dirty = False
            self._dirty.remove(slot)


class StepExecutor:
    """Computes and times steps, with the number of threads that `thread_tuner` chooses."""

    def __init__(
        self,
        runner: ModelRunner,
        kv_cache: KVCache,
        drafter: Drafter,
        threads: int,
        thread_tuner: ThreadTuner | None,
    ) -> None:
        self.threads = threads
        self.prefill_budget = PrefillBudget(runner.attention_tile)
        self._runner = runner
        self._save_policy = kv_cache.save_policy
        self._drafter = drafter
        self._thread_tuner = thread_tuner

    def start(self, sequence: Sequence) -> None:
        """Sends `Started`, unless the prompt's log-probabilities must be collected first."""
        if sequence.next_logprob is None or prompt_logprobs.collect_first(sequence, self._runner):
            self._send_started(sequence)

    def decode(self, step: TokenStep) -> float:
        """Computes a step; returns how many seconds that took. If it raises, the slots' content is uncertain."""
        answer_rows, prompt_rows, draft_rows = step.answer_rows, step.prompt_rows, step.draft_rows
        self._runner.use_adapters(step.adapters)
        if self._thread_tuner is not None:
            self.threads = self._thread_tuner.threads(answer_rows, prompt_rows, settled=draft_rows > 0)
            self._runner.use_threads(self.threads)
            self._drafter.use_threads(self.threads)
        begin, cpu_begin = time.perf_counter(), time.process_time()
        self._runner.decode(step.rows)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
        if not step.prompt_logprobs:  # steps with them are small, so each row costs more
            self.prefill_budget.record(answer_rows, prompt_rows, seconds)
            if prompt_rows and not answer_rows:
                self._save_policy.compute_seconds_per_cell = self.prefill_budget.row_seconds
        if self._thread_tuner is not None and not draft_rows:
            self._thread_tuner.record(answer_rows, prompt_rows, seconds, cpu_seconds)
        if not prompt_rows:
            self._drafter.policy.record(len(step.rows), seconds)
        return seconds

    def decode_media(self, step: MediaStep) -> None:
        """Computes an image or audio clip. If it raises, the slot's content is uncertain."""
        slot = step.sequence.slot
        assert slot is not None
        self._runner.use_adapters(step.sequence.adapters)
        self._runner.decode_media(step.media, step.position, slot.number)
        slot.extend([step.media])

    def collect_logprob(self, row: PromptLogprobRow) -> None:
        if not row.sequence.ended and prompt_logprobs.collect(row, self._runner):
            self._send_started(row.sequence)

    def sample(self, sample: SampleRow) -> Finished | None:
        """Samples a sequence's next token, and more as long as the draft tokens are right. Returns how it ended."""
        sequence, draft = sample.sequence, sample.draft
        if sequence.max_tokens == 0:
            sequence.first_token_at = time.perf_counter()
            return sequence.finished("length")
        sequence.drafted += len(draft.tokens)
        for row, expected in enumerate([*draft.tokens, None], sample.row):
            sampled = self._runner.sample(row, sequence.sampler)
            correct = sampled.token == expected
            sequence.accepted += correct
            if draft.from_model and expected is not None and sequence.draft_acceptance is not None:
                sequence.draft_acceptance.record(correct)
            end = self._advance(sequence, sampled)
            if end is not None or not correct:
                return end
        return None

    def _advance(self, sequence: Sequence, sampled: SampledToken) -> Finished | None:
        """Adds a token to an answer and sends the text that it completes. Returns how the answer ended, if it did."""
        token = sampled.token
        if sequence.first_token_at is None:
            sequence.first_token_at = time.perf_counter()
        sequence.append(token)
        is_end = token in sequence.end_tokens
        piece = b"" if is_end else self._runner.piece(token)
        if sampled.logprob is not None and not is_end:
            sequence.pending_logprobs.append(prompt_logprobs.token_logprob(sampled, self._runner.token_bytes))
        delta, reason = sequence.take_text(piece, is_end)
        if delta is not None:
            _send(sequence, delta)
        return None if reason is None else sequence.finished(reason)

    def _send_started(self, sequence: Sequence) -> None:
        prompt = sequence.prompt
        _send(sequence, Started(prompt.cells, prompt.warnings, tuple(sequence.prompt_logprobs), prompt.parsing))


def _send(sequence: Sequence, event: Event) -> None:
    try:
        sequence.sink(event)
    except BaseException as error:
        raise SinkError from error
