"""The program that a worker runs: loads one model and answers with it. `python -m galago.runtime.worker.main HANDLE`

HANDLE is the inherited end of a connection. When the other end is gone, so is this process. Loads no llama.cpp until it
has given its first sign of life.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ...models.errors import Cancelled, GalagoError
from ...models.files import ModelFiles
from ...models.gguf.reader import read_header
from ..inference.stream import Stream
from ..process.channel import Channel
from ..process.messages import (
    Accepted,
    Cancel,
    EventMessage,
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
    decode,
)
from ..process.spawn import inherited
from ..types.events import Event, Failed, Finished, Started
from ..types.model_info import Stats

if TYPE_CHECKING:
    from ..inference.loader import LoadedModel

_AT_ONCE = 32
"""Prompts prepared at once; answers take no thread."""


class WorkerJob:
    """A request that is being answered. `left` says that nobody waits for it any more; `begun`, that the first piece of
    its answer is on its way."""

    def __init__(self) -> None:
        self.left = threading.Event()
        self.stream: Stream | None = None
        self.begun = False

    def leave(self) -> None:
        self.left.set()
        if self.stream is not None:
            self.stream.close()


class ModelWorker:
    """Does what the messages say, with one model."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._pool = ThreadPoolExecutor(_AT_ONCE, "galago-prepare")
        self._model: LoadedModel | None = None
        self._jobs: dict[int, WorkerJob] = {}

    def get_ready(self) -> None:
        """Begins to import what `Load` will need; what fails will fail there again."""
        self._pool.submit(importlib.import_module, "galago.runtime.inference.loader")

    def take(self, message: ToWorker) -> bool:
        """Returns `False` when that was the last one."""
        match message:
            case Load():
                self._pool.submit(self._load, message)
            case Generate(number, request):
                job = self._jobs[number] = WorkerJob()
                self._pool.submit(self._generate, number, request, job)
            case RunTask(number, task):
                job = self._jobs[number] = WorkerJob()
                self._pool.submit(self._do, number, task, job)
            case Cancel(number) if number in self._jobs:
                self._jobs[number].leave()
                self._refuse(number, Cancelled("nobody waits for this answer any more"))
            case Shutdown():
                self._close()
                return False
        return True

    def _close(self) -> None:
        """Ends what is running, with an error on its streams. While the model loads, the process ends at once."""
        if self._model is None:
            os._exit(0)
        self._model.close()

    def stats(self) -> Stats:
        return Stats() if self._model is None else self._model.stats()

    def _load(self, load: Load) -> None:
        try:
            from ..inference.loader import open_model
            from ..llamacpp.memory import zeros_given_back

            draft = None if load.draft is None else ModelFiles("draft", load.draft, read_header(load.draft), None)
            header = read_header(load.weights)
            files = ModelFiles(load.name, load.weights, header, load.projector, load.trusted, load.adapters, draft)
            with zeros_given_back():
                self._model = open_model(files, load.config, self._progress, isolated=True)
            self._channel.send(ModelLoaded(self._model.info))
            self._channel.send(Heartbeat(self.stats()))
        except Exception as error:
            self._channel.send(LoadFailed(_told(error)))

    def _progress(self, done: float) -> None:
        self._channel.send(LoadProgress(done))

    def _generate(self, number: int, request: bytes, job: WorkerJob) -> None:
        try:
            assert self._model is not None
            job.stream = stream = self._model.generate(decode(request), job.left.is_set)
        except Exception as error:
            self._refuse(number, _told(error))
            return
        if job.left.is_set():  # it left between the last question and the stream
            stream.close()
        self._channel.send(Accepted(number))
        stream.forward(lambda event: self._pass_on(number, event, job))

    def _do(self, number: int, task: bytes, job: WorkerJob) -> None:
        try:
            assert self._model is not None
            result = self._model.answer(decode(task), job.left.is_set)
        except Exception as error:
            self._refuse(number, _told(error))
            return
        self._jobs.pop(number, None)
        self._channel.send(TaskDone(number, result))

    def _pass_on(self, number: int, event: Event, job: WorkerJob) -> None:
        ended = isinstance(event, Finished | Failed)
        if ended:
            self._jobs.pop(number, None)
        self._channel.send(EventMessage(number, event), urgent=ended or not job.begun)
        job.begun = not isinstance(event, Started)

    def _refuse(self, number: int, error: GalagoError) -> None:
        self._jobs.pop(number, None)
        self._channel.send(Refused(number, error))


def _told(error: Exception) -> GalagoError:
    """What the other side hears of an error; of one that nobody foresaw the rest goes to standard error."""
    if isinstance(error, GalagoError):
        return error
    traceback.print_exception(error)
    return GalagoError(f"unforeseen: {type(error).__name__}")


def _beat(channel: Channel, answers: ModelWorker) -> None:
    while True:
        channel.send(Heartbeat(answers.stats()))
        time.sleep(1)


def main(handle: int) -> None:
    channel = Channel(inherited(handle))
    answers = ModelWorker(channel)
    threading.Thread(target=_beat, args=(channel, answers), name="galago-beat", daemon=True).start()
    answers.get_ready()
    try:
        while all(map(answers.take, channel.receive())):
            pass
    except (EOFError, OSError):
        os._exit(0)  # nobody is left to say anything to, and the model may be deep in its work
    channel.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
