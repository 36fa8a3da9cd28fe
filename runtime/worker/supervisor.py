"""The parent's side of a worker: a model in a child process, which is restarted when it dies or hangs.

A worker's messages are checked: one that sends anything unexpected is killed, which counts as a crash.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

from ...models.errors import Cancelled, EngineCrashed, EngineError, GalagoError, InvalidRequest, NotReady, Unloaded
from ...models.files import ModelFiles
from ..inference.stream import Stream
from ..log import log
from ..process import messages
from ..process.channel import Channel, encode
from ..process.spawn import WorkerProcess
from ..types.events import Delta, Event, Failed, Finished, Started
from ..types.model_info import ModelInfo, Stats
from ..types.placement import LoadPlan
from ..types.request import Request
from ..types.tasks import R, Task
from . import policy

_POLL_SECONDS = 0.05  # to notice that the caller has gone

_BUSY_SHARE = 0.1  # a step that uses more than this share of a core counts as computing


class PendingCall:
    """A request or task sent to the worker, and the worker's replies so far. `digest` identifies the content."""

    def __init__(self, content: Request | Task[Any], digest: bytes, context_length: int) -> None:
        self.digest = digest
        self.stream = Stream()
        self.answered = threading.Event()
        self.result: Any = None
        self.error: GalagoError | None = None
        self._task = content if isinstance(content, Task) else None
        self._started = False
        asked = None if isinstance(content, Task) else content.max_tokens
        self._tokens_left = context_length if asked is None else min(asked, context_length)
        self._characters_left = policy.MAX_CHARACTERS_PER_TOKEN * self._tokens_left

    def take(self, message: messages.AboutRequest, on_finished: Callable[[PendingCall], None]) -> bool:
        """Passes on a message. Returns whether it was the last. Raises `UnexpectedMessage` if it may not come now."""
        match message:
            case messages.EventMessage(event=event) if self._task is None and self.answered.is_set():
                self._check(event)
                if isinstance(event, Finished):
                    on_finished(self)
                self.stream.put(event)
                return isinstance(event, Finished | Failed)
            case messages.Accepted() if self._task is None and not self.answered.is_set():
                self.answered.set()
                return False
            case messages.TaskDone(result=result) if self._task is not None and self._task.is_answered_by(result):
                on_finished(self)
                self.result = result
                self.answered.set()
                return True
            case messages.Refused(error=error):
                self.fail(error)
                return True
        raise messages.unexpected(message)

    def _check(self, event: Event) -> None:
        if isinstance(event, Started) == self._started and not isinstance(event, Failed):
            raise messages.unexpected(event)
        self._started = True
        if isinstance(event, Delta):
            self._tokens_left -= event.tokens
            self._characters_left -= len(event.text)
            if event.tokens < 1 or self._tokens_left < 0 or self._characters_left < 0:
                raise messages.UnexpectedMessage("more text than was asked for")

    def fail(self, error: GalagoError) -> None:
        self.error = error
        self.stream.put(Failed(error))
        self.answered.set()


