"""Starts child processes. No other module does.

Decides a child's environment, connects its standard streams, ends it when its time is up, and describes how it ended.
Imports little, so that a worker can be started before anything else is imported.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import IO, Any, TypeAlias

from ...models.errors import Cancelled
from ..environment import (
    cpu_environment,
    program_environment,
    session_environment,
    wants_native_log,
    worker_environment,
)

PipeEnd: TypeAlias = "Connection[Any, Any]"
"""One end of the connection between a worker and the process that started it."""

_POLL_SECONDS = 0.2
"""Polling interval, to notice that the caller has gone."""

EXIT_GRACE_SECONDS = 2.0
"""Time for a process to exit after it has closed its connection or was killed."""

_LAST_BYTES = 4096
"""Bytes at the end of a child's standard error that are searched for its last line."""


def describe_exit(code: int) -> str:
    """Completes a sentence whose subject is a process: "was killed by SIGSEGV", "exited with code 3"."""
    if code >= 0:
        return f"exited with code {code}"
    return f"was killed by {signal_name(-code)}"


def signal_name(number: int) -> str:
    """Returns a signal's name as people write it: SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True, slots=True)
class ChildResult:
    """How a child ended and what it wrote. `code` is negative, the number of a signal, if a signal killed it."""

    code: int
    stdout: bytes = b""
    stderr: bytes = b""
    timeout_seconds: float | None = None
    """Set if the child was killed because it took longer than this."""

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def timed_out(self) -> bool:
        return self.timeout_seconds is not None

    @property
    def killed(self) -> bool:
        """Returns whether a signal that was not sent here killed the child: it has crashed."""
        return self.code < 0 and not self.timed_out

    @property
    def out_of_cpu_time(self) -> bool:
        """Returns whether the system killed it for using more CPU time than `limits` allows."""
        return self.code == -getattr(signal, "SIGXCPU", 0) != 0

    @property
    def ending(self) -> str:
        """Completes a sentence whose subject is the child."""
        if self.timed_out:
            return f"did not finish within {self.timeout_seconds:.0f} s"
        return describe_exit(self.code)

    @property
    def last_line(self) -> str:
        """The last line of standard error that is not empty."""
        return _last_line(self.stderr)


def python_command(module: str, *arguments: object) -> list[str]:
    """Returns the command that runs a module. A `galago` folder in the current folder does not shadow this package."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def run_module(
    module: str,
    *arguments: object,
    stdin: bytes | None = None,
    hide_gpus: bool = False,
    timeout_seconds: float | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> ChildResult:
    """Runs a Galago module to its end in a child process. Kills it and raises `Cancelled` once `cancelled()`."""
    environment = cpu_environment() if hide_gpus else worker_environment()
    return _run(python_command(module, *arguments), stdin, environment, timeout_seconds, cancelled)


def run_program(command: Sequence[str]) -> ChildResult:
    """Runs another program to its end."""
    return _run(command, None, program_environment(), None)


def run_session_program(command: Sequence[str]) -> ChildResult:
    """Runs a program that talks to the user's own services to its end. Raises `FileNotFoundError`."""
    return _run(command, None, session_environment(), None)


def _run(
    command: Sequence[str],
    stdin: bytes | None,
    environment: dict[str, str],
    timeout_seconds: float | None,
    cancelled: Callable[[], bool] = lambda: False,
) -> ChildResult:
    given = subprocess.DEVNULL if stdin is None else subprocess.PIPE
    polls = itertools.count() if timeout_seconds is None else range(max(1, int(timeout_seconds / _POLL_SECONDS)))
    with subprocess.Popen(
        command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        if stdin is not None:
            _feed(process, stdin)
        try:
            for _ in polls:
                if cancelled():
                    raise Cancelled("the client is no longer waiting for this answer")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    out, err = process.communicate(timeout=_POLL_SECONDS)
                    return ChildResult(process.returncode, out, err)
            process.kill()
            return ChildResult(-signal.SIGTERM, *process.communicate(), timeout_seconds)
        except BaseException:
            process.kill()
            raise


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Writes to the child's standard input on a thread, until all is written or the child has ended.

    `communicate` cannot do it: after a timeout, it never writes the rest of its input.
    """
    stream, process.stdin = process.stdin, None
    assert stream is not None

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), stream:
            stream.write(data)

    threading.Thread(target=write, name="child input", daemon=True).start()


class RunningChild:
    """A child that is read and written while it works. Leaving the `with` block kills it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if wants_native_log() else self._log,
            env=worker_environment(),
        )
        assert self._process.stdin and self._process.stdout
        self.stdin: IO[bytes] = self._process.stdin
        self.stdout: IO[bytes] = self._process.stdout

    def result(self) -> ChildResult:
        """Waits for the child's end. Its standard output must have been read."""
        code = self._process.wait()
        self._log.seek(max(0, self._log.seek(0, 2) - _LAST_BYTES))
        return ChildResult(code, stderr=self._log.read())

    def __enter__(self) -> RunningChild:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self.stdin, self.stdout, self._log):
            with contextlib.suppress(OSError):
                stream.close()


class WorkerProcess:
    """A worker's process and this end of the connection to it. It exits when the connection is closed."""

    def __init__(self, command: Sequence[str] | None = None) -> None:
        """`command` is the program to run, the worker's if `None`; the handle of its connection is appended."""
        here, there = connection.Pipe()
        self.connection: PipeEnd = here
        with there:
            handle = there.fileno()
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
            if sys.platform == "win32":
                import os

                os.set_handle_inheritable(handle, True)
                options["startupinfo"] = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
                options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
            else:  # Ctrl-C in the terminal is for the parent, which shuts its workers down cleanly
                options |= {"pass_fds": (handle,), "process_group": 0}
            command = [*(command or python_command("galago.runtime.worker.main")), str(handle)]
            self._process = subprocess.Popen(command, env=worker_environment(), **options)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout_seconds: float) -> int | None:
        """Returns the exit code, or `None` if the process still runs after that time."""
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None

    def reap(self) -> str:
        """Waits for the process to exit and kills it if it does not. Returns how it ended, like `describe_exit`."""
        for _ in range(2):
            code = self.wait(EXIT_GRACE_SECONDS)
            if code is not None:
                return describe_exit(code)
            self.kill()
        return "cannot be killed"


def inherited_connection(handle: int) -> PipeEnd:
    """Returns a worker's end of the connection, from the handle that it was started with."""
    if sys.platform == "win32":
        return connection.PipeConnection(handle)
    return Connection(handle)


def _last_line(text: bytes) -> str:
    lines = text[-_LAST_BYTES:].decode("utf-8", "replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
