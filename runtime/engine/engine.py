"""The engine: one thread that owns a model runner and answers all requests, step by step.

Requests are isolated from each other: an error in a sink, a sampler, a grammar, or a runner call for one sequence ends
only that sequence. An error in a whole step ends the sequences in it. The thread always continues.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from math import inf
from typing import Any

from ...models.errors import DeadlineExceeded, EngineError, GalagoError, ModelError, QueueFull
from ..cache.prefix_cache import PrefixCache
from ..speculative.draft_model import DraftModel
from ..speculative.drafting import Draft, Drafter
from ..types.events import Failed, Finished, Sink
from ..types.model_info import Stats
from ..types.prompt import MediaSpan, Prompt
from .executor import KVCache, SinkError, StepExecutor
from .media_encoder import EncodeJob, MediaEncoder
from .model_runner import ModelRunner
from .scheduler import MediaStep, SampleRow, Scheduler, SlotAssignment, TokenStep
from .sequence import Detokenizer, Sequence
from .tuning import CacheForecast, EngineMetrics, PrefillLimits, ThreadTuner

Command = tuple[Sequence | None, Callable[[], None]]
"""A function for the engine's thread to call, and the sequence that ends if it fails."""

_NO_PREFILL = PrefillLimits(0, 0)


class Engine:
    """`submit` works from any thread. Events reach a request's sink on the engine's thread; the last one is a
    `Finished` or `Failed`.

    `slots` requests run at once, `queue_length` more may wait, and all share `cells` tokens of context. The cells of
    finished requests stay there, and in `prefix_cache`, for later requests with the same prefix. A
    `thread_tuner` chooses the number of threads for each step (else `threads`), a `draft_model` proposes tokens, and at
    most `outputs` rows of a step have logits.
    """

    def __init__(
        self,
        runner: ModelRunner,
        slots: int,
        cells: int,
        batch: int,
        queue_length: int = 512,
        prefix_cache: PrefixCache | None = None,
        threads: int = 1,
        thread_tuner: ThreadTuner | None = None,
        draft_model: DraftModel | None = None,
        outputs: int | None = None,
    ) -> None:
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._permits = threading.Semaphore(slots + queue_length)
        self._queue_length = queue_length
        self._runner = runner
        self._drafter = Drafter(draft_model)
        if prefix_cache is None:
            prefix_cache = PrefixCache(0, whole_only=not runner.supports_partial_removal)
        kv_cache = KVCache(runner, slots, prefix_cache)
        tile, partial_removal = runner.attention_tile, runner.supports_partial_removal
        scheduler = Scheduler(kv_cache.slots, cells, batch, kv_cache, tile, partial_removal, outputs)
        executor = StepExecutor(runner, kv_cache, self._drafter, threads, thread_tuner)
        self._encoder = MediaEncoder(runner.encode_media)
        self._loop = EngineLoop(
            scheduler, kv_cache, executor, self._drafter, self._encoder, self._commands.put, self._permits.release
        )
        self._steps = 0
        self._step_began: float | None = None
        self._gate = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="galago-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt: Prompt,
        *,
        sampler: Any,
        max_tokens: int,
        end_tokens: frozenset[int],
        stop: tuple[str, ...],
        sink: Sink,
        arrived_at: float,
        reuse: bool = True,
        background: bool = False,
        client: str = "",
        adapters: tuple[float, ...] = (),
        timeout: float | None = None,
    ) -> Callable[[], None]:
        """Queues a prompt. Returns the function that cancels it, within one step and without a further event.

        `arrived_at` is a time of `time.perf_counter`. If the answer is not complete `timeout` seconds later, it fails.
        With `reuse=False` it neither uses nor leaves cached content. Raises `QueueFull` if too many wait.
        Waiting requests of several `client`s take turns, also at the slots.
        """
        sequence = Sequence(
            prompt=prompt,
            sampler=sampler,
            max_tokens=max_tokens,
            end_tokens=end_tokens,
            detokenizer=Detokenizer(stop),
            sink=sink,
            arrived_at=arrived_at,
            adapters=adapters,
            deadline=inf if timeout is None else arrived_at + timeout,
            prepared_at=time.perf_counter(),
            reuse=reuse,
            background=background,
            client=client,
        )
        with self._gate:
            if self._closing:
                raise EngineError("the model is closed")
            if not self._permits.acquire(blocking=False):
                raise QueueFull(
                    f"{self._queue_length} requests are already waiting for the model; try again in a moment, or start "
                    "the server with a larger --queue"
                )
            self._commands.put((sequence, lambda: self._loop.start(sequence)))
        return lambda: self._commands.put((sequence, lambda: self._loop.end(sequence, None)))

    def forecast(self, prompt: Prompt, adapters: tuple[float, ...]) -> CacheForecast:
        """What the cache would hold for a prompt submitted now. Waits for the current step."""
        result: Future[CacheForecast] = Future()

        def look_up() -> None:
            try:
                result.set_result(self._loop.forecast(prompt, adapters))
            except BaseException as error:
                result.set_exception(error)

        with self._gate:
            if self._closing:
                raise EngineError("the model is closed")
            self._commands.put((None, look_up))
        return result.result()

    def close(self) -> None:
        """Fails what is still running, stops the threads and closes the runner."""
        with self._gate:
            self._closing = True
            self._commands.put((None, lambda: None))
        self._thread.join()
        with contextlib.ExitStack() as closers:
            for close in (self._runner.close, self._drafter.close, self._encoder.close):
                closers.callback(close)

    def stats(self) -> Stats:
        """The engine's current state and counters. Other threads may see numbers that are one step apart."""
        began = self._step_began
        return self._loop.metrics.stats(
            slots=len(self._loop.kv.slots),
            running=len(self._loop.scheduler.running),
            waiting=len(self._loop.scheduler.waiting),
            threads=self._loop.executor.threads,
            cache_bytes=self._loop.kv.saved_bytes,
            steps=self._steps,
            step_seconds=0.0 if began is None else time.perf_counter() - began,
            recovered_errors=self._loop.kv.errors.count + self._drafter.errors.count,
        )

    def reset_stats(self) -> None:
        self._loop.metrics = EngineMetrics()

    def _run(self) -> None:
        has_work = False
        while not self._closing:
            command = None if has_work else self._wait_for_command()
            self._steps += 1
            self._step_began = time.perf_counter()
            if command is not None:
                self._execute(command)
            self._execute_commands()
            try:
                has_work = self._loop.step()
            except BaseException as error:  # unexpected, but the thread must go on
                self._loop.fail_step(self._loop.scheduler.sequences, error)
                has_work = False
        self._execute_commands()
        self._loop.fail(self._loop.scheduler.sequences, EngineError("the model was closed"))

    def _wait_for_command(self) -> Command | None:
        """Waits for a command, or until a deadline has passed."""
        self._step_began = None
        deadline = min((s.deadline for s in self._loop.scheduler.sequences), default=inf)
        seconds = None if deadline == inf else max(deadline - time.perf_counter(), 0)
        with contextlib.suppress(queue.Empty):
            return self._commands.get(timeout=seconds)
        return None

    def _execute_commands(self) -> None:
        while not self._commands.empty():
            self._execute(self._commands.get())

    def _execute(self, command: Command) -> None:
        sequence, action = command
        try:
            action()
        except BaseException as error:
            if sequence is not None:
                self._loop.fail([sequence], error)


