"""A worker that sends a forbidden message is killed: its requests fail with one error, and another takes over."""

from __future__ import annotations

import math
import multiprocessing
import os
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec import Raw, msgpack

from fakes.waiting import wait_until
from galago.models.errors import EngineCrashed, EngineError, GalagoError
from galago.models.registry.resolve import resolve
from galago.runtime.config import ModelConfig
from galago.runtime.process.channel import Channel, decode, encode
from galago.runtime.process.messages import (
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
)
from galago.runtime.types.events import Delta, Event, Failed, Finished, Started, Timings, Usage
from galago.runtime.types.messages import Message, Text
from galago.runtime.types.model_info import ModelInfo, Stats
from galago.runtime.types.placement import LoadPlan
from galago.runtime.types.request import Request
from galago.runtime.types.tasks import Embed, Scores, Tokenize, Vectors
from galago.runtime.worker import supervisor
from galago.runtime.worker.policy import MAX_CHARACTERS_PER_TOKEN, MAX_REPORTS_PER_SECOND
from galago.runtime.worker.supervisor import WorkerSupervisor

BUILTIN = resolve("builtin")
INFO = ModelInfo("double", "", 64, 0, 0, False, False, 0)
REQUEST = Request((Message("user", (Text("Hi"),)),), max_tokens=3)
FINISHED = Finished("stop", Usage(1, 1), Timings(0.0, 0.0, 0.0))
ANSWER = (Started(1), Delta("Yes", 1), FINISHED)


def write(*messages: object) -> bytes:
    """One write with these messages, which may be encoded already."""
    encoded = [message if isinstance(message, bytes) else encode(message) for message in messages]
    return framed(msgpack.encode([Raw(data) for data in encoded]))


