"""A model in a child process, behind the interface of `Model`: when the process dies, it is started again.

A request that has ended it twice, all alone, is refused from then on. Knows no HTTP.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from ...models.errors import EngineCrashed, EngineError, InvalidRequest, NotReady
from ...models.files import ModelFiles
from ..config import ModelConfig
from ..inference.stream import Stream
from ..process.messages import Load, encode
from ..process.spawn import WorkerProcess
from ..types.model_info import ModelInfo, Stats
from ..types.request import Request
from ..types.tasks import R, Task
from .client import PendingCall, WorkerClient, stop_if

T = TypeVar("T")

_PATIENCE = 30.0  # seconds that a request waits for a process that is being started again
_POLL = 0.05
_GRACE = 3.0  # seconds to end in good order
_TOO_OFTEN = 2
_LONGEST_PAUSE = 60.0


class WorkerSupervisor:
    """A model that answers from a process of its own, which may have been `started` for it.

    `progress` is called with the fraction of the weights loaded.
    """

    def __init__(
        self,
        files: ModelFiles,
        config: ModelConfig | None = None,
        progress: Callable[[float], None] | None = None,
        started: WorkerProcess | None = None,
    ) -> None:
        self._name = files.id
        self._load = Load(
            name=files.id,
            weights=files.weights,
            projector=files.projector,
            trusted=files.trusted,
            adapters=files.adapters,
            draft=files.draft.weights if files.draft else None,
            config=config or ModelConfig(),
        )
        self._progress = progress
        self._changed = threading.Condition()
        self._closed = False
        self._crashes = self._restarts = 0
        self._blame: Counter[bytes] = Counter()
        self._child = WorkerClient(self._load, started)
        try:
            self.info: ModelInfo = self._child.load(progress)
        except BaseException:
            self._child.discard()
            raise
        self._ready = True
        self._thread = threading.Thread(target=self._run, name="galago-worker", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether there is a process that answers."""
        return self._ready

    def stats(self) -> Stats:
        """What its process said last, at most a second ago, and how often that was started again."""
        return replace(self._child.stats, restarts=self._restarts)

    def generate(self, request: Request, cancelled: Callable[[], bool] = lambda: False) -> Stream:
        """As `Model.generate`; waits a while for a process that is being started again, and then raises `NotReady`."""
        return self._asked(encode(request), cancelled, WorkerClient.ask)

    def answer(self, task: Task[R], cancelled: Callable[[], bool] = lambda: False) -> R:
        """As `Model.answer`, with the same patience."""
        result: R = self._asked(encode(task), cancelled, WorkerClient.do).result
        return result

    def _asked(self, packed: bytes, cancelled: Callable[[], bool], ask: Callable[..., T | None]) -> T:
        digest = hashlib.blake2b(packed, digest_size=16).digest()
        deadline = time.monotonic() + _PATIENCE
        answer = None
        while answer is None:
            child = self._ready_child(cancelled, deadline)
            if self._blame[digest] >= _TOO_OFTEN:
                raise InvalidRequest("this request has crashed the model's process twice, so it is refused now")
            answer = ask(child, packed, digest, cancelled)
        return answer

    def close(self) -> None:
        """Ends what is still running, with an error on its streams, and the process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._child.stop()
        self._thread.join(_GRACE)
        self._child.kill()
        self._thread.join()

    def _ready_child(self, cancelled: Callable[[], bool], deadline: float) -> WorkerClient:
        with self._changed:
            while not self._ready or self._closed:
                if self._closed:
                    raise EngineError("the model is closed")
                stop_if(cancelled)
                if time.monotonic() > deadline:
                    raise NotReady("the model's process is being started again; try again in a moment")
                self._changed.wait(_POLL)
            return self._child

    def _run(self) -> None:
        """Listens to one child after another until `close`."""
        while True:
            calls = self._child.listen(self._finished)
            with self._changed:
                self._ready = False
                closed = self._closed
            if not closed:
                self._take_note(calls)
            for call in calls:
                call.fail(EngineError("the model was closed") if closed else self._crashed())
            if not self._start_again():
                return

    def _finished(self, call: PendingCall) -> None:
        self._crashes = 0
        del self._blame[call.digest]

    def _take_note(self, calls: list[PendingCall]) -> None:
        if len(calls) == 1:
            self._blame[calls[0].digest] += 1
        self._crashes += 1
        self._restarts += 1
        pause = _pause(self._crashes)
        when = f"in {pause:g} s" if pause else "now"
        _say(f"the worker of {self._name} {self._child.end}; it is started again {when}")

    def _crashed(self) -> EngineCrashed:
        return EngineCrashed(f"the model's process {self._child.end}; it is started again, so try again in a moment")

    def _start_again(self) -> bool:
        """Returns when a child answers again, with `True`, or after `close`."""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, _pause(self._crashes)):
                    return False
            try:
                with self._changed:
                    if self._closed:
                        return False
                    self._child = WorkerClient(self._load)
                self.info = self._child.load(self._progress)
            except Exception as error:
                self._child.discard()
                self._crashes += 1
                if not self._closed:
                    _say(f"the worker of {self._name} cannot load its model: {error}")
            else:
                with self._changed:
                    self._ready = True
                    self._changed.notify_all()
                return True


def _pause(crashes: int) -> float:
    """Seconds before the next start, after so many crashes without a finished request between them."""
    return 0.0 if crashes < 3 else min(2.0 ** (crashes - 3), _LONGEST_PAUSE)


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads it
        print(f"galago: {line}", file=sys.stderr, flush=True)