class StepWatch:
    """Notices an engine that is stuck in a step, from the worker's heartbeats."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._step = -1
        self._cpu_seconds_at_begin = 0.0

    def exceeded_seconds(self, heartbeat: messages.Heartbeat) -> float | None:
        """Returns the limit that the current step has exceeded, if it has."""
        stats = heartbeat.stats
        if stats.steps != self._step:
            self._step, self._cpu_seconds_at_begin = stats.steps, heartbeat.cpu_seconds
        cpu_seconds = heartbeat.cpu_seconds - self._cpu_seconds_at_begin
        computes = cpu_seconds > _BUSY_SHARE * stats.step_seconds
        limit = self._limit_seconds * (policy.SLOW_STEP_FACTOR if computes else 1)
        return limit if stats.step_seconds > limit else None


class WorkerClient:
    """One worker process from its start to its end. Knows nothing of restarts.

    `load` comes first. Then one thread calls `listen`, while other threads call `call`.
    """

    def __init__(self, name: str, on_idle: Callable[[], object] | None, process: WorkerProcess | None = None) -> None:
        self._process = process or WorkerProcess()
        self._name = name
        self._on_idle = on_idle
        self._hang_limit = 0.0
        self._channel = Channel(self._process.connection)
        self._incoming = self._messages()
        self._numbers = itertools.count()
        self._context_length = 0
        self._calls: dict[int, PendingCall] = {}
        self._calls_lock = threading.Lock()
        self._ended = False
        self._reports = 0
        self._began = time.monotonic()
        self._complaint = ""
        """Why the worker must be killed, as the beginning of `ending`."""
        self.stats = Stats()
        """The worker's last report."""
        self.ending = ""
        """How the process ended, as the rest of a sentence about it."""

    def load(self, load: messages.Load, progress: Callable[[float], None]) -> ModelInfo:
        """Makes the worker load a model, and waits for it. Raises the error that prevented it."""
        self._hang_limit = load.config.hang_limit
        self._channel.send(load)
        for message in self._incoming:
            match message:
                case messages.LoadProgress(fraction):
                    progress(fraction)
                case messages.ModelLoaded(info):
                    self._context_length = info.context_length
                    return info
                case messages.LoadFailed(error):
                    raise error
                case messages.AboutRequest():
                    self._reject(messages.unexpected(message))
        raise EngineCrashed(f"the process that loads {self._name} {self.ending}; run `galago doctor` to find out why")

    def listen(self, on_finished: Callable[[PendingCall], None]) -> list[PendingCall]:
        """Passes on the worker's messages until it ends. Returns the calls that are still open then."""
        for message in self._incoming:
            try:
                self._pass_on(message, on_finished)
            except messages.UnexpectedMessage as error:
                self._reject(error)
        with self._calls_lock:
            self._ended = True
        self._channel.close()
        return list(self._calls.values())

    def _pass_on(self, message: messages.FromWorker, on_finished: Callable[[PendingCall], None]) -> None:
        """Passes a message on to the call that it is about."""
        if isinstance(message, messages.Heartbeat):
            return
        if not isinstance(message, messages.AboutRequest) or message.number not in self._calls:
            raise messages.unexpected(message)
        if self._calls[message.number].take(message, on_finished):
            del self._calls[message.number]
            if self._on_idle is not None and not self._calls:
                self._on_idle()

    def call(
        self, content: Request | Task[Any], data: bytes, digest: bytes, cancelled: Callable[[], bool]
    ) -> PendingCall | None:
        """Sends a request or task; waits until the request is accepted or the task is done. `data` is its encoding.

        Returns `None` if the worker ended before it took the call. Raises the worker's error, and `Cancelled` when
        `cancelled` returns true.
        """
        call = PendingCall(content, digest, self._context_length)
        with self._calls_lock:
            if self._ended:
                return None
            number = next(self._numbers)
            self._calls[number] = call
        self._channel.send((messages.Generate if isinstance(content, Request) else messages.RunTask)(number, data))
        call.stream.on_close(lambda: self._channel.post(messages.Cancel(number)))
        try:
            while not call.answered.wait(_POLL_SECONDS):
                if cancelled():
                    raise Cancelled("the caller has left")
        except BaseException:
            call.stream.close()
            raise
        if call.error is not None:
            raise call.error
        return call

    def take_no_more(self) -> bool:
        """Refuses further calls, unless some are open. Returns whether there are none."""
        with self._calls_lock:
            self._ended |= not self._calls
            return not self._calls

    @property
    def is_idle(self) -> bool:
        return not self._calls

    def shut_down(self) -> None:
        self._channel.post(messages.Shutdown())

    def kill(self) -> None:
        self._process.kill()

    def discard(self) -> None:
        """Ends a worker while no thread listens to it."""
        self._process.kill()
        self._process.reap()
        self._channel.close()

    def _reject(self, what: object) -> None:
        self._complaint = f"sent {what} and "

    def _messages(self) -> Iterator[messages.FromWorker]:
        """Yields the worker's messages until it ends or hangs or was rejected, then waits for its exit."""
        watch = StepWatch(self._hang_limit)
        try:
            while not self._complaint:
                for message in self._channel.receive(self._hang_limit):
                    if isinstance(message, messages.Heartbeat | messages.LoadProgress):
                        self._note_report(message, watch)
                    if not self._complaint:
                        yield message
        except TimeoutError:
            self._complaint = f"gave no sign of life for {self._hang_limit:g} s and "
        except (EOFError, OSError):
            pass
        except Exception as error:  # whatever the error, the worker's requests must end
            self._reject(error if isinstance(error, messages.UnexpectedMessage) else repr(error))
        if self._complaint:
            self._process.kill()
        self.ending = self._complaint + self._process.reap()

    def _note_report(self, message: messages.Heartbeat | messages.LoadProgress, watch: StepWatch) -> None:
        self._reports += 1
        if self._reports > policy.MAX_REPORTS_PER_SECOND * (1 + time.monotonic() - self._began):
            self._reject("too many reports")
        if isinstance(message, messages.Heartbeat):
            self.stats = message.stats
            if (exceeded := watch.exceeded_seconds(message)) is not None:
                self._complaint = f"was stuck in one step for more than {exceeded:g} s and "


