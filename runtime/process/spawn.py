"""Starts the process of a worker, which gets ready by itself while the one that started it does something else.

Imports little, so that it can be done first of all. Knows no messages.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

from ..config import worker_environment

_COMMAND = (sys.executable, "-P", "-m", "galago.runtime.worker.main")


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A process and this end of the connection to it. It ends by itself when the connection is closed."""

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]


def start() -> WorkerProcess:
    """A child outside the terminal's foreground group: a Ctrl-C is for its parent, which ends it in good order."""
    here, there = connection.Pipe()
    with there:
        handle = there.fileno()
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        if sys.platform == "win32":
            import os

            os.set_handle_inheritable(handle, True)
            options["startupinfo"] = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
            options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            options |= {"pass_fds": (handle,), "process_group": 0}
        process = subprocess.Popen([*_COMMAND, str(handle)], env=worker_environment(), **options)
    return WorkerProcess(process, here)


def inherited(handle: int) -> Connection[Any, Any]:
    """The end of the connection that a child was started with."""
    if sys.platform == "win32":
        return connection.PipeConnection(handle)
    return Connection(handle)