def framed(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


def begun(number: int) -> tuple[object, ...]:
    return Accepted(number), EventMessage(number, Started(1))


def array(*fields: object) -> bytes:
    return msgpack.encode(list(fields))


def event(number: int, *fields: object) -> bytes:
    return array("EventMessage", number, list(fields))


class Double:
    """Replaces a worker's process: a thread that loads no model, and answers requests as `answer` says."""

    def __init__(self, answer: Callable[[int], bytes], load: bytes) -> None:
        self.connection, self._end = multiprocessing.Pipe()
        self._answer, self._load = answer, load
        self._killed = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def kill(self) -> None:
        self._killed.set()

    def reap(self) -> str:
        self._killed.set()
        self._thread.join()
        return "was killed"

    def _run(self) -> None:
        while not self._killed.is_set():
            if not self._end.poll(0.01):
                continue
            try:
                received = decode(self._end.recv_bytes(), list[ToWorker])
                for message in received:
                    self._obey(message)
            except (EOFError, OSError):
                break
        self._end.close()

    def _obey(self, message: ToWorker) -> None:
        match message:
            case Load():
                self._write(self._load)
            case Generate(number) | RunTask(number):
                self._write(self._answer(number))
            case Shutdown():
                self._killed.set()

    def _write(self, data: bytes) -> None:
        """Writes until it is killed, even if the other side does not read."""
        with socket.socket(fileno=os.dup(self._end.fileno())) as end:
            while data and not self._killed.is_set():
                try:
                    data = data[end.send(data[: 1 << 20], socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    time.sleep(0.01)


def right(number: int) -> bytes:
    return write(Accepted(number), *(EventMessage(number, each) for each in ANSWER))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., WorkerSupervisor]]:
    """Starts a worker that first answers wrongly, and correctly after a restart."""
    started: list[WorkerSupervisor] = []

    def start(wrong: Callable[[int], bytes], load: bytes = b"", hang_limit: float = 30) -> WorkerSupervisor:
        loaded = write(Heartbeat(Stats(), 0.0), LoadProgress(1.0), ModelLoaded(INFO))
        answers = iter([wrong])
        monkeypatch.setattr(supervisor, "WorkerProcess", lambda: Double(next(answers, right), load or loaded))
        started.append(WorkerSupervisor(BUILTIN, lambda: LoadPlan(ModelConfig(hang_limit=hang_limit))))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


def outcome(ask: Callable[[], Any]) -> tuple[list[Event], GalagoError | None]:
    """The events of an answer, and the error that it ended with."""
    try:
        events = list(ask())
    except GalagoError as error:
        return [], error
    assert not any(isinstance(each, Failed | Finished) for each in events[:-1])
    return events, events[-1].error if isinstance(events[-1], Failed) else None


WRONG_BYTES: dict[str, Callable[[int], bytes]] = {
    "deep nesting": lambda n: framed(b"\x91" * 100_000 + b"\xc0"),
    "deep nesting in a field": lambda n: write(
        event(n, "Delta", "a", 1, []).replace(b"\x90", b"\x91" * 5000 + b"\xc0")
    ),
    "deep JSON": lambda n: write(
        Accepted(n),
        event(n, "Started", 1, [], [], ["ParserSpec", "hermes", [["Tool", "f", None, ["JSON", "[" * 200_000], False]],
                                        None, False, False]),
    ),
    "broken JSON": lambda n: write(
        event(n, "Started", 1, [], [], ["ParserSpec", "hermes", [["Tool", "f", None, ["JSON", "{"], False]],
                                        None, False, False]),
    ),
    "a length of 1 TB": lambda n: struct.pack("!iQ", -1, 1 << 40) + bytes(64),
    "a negative length": lambda n: struct.pack("!i", -2),
    "a length beyond the limit": lambda n: struct.pack("!i", (64 << 20) + 1),
    "an empty write": lambda n: framed(b""),
    "no message in a write": lambda n: framed(b"\x90"),
    "4 billion messages": lambda n: framed(b"\xdd\xff\xff\xff\xff"),
    "garbage": lambda n: framed(bytes(range(256)) * 4),
    "text without a frame": lambda n: b"Traceback (most recent call last):\n",
    "a class that does not exist": lambda n: write(array("Nonsense", n)),
    "a number for a class": lambda n: write(array(7, n)),
    "a map for a message": lambda n: write(msgpack.encode({"number": n})),
    "an event of no kind": lambda n: write(Accepted(n), event(n, "Heartbeat", 1)),
    "an event that only a parser makes": lambda n: write(*begun(n), event(n, "ToolCallStart", 0, "id", "f")),
    "a text for a number": lambda n: write(array("Accepted", str(n))),
    "a bool for a number": lambda n: write(array("Accepted", True)),
    "a float for a number": lambda n: write(array("Accepted", float(n))),
    "nothing for a text": lambda n: write(*begun(n), event(n, "Delta", None, 1, [])),
    "bytes for a text": lambda n: write(*begun(n), event(n, "Delta", b"a", 1, [])),
    "an unknown word for a reason": lambda n: write(
        *begun(n), encode(EventMessage(n, FINISHED)).replace(b"stop", b"haha")
    ),
    "too few fields": lambda n: write(*begun(n), event(n, "Delta", "a")),
    "too many fields": lambda n: write(*begun(n), event(n, "Delta", "a", 1, [], 5)),
    "invalid UTF-8": lambda n: write(*begun(n), event(n, "Delta", "abcd", 1, []).replace(b"abcd", b"ab\xff\xfe")),
    "NaN in a heartbeat": lambda n: write(Heartbeat(Stats(step_seconds=math.nan), 0.0)),
    "an infinite heartbeat": lambda n: write(Heartbeat(Stats(), math.inf)),
    "NaN in the timings": lambda n: write(
        *begun(n), EventMessage(n, Finished("stop", Usage(1, 1), Timings(math.nan, 0, 0)))
    ),
    "a number beyond 64 bits": lambda n: write(b"\x92\xa8Accepted\xc7\x10\x05" + bytes(16)),
    "an error of no kind": lambda n: write(array("Refused", n, ["Error", "SystemExit", "bye", None])),
    "an error that is no error of ours": lambda n: write(array("Refused", n, ["Error", "__builtins__", "bye", None])),
    "a half message in a list": lambda n: framed(b"\x91\x93\xacEventMessage"),
    "trailing bytes": lambda n: framed(msgpack.encode([["Accepted", n]]) + b"\xc0"),
}  # fmt: skip

WRONG_MESSAGES: dict[str, Callable[[int], bytes]] = {
    "a request to the parent": lambda n: write(Generate(n, b"")),
    "a task for the parent": lambda n: write(RunTask(n, b"")),
    "a cancellation of the parent": lambda n: write(Cancel(n)),
    "an order to shut down": lambda n: write(Shutdown()),
    "a second model": lambda n: write(ModelLoaded(INFO)),
    "progress after the end of loading": lambda n: write(LoadProgress(0.5)),
    "a failed load after a successful one": lambda n: write(LoadFailed(EngineError("late"))),
    "another request": lambda n: write(Accepted(n + 1)),
    "a negative number": lambda n: write(Accepted(-1)),
    "the largest number": lambda n: write(Accepted(2**64 - 1)),
    "an error for another request": lambda n: write(Refused(n + 100, EngineError("no"))),
    "an event before it is accepted": lambda n: write(EventMessage(n, Started(1))),
    "accepted twice": lambda n: write(Accepted(n), Accepted(n)),
    "text before the start": lambda n: write(Accepted(n), EventMessage(n, Delta("a"))),
    "an end before the start": lambda n: write(Accepted(n), EventMessage(n, FINISHED)),
    "two starts": lambda n: write(*begun(n), EventMessage(n, Started(1))),
    "a task's result for a request": lambda n: write(TaskDone(n, Scores((1.0,), 1))),
    "more tokens than asked for": lambda n: write(*begun(n), *(EventMessage(n, Delta("a")) for _ in range(4))),
    "many tokens at once": lambda n: write(*begun(n), EventMessage(n, Delta("a", 4))),
    "pieces without tokens": lambda n: write(*begun(n), EventMessage(n, Delta("a", 0))),
    "a negative count of tokens": lambda n: write(*begun(n), EventMessage(n, Delta("a", -5))),
    "a very long piece": lambda n: write(
        *begun(n), EventMessage(n, Delta("a" * (3 * MAX_CHARACTERS_PER_TOKEN + 1), 1))
    ),
    "a flood of events for an unknown request": lambda n: (
        write(*(EventMessage(n + 7, Delta("flood")) for _ in range(4000))) * 50
    ),
    "a flood of heartbeats": lambda n: write(*[Heartbeat(Stats(), 0.0)] * 4000) * (MAX_REPORTS_PER_SECOND * 60 // 4000),
}


@pytest.mark.parametrize("wrong", [*WRONG_BYTES, *WRONG_MESSAGES])
def test_a_request_ends_with_one_error_and_the_worker_is_restarted(
    start: Callable[..., WorkerSupervisor], wrong: str, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = start((WRONG_BYTES | WRONG_MESSAGES)[wrong])
    _, error = outcome(lambda: worker.generate(REQUEST))
    assert type(error) is EngineCrashed
    assert "the model's process sent " in error.message and "it is being restarted" in error.message
    assert outcome(lambda: worker.generate(REQUEST)) == (list(ANSWER), None)
    assert worker.ready and worker.stats().restarts == 1
    assert "Traceback" not in capfd.readouterr().err


def test_every_open_request_ends_when_one_is_answered_wrongly(start: Callable[..., WorkerSupervisor]) -> None:
    worker = start(lambda number: write(*begun(number)) if number < 2 else write(array("Accepted", "x")))
    first, second = worker.generate(REQUEST), worker.generate(REQUEST)
    assert isinstance(outcome(lambda: worker.generate(REQUEST))[1], EngineCrashed)
    for stream in (first, second):
        events, error = outcome(lambda stream=stream: stream)  # type: ignore[misc]
        assert events[0] == Started(1) and isinstance(error, EngineCrashed)


def test_the_service_is_not_ready_while_the_worker_is_restarted(start: Callable[..., WorkerSupervisor]) -> None:
    loading = threading.Event()
    worker = start(lambda number: write(array("Accepted", "x")))
    plan = worker._plan

    def plan_later() -> LoadPlan:
        assert loading.wait(30)
        return plan()

    worker._plan = plan_later
    assert isinstance(outcome(lambda: worker.generate(REQUEST))[1], EngineCrashed)
    assert not worker.ready
    loading.set()
    wait_until(lambda: worker.ready)


@pytest.mark.parametrize("late", [Delta("more"), FINISHED, Started(1), Failed(EngineError("late"))])
def test_what_follows_the_end_of_an_answer_ends_the_worker(start: Callable[..., WorkerSupervisor], late: Any) -> None:
    worker = start(lambda number: right(number) + write(EventMessage(number, late)))
    assert outcome(lambda: worker.generate(REQUEST)) == (list(ANSWER), None)
    wait_until(lambda: worker.stats().restarts == 1 and worker.ready)
    assert outcome(lambda: worker.generate(REQUEST)) == (list(ANSWER), None)


@pytest.mark.parametrize(
    ("task", "answers"),
    [
        (Embed(("a", "b")), [TaskDone(0, Vectors(bytes(8), 1, 2)), Refused(0, EngineError("no"))]),
        (Embed(("a", "b")), [TaskDone(0, Vectors(bytes(8), 1, 2)), TaskDone(0, Vectors(bytes(8), 1, 2))]),
    ],
)
def test_a_second_answer_to_a_task_ends_the_worker(
    start: Callable[..., WorkerSupervisor], task: Any, answers: list[Any]
) -> None:
    worker = start(lambda number: write(*answers))
    assert worker.run_task(task) == Vectors(bytes(8), 1, 2)
    wait_until(lambda: worker.stats().restarts == 1 and worker.ready)


@pytest.mark.parametrize(
    ("task", "result"),
    [
        (Embed(("a", "b")), Vectors(bytes(4), 1, 1)),
        (Embed(("a", "b")), Vectors(bytes(8), 0, 1)),
        (Embed(("a", "b")), Scores((1.0, 2.0), 1)),
        (Tokenize("a"), Vectors(bytes(8), 1, 1)),
        (Tokenize("a"), None),
    ],
)
def test_a_result_that_does_not_answer_the_task_ends_the_worker(
    start: Callable[..., WorkerSupervisor], task: Any, result: Any
) -> None:
    worker = start(lambda number: write(TaskDone(number, result)))
    error = outcome(lambda: worker.run_task(task))[1]
    assert isinstance(error, EngineCrashed) and "sent" in error.message


def test_a_message_that_stops_halfway_counts_as_no_sign_of_life(start: Callable[..., WorkerSupervisor]) -> None:
    worker = start(lambda number: write(*begun(number))[:20], hang_limit=2)
    error = outcome(lambda: worker.generate(REQUEST))[1]
    assert isinstance(error, EngineCrashed) and "gave no sign of life for 2 s" in error.message


@pytest.mark.parametrize(
    "load",
    [write(Accepted(0)), write(ModelLoaded(INFO))[:-1] + b"\xc1", struct.pack("!iQ", -1, 1 << 40), write(Shutdown())],
)
def test_a_worker_that_says_something_else_while_it_loads_is_an_error(
    start: Callable[..., WorkerSupervisor], load: bytes
) -> None:
    with pytest.raises(EngineCrashed, match="the process that loads builtin sent"):
        start(right, load)


def test_the_announced_length_takes_no_memory() -> None:
    """Only the start of a message just below the limit arrives."""
    here, there = multiprocessing.Pipe()
    channel = Channel(here)
    os.write(there.fileno(), struct.pack("!i", 64 << 20) + bytes(1000))
    tracemalloc.start()
    with pytest.raises(TimeoutError):
        channel.receive(0.1)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    there.close()
    channel.close()


def test_a_message_that_arrives_byte_by_byte_has_to_end_in_time() -> None:
    here, there = multiprocessing.Pipe()
    channel, enough = Channel(here), threading.Event()

    def drip() -> None:
        os.write(there.fileno(), struct.pack("!i", 1 << 20))
        while not enough.wait(0.005):
            os.write(there.fileno(), b"\0")

    thread = threading.Thread(target=drip)
    thread.start()
    with pytest.raises(TimeoutError):
        channel.receive(0.2)
    enough.set()
    thread.join()
    there.close()
    channel.close()
