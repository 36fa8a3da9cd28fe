"""The program of a worker: loads one model and answers with it. `python -m galago.runtime.worker.main HANDLE`

HANDLE is the worker's end of a connection. The worker exits when the other end is closed. It sends its first heartbeat
before it loads llama.cpp.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

from ...models.errors import Cancelled, GalagoError
from ...models.files import ModelFiles
from ...models.gguf.reader import read_header
from ..inference.stream import Stream
from ..log import log
from ..process.channel import BufferedChannel, decode
from ..process.limits import limit_this_process
from ..process.messages import (
    Accepted,
    Cancel,
    Content,
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
from ..process.spawn import inherited_connection
from ..types.events import Delta, Event, Failed, Finished, Started
from ..types.model_info import Stats
from ..types.request import Request

if TYPE_CHECKING:
    from ..inference.loader import LoadedModel

PREPARATION_THREADS = 32
"""Requests that are prepared at once. A running answer needs no thread."""

CONSTRAINED_THREADS = 512
"""Requests with tools, schemas or grammars that are prepared at once. Most of the time they wait for each other, and no
other request waits for them."""

HEARTBEAT_SECONDS = 1.0

MAX_OPEN_FILES = 4096
MIN_FILE_BYTES = 1 << 30
"""Size up to which a worker may write files, if its disk cache needs less: its log may also be a file."""

WORK_BYTES = 8 << 30
"""Memory that a worker may allocate for requests, in addition to its loaded model and its cache."""

LoadFunction: TypeAlias = "Callable[[Load, Callable[[float], None]], LoadedModel]"


class ActiveRequest:
    """A request or task in progress."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.stream: Stream | None = None
        self.has_output = False
        """Whether the first piece of the answer was sent."""

    def cancel(self) -> None:
        self.cancelled.set()
        if self.stream is not None:
            self.stream.close()


class ModelWorker:
    """Handles the parent's messages with one model."""

    def __init__(self, channel: BufferedChannel, load: LoadFunction) -> None:
        self._channel = channel
        self._load_model = load
        self._threads = ThreadPoolExecutor(PREPARATION_THREADS, "galago-prepare")
        self._constrained_threads = ThreadPoolExecutor(CONSTRAINED_THREADS, "galago-constrain")
        self._model: LoadedModel | None = None
        self._requests: dict[int, ActiveRequest] = {}
        self._sending = threading.Lock()

    def import_ahead(self) -> None:
        """Starts to import the modules that `Load` needs. An import that fails will fail there again."""
        self._threads.submit(importlib.import_module, "galago.runtime.inference.loader")

    def handle(self, message: ToWorker) -> bool:
        """Handles a message. Returns `False` if it was the last one."""
        match message:
            case Load():
                self._submit(self._load, message)
            case Generate(number, data):
                self._submit(self._generate, number, data, self._register(number))
            case RunTask(number, data):
                self._submit(self._run_task, number, data, self._register(number))
            case Cancel(number):
                self._refuse(number, Cancelled("the caller has left"))
            case Shutdown():
                self._close()
                return False
        return True

    def send_heartbeats(self) -> None:
        while True:
            self._send_heartbeat()
            time.sleep(HEARTBEAT_SECONDS)

    def _register(self, number: int) -> ActiveRequest:
        request = self._requests[number] = ActiveRequest()
        return request

    def _submit(self, function: Callable[..., None], *arguments: Any) -> None:
        self._threads.submit(_or_exit, function, *arguments)

    def _close(self) -> None:
        """Ends running requests with an error on their streams. A worker that still loads its model exits at once."""
        if self._model is None:
            os._exit(0)
        self._model.close()

    def _send_heartbeat(self) -> None:
        stats = Stats() if self._model is None else self._model.stats()
        self._channel.send(Heartbeat(stats, time.process_time()))

    def _load(self, load: Load) -> None:
        limit_this_process(file_bytes=max(MIN_FILE_BYTES, load.config.cache_disk_mib << 20))
        try:
            self._model = self._load_model(load, lambda fraction: self._channel.send(LoadProgress(fraction)))
            _limit_memory(load)
            self._channel.send(ModelLoaded(self._model.info))
            self._send_heartbeat()
        except Exception as error:
            self._channel.send(LoadFailed(_as_galago_error(error)))

    def _generate(self, number: int, data: bytes, request: ActiveRequest) -> None:
        try:
            content: Request = decode(data, Request)
        except Exception as error:
            self._refuse(number, _as_galago_error(error))
            return
        if content.is_constrained:
            self._constrained_threads.submit(_or_exit, self._answer, number, content, request)
        else:
            self._answer(number, content, request)

    def _answer(self, number: int, content: Request, request: ActiveRequest) -> None:
        try:
            assert self._model is not None
            request.stream = stream = self._model.generate(content, request.cancelled.is_set)
        except Exception as error:
            self._refuse(number, _as_galago_error(error))
            return
        if request.cancelled.is_set():  # between the last check in `generate` and its return
            stream.close()
        self._say(number, Accepted(number))
        stream.forward(lambda event: self._send_event(number, event, request))

    def _run_task(self, number: int, data: bytes, request: ActiveRequest) -> None:
        try:
            assert self._model is not None
            result = self._model.run_task(decode(data, Content), request.cancelled.is_set)
        except Exception as error:
            self._refuse(number, _as_galago_error(error))
        else:
            self._say(number, TaskDone(number, result), last=True)

    def _send_event(self, number: int, event: Event, request: ActiveRequest) -> None:
        ended = isinstance(event, Finished | Failed)
        assert isinstance(event, Started | Delta | Finished | Failed), "the engine does not parse"
        self._say(number, EventMessage(number, event), last=ended, urgent=ended or not request.has_output)
        request.has_output = not isinstance(event, Started)

    def _refuse(self, number: int, error: GalagoError) -> None:
        request = self._requests.get(number)
        self._say(number, Refused(number, error), last=True)
        if request is not None:
            request.cancel()

    def _say(self, number: int, message: FromWorker, *, last: bool = False, urgent: bool = True) -> None:
        """Sends a message about a request, unless its last one was sent: the parent kills a worker that sends more."""
        try:
            data = self._channel.encode(message)
        except GalagoError as error:
            self._refuse(number, error)
            return
        with self._sending:
            if number not in self._requests:
                return
            if last:
                del self._requests[number]
            self._channel.send_encoded(data, urgent)


