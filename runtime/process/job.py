"""Runs a job in a child process: llama.cpp aborts on some damaged files, and a child's memory is sure to be freed.

A module that takes jobs has a function `work(job, arrays, report)`. `job` is a frozen dataclass, `arrays` are numpy
arrays by name, and `report` sends progress to the caller, as JSON. `work` returns the job's result, also as JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from msgspec import msgpack
from numpy.typing import NDArray

from ...models import errors
from ...models.errors import EngineCrashed, GalagoError
from .limits import limit_this_process
from .spawn import RunningChild, python_command

JobArrays: TypeAlias = Mapping[str, NDArray[Any]]
Report: TypeAlias = Callable[[Any], None]

_BLOCK_BYTES = 1 << 20


def run_job(
    module: str, job: object, file: str, arrays: JobArrays | None = None, on_report: Report = lambda _: None
) -> Any:
    """Returns the result of `work` in `module`. The child process does not outlive this call.

    Raises the `GalagoError` that `work` raised, or `EngineCrashed`, which names `file`, if the process died.
    """
    with RunningChild(python_command(__name__, module)) as child:
        with contextlib.suppress(BrokenPipeError):
            _send(child.stdin, job, arrays or {})
        for line in child.stdout:
            kind, value = json.loads(line)
            if kind == "report":
                on_report(value)
            elif kind == "result":
                return value
            else:
                raise getattr(errors, kind)(*value)
        end = child.result()
        raise EngineCrashed(
            f"llama.cpp crashed on {file}: its process {end.ending}. The file is damaged, or of a kind that this "
            "llama.cpp does not support" + (f"; the last line it wrote: {end.last_line[:300]}" if end.last_line else "")
        )


def _send(stream: IO[bytes], job: object, arrays: JobArrays) -> None:
    data = msgpack.encode(job, enc_hook=os.fsencode)  # the only type that msgspec does not know is Path
    shapes = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    stream.write(json.dumps([len(data), shapes]).encode() + b"\n" + data)
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).data)
    stream.flush()  # the stream stays open: the child exits when it closes


def _receive(stream: IO[bytes], job_type: Any) -> tuple[Any, dict[str, NDArray[Any]]]:
    size, shapes = json.loads(stream.readline())
    job = msgpack.decode(stream.read(size), type=job_type, dec_hook=lambda _type, path: Path(os.fsdecode(path)))
    arrays = {}
    for name, dtype, shape in shapes:
        array = np.empty(shape, dtype)
        view = memoryview(array).cast("B")  # type: ignore[arg-type]
        for begin in range(0, len(view), _BLOCK_BYTES):
            stream.readinto(view[begin : begin + _BLOCK_BYTES])  # type: ignore[attr-defined]
        arrays[name] = array
    return job, arrays


def _exit_with(pipe: int) -> None:
    """Ends this process when the other end of the pipe is closed."""
    while os.read(pipe, _BLOCK_BYTES):
        pass
    os._exit(1)


@contextlib.contextmanager
def _reply_pipe() -> Iterator[Callable[[str, Any], None]]:
    """Yields a function that writes to the caller. What libraries print goes to standard error."""
    with open(os.dup(1), "w", encoding="utf-8", closefd=True) as out:
        os.dup2(2, 1)

        def reply(kind: str, value: Any) -> None:
            print(json.dumps([kind, value]), file=out, flush=True)

        yield reply


def main(module: str) -> None:
    limit_this_process()
    with _reply_pipe() as reply:
        try:
            work = importlib.import_module(module).work
            job, arrays = _receive(sys.stdin.buffer, typing.get_type_hints(work)["job"])
            threading.Thread(target=_exit_with, args=(sys.stdin.fileno(),), daemon=True).start()
            result = work(job, arrays, lambda value: reply("report", value))
        except GalagoError as error:
            reply(type(error).__name__, [error.message, error.param])
        else:
            reply("result", result)


if __name__ == "__main__":
    main(sys.argv[1])
