"""Has grammars written and tried in child processes, which may take their time, hang or crash."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...models import errors
from ...models.errors import Cancelled, GalagoError, InvalidRequest
from ..process.spawn import EXIT_GRACE_SECONDS, WorkerProcess, python_command
from ..types.limits import limit, limit_error

_PROCESSES = 2
_POLL_SECONDS = 0.02
_TIMEOUT_FACTOR = 2
"""A grammar may take so many times longer than its processor time, because other processes may use the processor."""


class TrialFailed(Exception):
    """A grammar could not be tried: it took too long, or ended its process."""

    def __init__(self, problem: str, limit_name: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self._limit_name = limit_name

    def error(self, field: str) -> GalagoError:
        """The error for the caller, which names the field of the request."""
        what = f"the {field} cannot be used: {self.problem}"
        if self._limit_name is None:
            return InvalidRequest(f"{what}; make it simpler", field)
        return limit_error(self._limit_name, f"{what}; make it simpler", field)


class GrammarProcesses:
    """A few child processes for one model. They are started when needed, and exit if they have nothing to do.

    `describe_model` returns the first message for each of them.
    """

    def __init__(self, describe_model: Callable[[], bytes]) -> None:
        self._describe_model = describe_model
        self._free = threading.Semaphore(_PROCESSES)
        self._idle: list[WorkerProcess] = []

    def write(self, order: str, cancelled: Callable[[], bool]) -> list[Any]:
        """Returns a grammar's text, its field, the tools' schemas as enforced, and the warnings.

        Raises what the writer raised, `TrialFailed` if it could not write the grammar, and `Cancelled`.
        """
        with self._turn(cancelled):
            reply = self._ask(order, cancelled)
        match reply:
            case ["grammar", *parts]:
                return parts
            case ["error", name, message, param]:
                raise getattr(errors, name)(message, param)
        raise _too_large()

    def close(self) -> None:
        while self._idle:
            _end(self._idle.pop())

    @contextmanager
    def _turn(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        while not self._free.acquire(timeout=_POLL_SECONDS):
            _raise_if(cancelled)
        try:
            yield
        finally:
            self._free.release()

    def _ask(self, order: str, cancelled: Callable[[], bool]) -> Any:
        while self._idle:
            process = self._idle.pop()
            if process.wait(0) is None:
                break
            _end(process)
        else:
            process = self._start()
        try:
            process.connection.send_bytes(order.encode())
            self._wait(process, cancelled)
            reply = json.loads(process.connection.recv_bytes())
        except (EOFError, OSError, ValueError):
            code = process.wait(EXIT_GRACE_SECONDS)
            _end(process)
            raise _failure(code) from None
        except BaseException:
            _end(process)
            raise
        self._idle.append(process)
        return reply

    def _start(self) -> WorkerProcess:
        process = WorkerProcess(python_command("galago.runtime.output.grammar_program", limit("grammar_memory")))
        try:
            process.connection.send_bytes(self._describe_model())
        except OSError:
            _end(process)
            raise GalagoError("the process that compiles grammars could not be started; try again") from None
        return process

    def _wait(self, process: WorkerProcess, cancelled: Callable[[], bool]) -> None:
        """Waits for the reply. Counts polls, since time in which this process is stopped must hardly count."""
        for _ in range(int(limit("grammar_seconds") * _TIMEOUT_FACTOR / _POLL_SECONDS)):
            if process.connection.poll(_POLL_SECONDS):
                return
            _raise_if(cancelled)
        raise _too_slow()


def describe_model(
    tokens: list[bytes], end_tokens: list[int], tool_format: str, control_tokens: dict[str, int]
) -> bytes:
    """The first message for a child process, about the model whose grammars it writes."""
    return json.dumps([[token.decode("latin-1") for token in tokens], end_tokens, tool_format, control_tokens]).encode()


def _end(process: WorkerProcess) -> None:
    process.kill()
    process.reap()
    process.connection.close()


def _raise_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("the caller has left")


def _failure(code: int | None) -> TrialFailed:
    if code == -getattr(signal, "SIGPROF", 0) != 0:
        return _too_slow()
    if code == -signal.SIGABRT:  # so ends a Rust program that gets no memory
        return _too_large()
    return TrialFailed("it is nested too deeply or too large to be compiled")


def _too_slow() -> TrialFailed:
    return TrialFailed("it takes too long to compile", "grammar_seconds")


def _too_large() -> TrialFailed:
    return TrialFailed("it takes too much memory to compile", "grammar_memory")