def load_model(load: Load, progress: Callable[[float], None]) -> LoadedModel:
    from ..inference.loader import open_model
    from ..llamacpp.memory import zero_pages_released

    draft = None if load.draft is None else ModelFiles("draft", load.draft, read_header(load.draft), None)
    header = read_header(load.weights)
    files = ModelFiles(load.name, load.weights, header, load.projector, load.trusted, load.adapters, draft)
    with zero_pages_released():
        return open_model(files, load.config, load.placement, progress)


def _limit_memory(load: Load) -> None:
    """Limits what is allocated from now on. Not with GPUs, whose drivers reserve large address ranges."""
    import psutil

    held_bytes = getattr(psutil.Process().memory_info(), "data", None)
    if held_bytes is not None and load.placement.gpu_layers == 0 and not load.placement.projector:
        limit_this_process(data_bytes=held_bytes + (load.config.cache_mib << 20) + WORK_BYTES)


def _as_galago_error(error: Exception) -> GalagoError:
    """Returns the error to send to the parent. The details of an unexpected one go to standard error."""
    if isinstance(error, GalagoError):
        return error
    traceback.print_exception(error)
    return GalagoError(f"internal error: {type(error).__name__}")


def _or_exit(function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function, and ends the process if it raises: the parent restarts a dead worker, not a damaged one."""
    try:
        function(*arguments)
    except BaseException as error:
        traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(1)


def _exit_on_thread_error(error: threading.ExceptHookArgs) -> None:
    traceback.print_exception(error.exc_type, error.exc_value, error.exc_traceback)
    name = error.thread.name if error.thread else "a thread"
    log(f"the worker exits because its thread {name} has died")
    os._exit(1)


def main(handle: int, load: LoadFunction = load_model) -> None:
    limit_this_process(open_files=MAX_OPEN_FILES)
    threading.excepthook = _exit_on_thread_error
    channel = BufferedChannel(inherited_connection(handle))
    worker = ModelWorker(channel, load)
    threading.Thread(target=worker.send_heartbeats, name="galago-heartbeat", daemon=True).start()
    worker.import_ahead()
    try:
        while all(map(worker.handle, channel.receive())):
            pass
    except (EOFError, OSError):
        os._exit(0)  # the parent is gone, and the model may be deep in a computation
    channel.close()


if __name__ == "__main__":
    _or_exit(main, int(sys.argv[1]))
