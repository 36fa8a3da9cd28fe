"""Workers that are half alive: the process sends heartbeats, but no answer will come. The model in them is a fake."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from galago.models.errors import EngineCrashed, GalagoError
from galago.models.registry.resolve import resolve
from galago.runtime.config import ModelConfig
from galago.runtime.process.messages import Heartbeat
from galago.runtime.process.spawn import WorkerProcess
from galago.runtime.types.events import Failed
from galago.runtime.types.messages import Message, Text
from galago.runtime.types.model_info import Stats
from galago.runtime.types.placement import LoadPlan
from galago.runtime.types.request import Request
from galago.runtime.worker import supervisor
from galago.runtime.worker.supervisor import StepWatch, WorkerSupervisor

PROGRAM = """
import sys, threading, time
from galago.runtime.inference.stream import Stream
from galago.runtime.types.events import Started
from galago.runtime.types.model_info import ModelInfo, Stats
from galago.runtime.worker.main import main

class Double:
    info = ModelInfo("double", "", 64, 0, 0, False, False, 0)
    busy = False

    def stats(self):
        if self.busy and FAULT == "report":
            raise LookupError("a bug in stats")
        return Stats(steps=7, step_seconds=1000.0 if self.busy and FAULT == "step" else 0.0)

    def generate(self, request, cancelled):
        stream = Stream()
        stream.put(Started(1))
        self.busy = True
        if FAULT == "thread":
            threading.Thread(target=self.fail, name="galago-engine").start()
        return stream

    def fail(self):
        raise LookupError("a bug in the engine")

    def close(self):
        pass

main(int(sys.argv[1]), lambda load, progress: Double())
"""
REQUEST = Request((Message("user", (Text("Hi"),)),))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], WorkerSupervisor]]:
    """Starts a worker whose model has a fault from its first request on."""
    workers: list[WorkerSupervisor] = []

    def start(fault: str) -> WorkerSupervisor:
        command = [sys.executable, "-c", PROGRAM.replace("FAULT", repr(fault))]
        monkeypatch.setattr(supervisor, "WorkerProcess", lambda: WorkerProcess(command))
        workers.append(WorkerSupervisor(resolve("builtin"), lambda: LoadPlan(ModelConfig(hang_limit=30))))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def fail(worker: WorkerSupervisor) -> GalagoError:
    """Returns the error that ends a request, before or after the worker has accepted it."""
    try:
        *_, end = worker.generate(REQUEST)
    except GalagoError as error:
        return error
    assert isinstance(end, Failed)
    return end.error


@pytest.mark.parametrize(
    ("fault", "ending"),
    [
        ("step", "was stuck in one step for more than 30 s and was killed by SIGKILL"),
        ("report", "exited with code 1"),
        ("thread", "exited with code 1"),
    ],
)
def test_a_half_alive_worker_is_ended_and_restarted(
    start: Callable[[str], WorkerSupervisor], fault: str, ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = start(fault)
    for restarts in (1, 2):
        error = fail(worker)
        assert isinstance(error, EngineCrashed)
        assert f"the model's process {ending}; it is being restarted" in error.message
        with worker._changed:
            assert worker._changed.wait_for(lambda: worker.ready, 30)
        assert worker.stats().restarts == restarts
    errors = capfd.readouterr().err
    assert f"the worker of builtin {ending}; restarting it now" in errors
    if fault != "step":
        name = "galago-engine" if fault == "thread" else "galago-heartbeat"
        assert "LookupError: a bug in" in errors and f"its thread {name} has died" in errors


def test_a_step_that_computes_may_take_longer_than_one_that_waits() -> None:
    def report(step: int, step_seconds: float, cpu_seconds: float) -> float | None:
        return watch.exceeded_seconds(Heartbeat(Stats(steps=step, step_seconds=step_seconds), cpu_seconds))

    watch = StepWatch(30)
    assert report(1, 29, 0) is None
    assert report(1, 31, 0.5) == 30  # waits for something that does not come
    assert report(2, 1, 1) is None
    assert report(2, 31, 31) is None  # a small machine computes a large step
    assert report(2, 299, 299) is None
    assert report(2, 301, 301) == 300
    assert report(3, 0, 301) is None  # idle since then
    assert report(3, 0, 301) is None


def test_a_worker_in_a_long_step_below_the_limit_is_left_alone(start: Callable[[str], WorkerSupervisor]) -> None:
    worker = start("none")
    stream = worker.generate(REQUEST)
    reports = threading.Event()
    first = worker._worker.stats
    while worker._worker.stats is first:  # one heartbeat later
        assert not reports.wait(0.01)
    assert worker.ready and worker.stats().restarts == 0
    stream.close()
