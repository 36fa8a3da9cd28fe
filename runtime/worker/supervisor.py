"""The parent's side of a worker: a model in a child process, which is started again when it dies or hangs.

A request that was alone in two crashes is refused from then on.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ...models.errors import Cancelled, EngineCrashed, EngineError, GalagoError, InvalidRequest, NotReady
from ...models.files import ModelFiles
from ..inference.stream import Stream
from ..log import log
from ..process.channel import Channel, encode
from ..process.messages import (
    Accepted,
    Cancel,
    EventMessage,
    FromWorker,
    Generate,
    Heartbeat,
    Load,
    LoadFailed,
    LoadProgress,
    ModelLoaded,
    Refused,
    RunTask,
    Shutdown,
    TaskDone,
)
from ..process.spawn import WorkerProcess
from ..types.events import Failed, Finished
from ..types.model_info import ModelInfo, Stats
from ..types.placement import LoadPlan
from ..types.request import Request
from ..types.tasks import R, Task

RESTART_WAIT_SECONDS = 30.0
"""How long a request waits for a worker that is being restarted."""

CLOSE_GRACE_SECONDS = 3.0
"""How long a worker may take to end its requests and exit."""

MAX_CRASHES_PER_REQUEST = 2
"""A request that was alone in so many crashes is refused."""

MAX_RESTART_DELAY_SECONDS = 60.0

_POLL_SECONDS = 0.05  # how soon it is noticed that a caller has left

SLOW_STEP_FACTOR = 10
"""How many hang limits a step may take that uses the processor: a small machine needs minutes for 512 tokens."""

_BUSY_SHARE = 0.1  # of one core, for a step that is taken to compute


class PendingCall:
    """A request or task that the worker was given. `digest` identifies its content."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.stream = Stream()
        self.answered = threading.Event()
        self.result: Any = None
        self.error: GalagoError | None = None

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

    def exceeded_seconds(self, heartbeat: Heartbeat) -> float | None:
        """Returns the limit that the current step has exceeded, if it has."""
        stats = heartbeat.stats
        if stats.steps != self._step:
            self._step, self._cpu_seconds_at_begin = stats.steps, heartbeat.cpu_seconds
        cpu_seconds = heartbeat.cpu_seconds - self._cpu_seconds_at_begin
        computes = cpu_seconds > _BUSY_SHARE * stats.step_seconds
        limit = self._limit_seconds * (SLOW_STEP_FACTOR if computes else 1)
        return limit if stats.step_seconds > limit else None