class EngineLoop:
    """Runs sequences to their end, step by step. Everything here runs on the engine's thread.

    `post` queues a command from another thread, `release_permit` lets another request in.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        kv_cache: KVCache,
        executor: StepExecutor,
        drafter: Drafter,
        encoder: MediaEncoder,
        post: Callable[[Command], None],
        release_permit: Callable[[], None],
    ) -> None:
        self.scheduler = scheduler
        self.kv = kv_cache
        self.executor = executor
        self.metrics = EngineMetrics()
        self.peak_cells = 0
        self._drafter = drafter
        self._encoder = encoder
        self._post = post
        self._release_permit = release_permit

    def step(self) -> bool:
        """Admits, schedules, computes and hands out tokens. Returns whether there was anything to compute."""
        self._end_overdue()
        self._assign_slots()
        group = self.scheduler.next_group()
        if not group:
            return False
        step = self.scheduler.schedule(group, self._drafts(group), self._prefill_limits(group))
        if isinstance(step, MediaStep):
            self._compute_media(step)
        else:
            self._compute_tokens(step)
        self._save_checkpoints()
        return True

    def forecast(self, prompt: Prompt, adapters: tuple[float, ...]) -> CacheForecast:
        return CacheForecast(
            cached_cells=self.scheduler.cached_cells(list(prompt.items), adapters),
            idle_cells=self.scheduler.idle_cells,
            peak_cells=max(self.peak_cells, self.scheduler.cells_in_use),
            saved_bytes=self.kv.saved_bytes,
            save_seconds_per_cell=self.kv.save_policy.seconds_per_cell,
        )

    def start(self, sequence: Sequence) -> None:
        self.scheduler.add(sequence)
        self.executor.start(sequence)

    def _end_overdue(self) -> None:
        now = time.perf_counter()
        for sequence in self.scheduler.sequences:
            if now >= sequence.deadline:
                seconds = sequence.deadline - sequence.arrived_at
                error = DeadlineExceeded(f"the answer was not complete within {seconds:g} s", "timeout")
                self.end(sequence, Failed(error))

    def _assign_slots(self) -> None:
        """Preempts background work, fills free slots, and clears slots until what is running fits."""
        self.kv.retry()
        while (slot := self.scheduler.slot_to_yield()) is not None:
            self.kv.save_and_clear(slot)
            self.scheduler.preempt(slot)
        while (assignment := self.scheduler.admit()) is not None:
            self._assign(assignment)
            self.kv.clear_idle()
        while (slot := self.scheduler.slot_to_clear()) is not None:
            self.kv.save_and_clear(slot)
            self.scheduler.preempt(slot)

    def _assign(self, assignment: SlotAssignment) -> None:
        sequence = assignment.sequence
        try:
            reused = self.kv.prepare(assignment)
            self.scheduler.assign(assignment, reused)
            if sequence.cached_cells is None:
                sequence.cached_cells = assignment.slot.cells
            self._encode_media(sequence)
        except BaseException as error:
            self.fail([sequence], error)

    def _encode_media(self, sequence: Sequence) -> None:
        """Submits the media that the sequence still needs to the encoder."""
        media = [item.payload for item in sequence.items[sequence.computed :] if isinstance(item, MediaSpan)]
        if all(payload.ready for payload in media):
            return

        def done(error: BaseException | None) -> None:
            self._post((sequence, lambda: None if error is None else self.fail([sequence], error)))

        self._encoder.submit(EncodeJob(media, lambda: sequence.slot is not None, done))

    def _drafts(self, group: list[Sequence]) -> Mapping[Sequence, Draft]:
        """Draft tokens for a step. None for sequences without reuse: their results must not depend on timing."""
        sequences = [s for s in group if s.reuse and self._drafter.can_draft(s)]
        room = self.scheduler.draft_room(group) if sequences else 0
        return self._drafter.propose(sequences, len(group), room) if room > 0 else {}

    def _prefill_limits(self, group: list[Sequence]) -> PrefillLimits:
        return _NO_PREFILL if all(s.is_decoding for s in group) else self.executor.prefill_budget.limits()

    def _compute_media(self, step: MediaStep) -> None:
        try:
            self.executor.decode_media(step)
        except BaseException as error:
            self.fail_step([step.sequence], error)

    def _compute_tokens(self, step: TokenStep) -> None:
        try:
            seconds = self.executor.decode(step)
        except BaseException as error:
            self.fail_step(step.sequences, error)
            return
        self.metrics.record_step(seconds)
        for row in step.prompt_logprobs:
            try:
                self.executor.collect_logprob(row)
            except BaseException as error:
                self.fail([row.sequence], error)
        for sample in step.samples:
            if not sample.sequence.ended:
                self._sample(sample)

    def _sample(self, sample: SampleRow) -> None:
        """Samples a sequence's next tokens, and removes draft tokens that were wrong."""
        sequence = sample.sequence
        event: Finished | None = None
        failure: BaseException | None = None
        try:
            event = self.executor.sample(sample)
        except BaseException as error:
            failure = error
        if sample.draft.tokens:
            try:
                assert sequence.slot is not None
                self.kv.truncate(sequence.slot, len(sequence.items) - 1)
            except BaseException as error:  # costs the slot's content, but not an answer that is complete
                failure = failure or error
        if event is not None:
            self.end(sequence, event)
        elif isinstance(failure, ModelError):  # the model computed NaN, which must not be found in the cache
            self.fail_step([sequence], failure)
        elif failure is not None:
            self.fail([sequence], failure)

    def _save_checkpoints(self) -> None:
        for sequence in self.scheduler.running:
            if sequence.slot is not None and sequence.computed in sequence.checkpoints:
                sequence.checkpoints.remove(sequence.computed)
                self.kv.save(sequence.slot)

    def fail_step(self, sequences: Iterable[Sequence], error: BaseException) -> None:
        """Ends the sequences of a step that failed. What their slots hold is uncertain."""
        for sequence in sequences:
            if sequence.slot is not None:
                self.kv.discard(sequence.slot)
            self.fail([sequence], error)

    def fail(self, sequences: Iterable[Sequence], error: BaseException) -> None:
        event = Failed(error if isinstance(error, GalagoError) else EngineError(f"the engine failed: {error!r}"))
        for sequence in sequences:
            self.end(sequence, event, silent=isinstance(error, SinkError))

    def end(self, sequence: Sequence, event: Finished | Failed | None, silent: bool = False) -> None:
        """Removes a sequence and sends its last event, unless it was cancelled (`None`) or is `silent`. Never raises.

        The event is sent before anything is written to disk, so that the client does not wait for that.
        """
        if sequence.ended:
            return
        sequence.ended = True
        self.peak_cells = max(self.peak_cells, self.scheduler.cells_in_use)
        slot = self.scheduler.remove(sequence)
        self._release_permit()
        self.metrics.record_end(event)
        if event is not None and not silent:
            with contextlib.suppress(BaseException):  # the reader is gone, so the event is not needed
                sequence.sink(event)
        if slot is not None and sequence.reuse:
            self.kv.persist(slot)
        elif slot is not None:
            self.kv.discard(slot)