class WorkerSupervisor:
    """A model that answers from a worker process, with the methods of a model in this process.

    `plan` is called after each start of the worker, while it imports. `process` is a worker that was started before.
    `progress` receives the fraction of the weights that is loaded. `on_idle` is called when the last open call ends.
    """

    def __init__(
        self,
        files: ModelFiles,
        plan: Callable[[], LoadPlan],
        progress: Callable[[float], None] | None = None,
        process: WorkerProcess | None = None,
        on_idle: Callable[[], object] | None = None,
    ) -> None:
        self._files = files
        self._plan = plan
        self._progress = progress or (lambda _fraction: None)
        self._changed = threading.Condition()
        self._closed = False
        self._crashes = self._restarts = 0
        self._crashes_by_request: Counter[bytes] = Counter()
        self._on_idle = on_idle
        self._worker = WorkerClient(files.id, on_idle, process)
        try:
            self.info = self._worker.load(messages.Load.of(files, plan()), self._progress)
        except BaseException:
            self._worker.discard()
            raise
        self.ready = True
        """Whether a worker can take requests now."""
        self._thread = threading.Thread(target=self._run, name="galago-worker", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether no call is open."""
        return self._worker.is_idle

    def stats(self) -> Stats:
        """Returns the worker's last report, at most a second old, and how often it was restarted."""
        return replace(self._worker.stats, restarts=self._restarts)

    def generate(self, request: Request, cancelled: Callable[[], bool] = lambda: False) -> Stream:
        """Starts an answer, as `Generator.generate` does. Raises `NotReady` if a restart takes too long."""
        return self._call(request, cancelled).stream

    def run_task(self, task: Task[R], cancelled: Callable[[], bool] = lambda: False) -> R:
        """Runs a task, as `Generator.run_task` does. Waits for a restart as `generate` does."""
        return cast(R, self._call(task, cancelled).result)

    def close_if_idle(self) -> bool:
        """Ends the worker unless it has open calls. A call that comes too late raises `Unloaded`."""
        with self._changed:
            self._closed = self._worker.take_no_more()
        if self._closed:
            self.close()
        return self._closed

    def close(self) -> None:
        """Ends running requests with an error, then the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.shut_down()
        self._thread.join(policy.CLOSE_GRACE_SECONDS)
        self._worker.kill()
        self._thread.join()

    def _call(self, content: Request | Task[Any], cancelled: Callable[[], bool]) -> PendingCall:
        data = encode(content)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        deadline = time.monotonic() + policy.RESTART_WAIT_SECONDS
        call = None
        while call is None:
            worker = self._wait_for_worker(cancelled, deadline)
            if self._crashes_by_request[digest] >= policy.MAX_CRASHES_PER_REQUEST:
                raise InvalidRequest("this request has crashed the model's process twice, so it is refused now")
            call = worker.call(content, data, digest, cancelled)
        return call

    def _wait_for_worker(self, cancelled: Callable[[], bool], deadline: float) -> WorkerClient:
        with self._changed:
            while not self.ready or self._closed:
                if self._closed:
                    raise Unloaded("the model is closed")
                if cancelled():
                    raise Cancelled("the caller has left")
                if time.monotonic() > deadline:
                    raise NotReady("the model's process is being restarted; try again in a moment")
                self._changed.wait(_POLL_SECONDS)
            return self._worker

    def _run(self) -> None:
        """Listens to one worker after another until `close`."""
        while True:
            calls = self._worker.listen(self._on_finished)
            with self._changed:
                self.ready = False
                closed = self._closed
            if not closed:
                self._record_crash(calls)
            crash = f"the model's process {self._worker.ending}; it is being restarted, so try again in a moment"
            for call in calls:
                call.fail(EngineError("the model was closed") if closed else EngineCrashed(crash))
            if not self._restart():
                return

    def _on_finished(self, call: PendingCall) -> None:
        self._crashes = 0
        del self._crashes_by_request[call.digest]

    def _record_crash(self, calls: list[PendingCall]) -> None:
        if len(calls) == 1:
            self._crashes_by_request[calls[0].digest] += 1
        self._crashes += 1
        self._restarts += 1
        delay = policy.describe_delay(self._crashes)
        log(f"the worker of {self._files.id} {self._worker.ending}; restarting it {delay}")

    def _restart(self) -> bool:
        """Returns `True` when a worker is ready again, `False` after `close`."""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, policy.restart_delay(self._crashes)):
                    return False
            try:
                with self._changed:
                    if self._closed:
                        return False
                    self._worker = WorkerClient(self._files.id, self._on_idle)
                self.info = self._worker.load(messages.Load.of(self._files, self._plan()), self._progress)
            except Exception as error:
                self._worker.discard()
                self._crashes += 1
                if not self._closed:
                    log(f"the worker of {self._files.id} cannot load its model: {error}")
            else:
                with self._changed:
                    self.ready = True
                    self._changed.notify_all()
                return True