class WorkerClient:
    """One worker process from its start to its end. Knows nothing of restarts.

    `load` comes first. Then one thread calls `listen`, while other threads call `call`.
    """

    def __init__(self, name: str, process: WorkerProcess | None = None) -> None:
        self._process = process or WorkerProcess()
        self._name = name
        self._hang_limit = 0.0
        self._channel = Channel(self._process.connection)
        self._incoming = self._messages()
        self._numbers = itertools.count()
        self._calls: dict[int, PendingCall] = {}
        self._calls_lock = threading.Lock()
        self._ended = False
        self.stats = Stats()
        """The worker's last report."""
        self.ending = ""
        """How the process ended, as the rest of a sentence about it."""

    def load(self, load: Load, progress: Callable[[float], None] | None) -> ModelInfo:
        """Has the worker load a model, and waits for it. Raises the error that prevented it."""
        self._hang_limit = load.config.hang_limit
        self._channel.send(load)
        for message in self._incoming:
            match message:
                case LoadProgress(fraction) if progress is not None:
                    progress(fraction)
                case ModelLoaded(info):
                    return info
                case LoadFailed(error):
                    raise error
        raise EngineCrashed(f"the process that loads {self._name} {self.ending}; run `galago doctor` to find out why")

    def listen(self, on_finished: Callable[[PendingCall], None]) -> list[PendingCall]:
        """Passes on the worker's messages until it ends. Returns the calls that are still open then."""
        for message in self._incoming:
            match message:
                case EventMessage(number, event) if number in self._calls:
                    call = self._calls[number]
                    if isinstance(event, Finished | Failed):
                        del self._calls[number]
                    if isinstance(event, Finished):
                        on_finished(call)
                    call.stream.put(event)
                case Accepted(number) if number in self._calls:
                    self._calls[number].answered.set()
                case TaskDone(number, result) if number in self._calls:
                    call = self._calls.pop(number)
                    call.result = result
                    on_finished(call)
                    call.answered.set()
                case Refused(number, error) if number in self._calls:
                    self._calls.pop(number).fail(error)
        with self._calls_lock:
            self._ended = True
        self._channel.close()
        return list(self._calls.values())

    def call(
        self, kind: type[Generate] | type[RunTask], content: bytes, digest: bytes, cancelled: Callable[[], bool]
    ) -> PendingCall | None:
        """Sends a request or task; waits until the request is accepted or the task is done.

        Returns `None` if the worker ended before it took the call. Raises the worker's error, and `Cancelled` when
        `cancelled` returns true.
        """
        call = PendingCall(digest)
        with self._calls_lock:
            if self._ended:
                return None
            number = next(self._numbers)
            self._calls[number] = call
        self._channel.send(kind(number, content))
        call.stream.on_close(lambda: self._channel.post(Cancel(number)))
        try:
            while not call.answered.wait(_POLL_SECONDS):
                _raise_if(cancelled)
        except BaseException:
            call.stream.close()
            raise
        if call.error is not None:
            raise call.error
        return call

    def shut_down(self) -> None:
        """Asks the worker to end its requests and to exit."""
        self._channel.post(Shutdown())

    def kill(self) -> None:
        self._process.kill()

    def discard(self) -> None:
        """Ends a worker whose messages nobody reads."""
        self._process.kill()
        self._process.reap()
        self._channel.close()

    def _messages(self) -> Iterator[FromWorker]:
        """Yields the worker's messages until it ends, then waits for its exit. Kills a worker that hangs."""
        complaint = ""
        watch = StepWatch(self._hang_limit)
        try:
            while not complaint:
                for message in self._channel.receive(self._hang_limit):
                    if isinstance(message, Heartbeat):
                        self.stats = message.stats
                        if (exceeded := watch.exceeded_seconds(message)) is not None:
                            complaint = f"was stuck in one step for more than {exceeded:g} s and "
                    yield message
        except TimeoutError:
            complaint = f"gave no sign of life for {self._hang_limit:g} s and "
        except ValueError:
            complaint = "sent bytes that are not a message and "
        except (EOFError, OSError):
            pass
        if complaint:
            self._process.kill()
        self.ending = complaint + self._process.reap()


