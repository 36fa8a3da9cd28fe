"""Writes and tries grammars in child processes, which may be slow, hang or crash."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

from ...models import errors
from ...models.errors import Cancelled, GalagoError, InvalidRequest
from ..process.spawn import EXIT_GRACE_SECONDS, WorkerProcess, python_command
from ..types.limits import limit, limit_error

_PROCESSES = 2
_POLL_SECONDS = 0.02
_START_SECONDS = 60.0
"""Time for a child to start; after that it is given up."""

_QUICK_SECONDS = 0.5
_SLOW_NICENESS = 5
"""Nice value of a slow child, so that running answers come first. Such a child is not used again."""

_TIMEOUT_FACTOR = 1.75
"""Elapsed time that a grammar may take, as a multiple of its CPU time: other processes use the CPU too."""


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
    """A few child processes for one model. They are started when needed, and exit when idle.

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
            process = self._start(cancelled)
        try:
            process.connection.send_bytes(order.encode())
            quick = _wait(process, _QUICK_SECONDS, cancelled)
            if not quick:
                _lower_priority(process.pid)
                if not _wait(process, limit("grammar_seconds") * _TIMEOUT_FACTOR, cancelled):
                    raise _too_slow()
            reply = json.loads(process.connection.recv_bytes())
        except (EOFError, OSError, ValueError):
            code = process.wait(EXIT_GRACE_SECONDS)
            _end(process)
            raise _failure(code) from None
        except BaseException:
            _end(process)
            raise
        if quick:
            self._idle.append(process)
        else:
            _end(process)
        return reply

    def _start(self, cancelled: Callable[[], bool]) -> WorkerProcess:
        process = WorkerProcess(python_command("galago.runtime.output.grammar_program", limit("grammar_memory")))
        try:
            process.connection.send_bytes(self._description)
            if _wait(process, _START_SECONDS, cancelled) and process.connection.recv_bytes() == b"ready":
                return process
        except (EOFError, OSError):
            pass
        except BaseException:
            _end(process)
            raise
        _end(process)
        raise GalagoError("the process that compiles grammars could not be started; try again")

    @cached_property
    def _description(self) -> bytes:
        return self._describe_model()


def _wait(process: WorkerProcess, seconds: float, cancelled: Callable[[], bool]) -> bool:
    """Whether a message comes in time. Counts polls, so that time in which this process is stopped hardly counts."""
    for _ in range(int(seconds / _POLL_SECONDS)):
        if process.connection.poll(_POLL_SECONDS):
            return True
        _raise_if(cancelled)
    return False


def _lower_priority(pid: int) -> None:
    import psutil

    with suppress(psutil.Error, OSError):  # it has ended
        child = psutil.Process(pid)
        if psutil.LINUX:  # where each thread has a priority of its own
            for thread in child.threads():
                os.setpriority(os.PRIO_PROCESS, thread.id, _SLOW_NICENESS)
        else:
            child.nice(getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", _SLOW_NICENESS))


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
    if code == -signal.SIGABRT:  # how a Rust program ends that runs out of memory
        return _too_large()
    return TrialFailed("it is nested too deeply or too large to be compiled")


def _too_slow() -> TrialFailed:
    return TrialFailed("it takes too long to compile", "grammar_seconds")


def _too_large() -> TrialFailed:
    return TrialFailed("it takes too much memory to compile", "grammar_memory")
