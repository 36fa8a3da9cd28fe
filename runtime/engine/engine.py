"""The engine: one thread that owns a backend and answers all requests, step by step."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from typing import Any

from ...models.errors import DeadlineExceeded, EngineError, GalagoError, NotReady
from ..cache.prefix_cache import MIN_CELLS, CachedPrefix, PrefixCache
from ..speculative.draft_model import DraftModel
from ..types.events import Delta, Event, Failed, Finished, FinishReason, Sink
from ..types.model_info import Stats
from ..types.prompt import MediaSpan, Prompt, SampledToken, count_positions
from . import prompt_logprobs as recitals
from .detokenizer import Detokenizer
from .media_encoder import EncodeJob, MediaEncoder
from .metrics import CacheForecast, EngineMetrics
from .model_runner import ModelRunner
from .prefill_budget import PrefillBudget
from .scheduler import MediaStep, SampleRow, Scheduler, SlotAssignment, TokenStep
from .sequence import Sequence
from .slots import Slot
from .thread_tuner import ThreadTuner


class Engine:
    """`submit` from any thread; events reach the request's sink on the engine's, a `Finished` or `Failed` last.

    `slots` requests run at once, `queue_length` more may wait, and all share `cells` tokens of context. What finished
    requests have computed is kept there, and in `states`, for later ones that begin alike. A `governor` chooses the
    number of threads for each step (else `threads`), a `drafter` proposes tokens, `outputs` rows at most have logits.
    """

    def __init__(
        self,
        backend: ModelRunner,
        slots: int,
        cells: int,
        batch: int,
        queue_length: int = 64,
        states: PrefixCache | None = None,
        threads: int = 1,
        governor: ThreadTuner | None = None,
        drafter: DraftModel | None = None,
        outputs: int | None = None,
    ) -> None:
        self._drafter = drafter
        self._backend = backend
        self._states = PrefixCache(0, whole=not backend.divisible) if states is None else states
        self._scheduler = Scheduler(slots, cells, batch, self._states, backend.divisible, drafter, outputs)
        self._scheduler.attention = backend.attention
        self._encoder = MediaEncoder(backend.encode)
        self._pace = PrefillBudget()
        self._governor = governor
        self._threads, self._slots = threads, slots
        self._tally, self._most = EngineMetrics(), 0
        self._steps, self._step_began = 0, inf
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._admitted = threading.Semaphore(slots + queue_length)
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
        ends_at: frozenset[int],
        stop: tuple[str, ...],
        sink: Sink,
        arrived: float,
        reuse: bool = True,
        background: bool = False,
        adapters: tuple[float, ...] = (),
        timeout: float | None = None,
    ) -> Callable[[], None]:
        """Queues a prompt and returns the function that cancels it: within one step, without a further event.

        `arrived` is the request's arrival on `time.perf_counter`'s clock; the answer fails `timeout` seconds after it,
        unless it is complete. Raises `NotReady` when the queue is full.
        """
        if not self._admitted.acquire(blocking=False):
            raise NotReady("too many requests are waiting already; try again in a moment")
        sequence = Sequence(
            prompt=prompt,
            sampler=sampler,
            max_tokens=max_tokens,
            ends_at=ends_at,
            text=Detokenizer(stop),
            sink=sink,
            arrived=arrived,
            adapters=adapters,
            deadline=inf if timeout is None else arrived + timeout,
            prepared=time.perf_counter(),
            reuse=reuse,
            background=background,
        )
        self._command(lambda: self._start(sequence))
        return lambda: self._commands.put(lambda: self._end(sequence, None))

    def outlook(self, prompt: Prompt, adapters: tuple[float, ...]) -> CacheForecast:
        """What a prompt would find, were it to come now. Waits for the step being computed."""
        found: Future[CacheForecast] = Future()

        def look() -> None:
            known = self._scheduler.known(list(prompt.items), adapters)
            idle = sum(slot.cells for slot in self._scheduler.idle_slots)
            most = max(self._most, self._scheduler.taken)
            found.set_result(CacheForecast(known, idle, most, self._states.size, self._pace.keeping))

        with self._gate:
            if self._closing:
                raise EngineError("the model is closed")
            self._commands.put(look)
        return found.result()

    def close(self) -> None:
        """Fails what is still running, stops the thread and closes the backend."""
        with self._gate:
            self._closing = True
            self._commands.put(lambda: None)
        self._thread.join()
        self._encoder.close()
        if self._drafter is not None:
            self._drafter.close()
        self._backend.close()

    def stats(self) -> Stats:
        """What it is doing and has done; from any thread, so that numbers may be a step apart."""
        return self._tally.stats(
            slots=self._slots,
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            threads=self._threads,
            cache_bytes=self._states.size,
            steps=self._steps,
            step_seconds=max(time.perf_counter() - self._step_began, 0.0),
        )

    def count_anew(self) -> None:
        """Forgets what was counted so far."""
        self._tally = EngineMetrics()

    def _command(self, command: Callable[[], None]) -> None:
        """Hands a command over unless the engine is closing, so that none is left unread."""
        with self._gate:
            if self._closing:
                self._admitted.release()
                raise EngineError("the model is closed")
            self._commands.put(command)

    def _run(self) -> None:
        computing = False
        while not self._closing:
            if not computing:
                self._step_began = inf
                self._wait_for_command()
            self._steps, self._step_began = self._steps + 1, time.perf_counter()
            self._take_commands()
            try:
                computing = self.step()
            except Exception as error:  # whatever it was, every caller hears of it and the thread lives on
                self._fail_all(error)
                computing = False
        self._take_commands()
        self._fail_all(EngineError("the model was closed"))

    def _wait_for_command(self) -> None:
        """Until there is one, or a deadline passes."""
        deadline = min((s.deadline for s in self._scheduler.sequences), default=inf)
        seconds = None if deadline == inf else max(deadline - time.perf_counter(), 0)
        with contextlib.suppress(queue.Empty):
            self._commands.get(timeout=seconds)()

    def _take_commands(self) -> None:
        while not self._commands.empty():
            self._commands.get()()

    def step(self) -> bool:
        """Admits, plans, computes, and hands out what came of it. Returns whether there was anything to compute."""
        self._end_overdue()
        while (slot := self._scheduler.yielding()) is not None:
            self._clear(slot)
        while (seat := self._scheduler.admit()) is not None:
            self._seat(seat)
            self._set_idle_aside()
        while (slot := self._scheduler.overfull()) is not None:
            self._clear(slot)
        step = self._scheduler.plan()
        if step is None:
            return False
        self._backend.use_adapters(step.adapters)
        if isinstance(step, MediaStep):
            self._compute_media(step)
        else:
            self._compute_tokens(step)
        self._keep_checkpoints()
        return True

    def _end_overdue(self) -> None:
        now = time.perf_counter()
        for sequence in self._scheduler.sequences:
            if now >= sequence.deadline:
                seconds = sequence.deadline - sequence.arrived
                error = DeadlineExceeded(f"the answer was not complete within {seconds:g} s", "timeout")
                self._end(sequence, Failed(error))

    def _seat(self, seat: SlotAssignment) -> None:
        """Gives a sequence its slot, with as much in it as was computed before."""
        sequence, slot, source, kept = seat.sequence, seat.slot, seat.source, seat.kept
        data = self._states.read(source) if isinstance(source, CachedPrefix) else None  # before others may displace it
        if slot is not source or seat.shared < len(slot.items):
            self._keep(slot)
        if slot is not source:
            self._backend.cut(slot.number, 0)
        position = count_positions(sequence.items[:kept])
        if isinstance(source, CachedPrefix):
            if data is None or not self._backend.restore(slot.number, data):
                kept = position = 0
        elif isinstance(source, Slot) and slot is not source:
            self._backend.copy(source.number, slot.number, position)
        self._backend.cut(slot.number, position)
        self._scheduler.seated(seat, kept)
        if sequence.cached is None:
            sequence.cached = slot.cells
        self._encode(sequence)

    def _encode(self, sequence: Sequence) -> None:
        """Has the media encoded that the sequence still needs."""
        media = [item.payload for item in sequence.items[sequence.done :] if isinstance(item, MediaSpan)]
        if all(payload.ready for payload in media):
            return

        def done(error: Exception | None) -> None:
            failure = None if error is None else Failed(_as_ours(error))
            self._commands.put(lambda: self._end(sequence, failure) if failure else None)

        self._encoder.submit(EncodeJob(media, lambda: sequence.slot is not None, done))

    def _keep_checkpoints(self) -> None:
        for sequence in self._scheduler.running:
            if sequence.slot is not None and sequence.done in sequence.checkpoints:
                sequence.checkpoints.remove(sequence.done)
                self._keep(sequence.slot)

    def _keep(self, slot: Slot) -> None:
        """Saves what a slot holds in host memory, if it may be of use and is nowhere else."""
        is_new = slot.cells >= MIN_CELLS and self._states.limit and not self._states.holds(slot.items, slot.adapters)
        if is_new and self._pace.worth_keeping():
            begin = time.perf_counter()
            data = self._backend.save(slot.number)
            self._pace.kept(slot.cells, time.perf_counter() - begin)
            self._states.add(CachedPrefix(list(slot.items), slot.adapters, data))

    def _set_idle_aside(self) -> None:
        """Moves what nobody continues out of the KV cache: every answer's attention goes over all cells in use.

        Not where it would take more than half of the memory there is for that.
        """
        for slot in self._scheduler.idle_slots:
            if MIN_CELLS <= slot.cells <= self._states.limit / 2 / self._states.cell_bytes:
                self._clear(slot)

    def _clear(self, slot: Slot) -> None:
        if slot.owner is None or slot.owner.reuse:
            self._keep(slot)
        self._backend.cut(slot.number, 0)
        self._scheduler.clear(slot)

    def _compute_media(self, step: MediaStep) -> None:
        slot = step.sequence.slot
        assert slot is not None
        self._backend.decode_media(step.media, step.position, slot.number)
        slot.extend([step.media])

    def _compute_tokens(self, step: TokenStep) -> None:
        prompts, guesses = step.prompt_rows, step.guessed_rows
        answers = len(step.rows) - prompts - guesses
        if self._governor is not None:
            self._threads = self._governor.threads(answers, prompts, settled=guesses > 0)
            self._backend.use_threads(self._threads)
            if self._drafter is not None:
                self._drafter.use_threads(self._threads)
        begin = time.perf_counter()
        self._backend.decode(step.rows)
        seconds = time.perf_counter() - begin
        if not step.recitals:  # which come in small steps, so that their rows cost more
            self._pace.measured(answers, prompts, seconds)
        self._tally.computed(seconds)
        if self._governor is not None and not guesses:
            self._governor.measured(answers, prompts, seconds)
        self._scheduler.short_prefill = self._pace.short_prompt_rows
        self._scheduler.long_prefill = self._pace.long_prompt_rows
        if not prompts:
            self._scheduler.odds.measured(len(step.rows), seconds)
        for recital in step.recitals:
            recitals.read(recital, self._backend)
        for answer in step.answers:
            self._answer(answer)

    def _answer(self, answer: SampleRow) -> None:
        """Chooses a token, and the next one as long as the guesses are right; then cuts off the wrong ones."""
        sequence, slot = answer.sequence, answer.sequence.slot
        assert slot is not None
        end: Event | None = None
        if sequence.max_tokens == 0:
            sequence.first_token = time.perf_counter()
            self._end(sequence, sequence.finished("length"))
            return
        sequence.guessed += len(answer.guess)
        try:
            for row, guessed in enumerate([*answer.guess, None], answer.row):
                chosen = self._backend.choose(row, sequence.sampler)
                right = chosen.token == guessed
                sequence.accepted += right
                if answer.drafted and guessed is not None:
                    sequence.trust.measured(right)
                end = self._advance(sequence, chosen)
                if end is not None or not right:
                    break
        except GalagoError as error:
            end = Failed(error)
        if answer.guess:
            slot.cut(len(sequence.items) - 1)
            self._backend.cut(slot.number, slot.position)
        if end is not None:
            self._end(sequence, end)

    def _advance(self, sequence: Sequence, chosen: SampledToken) -> Finished | None:
        """Adds a token to an answer; returns how that ends it, if it does."""
        token = chosen.token
        if sequence.first_token is None:
            sequence.first_token = time.perf_counter()
        sequence.answer(token)
        ended = token in sequence.ends_at
        text = "" if ended else sequence.text.feed(self._backend.piece(token))
        if chosen.logprob is not None and not ended:
            sequence.untold.append(recitals.told(chosen, self._backend.name))
        reason: FinishReason | None = None
        if ended or sequence.text.stopped:
            reason = "stop"
        elif sequence.answered >= sequence.max_tokens:
            reason = "length"
        if reason is not None:
            text += sequence.text.finish()
        untold = sequence.take_untold() if text or reason else ()
        if text or untold:
            sequence.sink(Delta(text, sequence.answered - sequence.told, untold))
            sequence.told = sequence.answered
        if reason is None:
            return None
        return sequence.finished("stop" if sequence.text.stopped else reason)

    def _start(self, sequence: Sequence) -> None:
        self._scheduler.add(sequence)
        recitals.begin(sequence, self._backend)

    def _end(self, sequence: Sequence, event: Event | None) -> None:
        if sequence not in self._scheduler.sequences:
            return
        self._most = max(self._most, self._scheduler.taken)
        slot = self._scheduler.remove(sequence)
        if slot is not None and not sequence.reuse:
            self._backend.cut(slot.number, 0)
            self._scheduler.clear(slot)
        elif slot is not None and self._states.lasting and slot.cells >= MIN_CELLS:
            self._states.store(CachedPrefix(list(slot.items), slot.adapters, self._backend.save(slot.number)))
        self._admitted.release()
        match event:
            case Finished():
                self._tally.finished(event)
            case Failed():
                self._tally.failed()
            case None:
                self._tally.cancelled()
                return
        sequence.sink(event)

    def _fail_all(self, error: Exception) -> None:
        """Ends every sequence with an error; what their slots hold is uncertain then."""
        failure = _as_ours(error)
        for sequence in self._scheduler.sequences:
            slot = sequence.slot
            self._end(sequence, Failed(failure))
            if slot is not None:
                self._backend.cut(slot.number, 0)
                self._scheduler.clear(slot)


def _as_ours(error: Exception) -> GalagoError:
    return error if isinstance(error, GalagoError) else EngineError(f"the engine failed: {error!r}")