class WorkerSupervisor:
    """A model that answers from a worker process, with the methods of a model in this process.

    `plan` is called after each start of the worker, while it imports. `process` is a worker that was started before.
    `progress` receives the fraction of the weights that is loaded.
    """

    def __init__(
        self,
        files: ModelFiles,
        plan: Callable[[], LoadPlan],
        progress: Callable[[float], None] | None = None,
        process: WorkerProcess | None = None,
    ) -> None:
        self._name = files.id
        self._files = files
        self._plan = plan
        self._progress = progress
        self._changed = threading.Condition()
        self._closed = False
        self._crashes = self._restarts = 0
        self._crashes_by_request: Counter[bytes] = Counter()
        self._worker = WorkerClient(files.id, process)
        try:
            self.info = self._load()
        except BaseException:
            self._worker.discard()
            raise
        self._ready = True
        self._thread = threading.Thread(target=self._run, name="galago-worker", daemon=True)
        self._thread.start()

    def _load(self) -> ModelInfo:
        """Plans the model while the worker imports, then has it loaded."""
        files, plan = self._files, self._plan()
        load = Load(
            name=files.id,
            weights=files.weights,
            projector=files.projector,
            trusted=files.trusted,
            adapters=files.adapters,
            draft=files.draft.weights if files.draft else None,
            config=plan.config,
            placement=plan.placement,
        )
        return self._worker.load(load, self._progress)

    @property
    def ready(self) -> bool:
        """Whether a worker can take requests now."""
        return self._ready

    def stats(self) -> Stats:
        """Returns the worker's last report, at most a second old, and how often it was restarted."""
        return replace(self._worker.stats, restarts=self._restarts)

    def generate(self, request: Request, cancelled: Callable[[], bool] = lambda: False) -> Stream:
        """Starts an answer, as `Generator.generate` does.

        Waits for a worker that is being restarted, and raises `NotReady` if that takes too long.
        """
        return self._call(Generate, request, cancelled).stream

    def run_task(self, task: Task[R], cancelled: Callable[[], bool] = lambda: False) -> R:
        """Runs a task, as `Generator.run_task` does. Waits for a restart as `generate` does."""
        result: R = self._call(RunTask, task, cancelled).result
        return result

    def close(self) -> None:
        """Ends running requests with an error, then the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.shut_down()
        self._thread.join(CLOSE_GRACE_SECONDS)
        self._worker.kill()
        self._thread.join()

    def _call(
        self, kind: type[Generate] | type[RunTask], content: Request | Task[Any], cancelled: Callable[[], bool]
    ) -> PendingCall:
        data = encode(content)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        deadline = time.monotonic() + RESTART_WAIT_SECONDS
        call = None
        while call is None:
            worker = self._wait_for_worker(cancelled, deadline)
            if self._crashes_by_request[digest] >= MAX_CRASHES_PER_REQUEST:
                raise InvalidRequest("this request has crashed the model's process twice, so it is refused now")
            call = worker.call(kind, data, digest, cancelled)
        return call

    def _wait_for_worker(self, cancelled: Callable[[], bool], deadline: float) -> WorkerClient:
        with self._changed:
            while not self._ready or self._closed:
                if self._closed:
                    raise EngineError("the model is closed")
                _raise_if(cancelled)
                if time.monotonic() > deadline:
                    raise NotReady("the model's process is being restarted; try again in a moment")
                self._changed.wait(_POLL_SECONDS)
            return self._worker

    def _run(self) -> None:
        """Listens to one worker after another until `close`."""
        while True:
            calls = self._worker.listen(self._on_finished)
            with self._changed:
                self._ready = False
                closed = self._closed
            if not closed:
                self._record_crash(calls)
            for call in calls:
                call.fail(EngineError("the model was closed") if closed else self._crash_error())
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
        delay = restart_delay(self._crashes)
        when = f"in {delay:g} s" if delay else "now"
        log(f"the worker of {self._name} {self._worker.ending}; restarting it {when}")

    def _crash_error(self) -> EngineCrashed:
        return EngineCrashed(
            f"the model's process {self._worker.ending}; it is being restarted, so try again in a moment"
        )

    def _restart(self) -> bool:
        """Returns `True` when a worker is ready again, `False` after `close`."""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, restart_delay(self._crashes)):
                    return False
            try:
                with self._changed:
                    if self._closed:
                        return False
                    self._worker = WorkerClient(self._name)
                self.info = self._load()
            except Exception as error:
                self._worker.discard()
                self._crashes += 1
                if not self._closed:
                    log(f"the worker of {self._name} cannot load its model: {error}")
            else:
                with self._changed:
                    self._ready = True
                    self._changed.notify_all()
                return True


def restart_delay(crashes: int) -> float:
    """Returns the seconds before the next start, after that many crashes without a finished request in between."""
    return 0.0 if crashes < 3 else min(2.0 ** (crashes - 3), MAX_RESTART_DELAY_SECONDS)


def _raise_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("the caller has left")
