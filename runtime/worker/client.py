"""One child process from its start to its end, seen from the process that started it. Knows nothing of restarts."""

from __future__ import annotations

import itertools
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ...models.errors import Cancelled, EngineCrashed, GalagoError
from ..inference.load_check import signal_name
from ..inference.stream import Stream
from ..process.channel import Channel
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
    ToWorker,
)
from ..process.spawn import WorkerProcess, start
from ..types.events import Failed, Finished
from ..types.model_info import ModelInfo, Stats

_POLL = 0.05  # seconds; how soon it is noticed that a caller has left
_LAST_MOMENTS = 2.0  # seconds that a process may take between closing its connection and ending


class PendingCall:
    """A request that the child has been given. `digest` tells whether it was given before."""

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


class WorkerClient:
    """Starts the process, or takes one that is `started`. `load` must come first, then one thread `listen`s while
    others `ask`."""

    def __init__(self, load: Load, started: WorkerProcess | None = None) -> None:
        started = started or start()
        self._process = started.process
        self._name = load.name
        self._patience = load.config.hang_limit
        self._channel = Channel(started.connection)
        self._channel.send(load)
        self._incoming = self._messages()
        self._numbers = itertools.count()
        self._calls: dict[int, PendingCall] = {}
        self._gate = threading.Lock()
        self._over = False
        self.stats = Stats()
        """What it last said of itself."""
        self.end = ""
        """How it ended, in words, once it has."""

    def load(self, progress: Callable[[float], None] | None) -> ModelInfo:
        """Waits for the model. Raises what kept it from being loaded."""
        for message in self._incoming:
            match message:
                case LoadProgress(fraction) if progress is not None:
                    progress(fraction)
                case ModelLoaded(info):
                    return info
                case LoadFailed(error):
                    raise error
        raise EngineCrashed(f"the process that loads {self._name} {self.end}; see what `galago doctor` says")

    def listen(self, finished: Callable[[PendingCall], None]) -> list[PendingCall]:
        """Passes on what the child says until it ends, and returns the calls that have no end yet."""
        for message in self._incoming:
            match message:
                case Heartbeat(stats):
                    self.stats = stats
                case Accepted(number) if number in self._calls:
                    self._calls[number].answered.set()
                case EventMessage(number, event) if number in self._calls:
                    call = self._calls[number]
                    if isinstance(event, Finished | Failed):
                        del self._calls[number]
                    if isinstance(event, Finished):
                        finished(call)
                    call.stream.put(event)
                case TaskDone(number, result) if number in self._calls:
                    call = self._calls.pop(number)
                    call.result = result
                    finished(call)
                    call.answered.set()
                case Refused(number, error) if number in self._calls:
                    self._calls.pop(number).fail(error)
        with self._gate:
            self._over = True
        self._channel.close()
        return list(self._calls.values())

    def ask(self, request: bytes, digest: bytes, cancelled: Callable[[], bool]) -> Stream | None:
        """Hands a request over and waits until it is accepted; `None` where the child has ended before.

        Raises what the child raised, and `Cancelled` when `cancelled` says so.
        """
        call = self._call(lambda number: Generate(number, request), digest, cancelled)
        return None if call is None else call.stream

    def do(self, task: bytes, digest: bytes, cancelled: Callable[[], bool]) -> TaskDone | None:
        """The same for a task, until it is done."""
        call = self._call(lambda number: RunTask(number, task), digest, cancelled)
        return None if call is None else TaskDone(0, call.result)

    def _call(
        self, message: Callable[[int], ToWorker], digest: bytes, cancelled: Callable[[], bool]
    ) -> PendingCall | None:
        call = PendingCall(digest)
        with self._gate:
            if self._over:
                return None
            number = next(self._numbers)
            self._calls[number] = call
        self._channel.send(message(number))
        call.stream.on_close(lambda: self._channel.send(Cancel(number)))
        try:
            while not call.answered.wait(_POLL):
                stop_if(cancelled)
        except BaseException:
            call.stream.close()
            raise
        if call.error is not None:
            raise call.error
        return call

    def stop(self) -> None:
        """Asks it to end what is running and to exit."""
        self._channel.send(Shutdown())

    def kill(self) -> None:
        self._process.kill()

    def discard(self) -> None:
        """Ends a child to which nobody listens."""
        self._process.kill()
        self._seen_off()
        self._channel.close()

    def _messages(self) -> Iterator[FromWorker]:
        """What the child says until it ends, and then sees it off."""
        complaint = ""
        try:
            while True:
                yield from self._channel.receive(self._patience)
        except TimeoutError:
            complaint = f"gave no sign of life for {self._patience:g} s and "
        except ValueError:
            complaint = "said what cannot be read and "
        except (EOFError, OSError):
            pass
        if complaint:
            self._process.kill()
        self.end = complaint + self._seen_off()

    def _seen_off(self) -> str:
        for _ in range(2):
            try:
                code = self._process.wait(_LAST_MOMENTS)
            except subprocess.TimeoutExpired:
                self._process.kill()
            else:
                return f"was ended by {signal_name(-code)}" if code < 0 else f"exited with code {code}"
        return "cannot be ended"


def stop_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("nobody waits for this answer any more")
