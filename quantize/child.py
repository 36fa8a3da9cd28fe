"""Work in a child process: llama.cpp ends the process on some damaged files, and its memory is given back for certain.

A module that works this way has a function `work(job, arrays, say)`: `job` is JSON, `arrays` are numpy's by name, and
`say` tells the caller something on the way, as JSON. What it returns, JSON too, is the result. Knows no quantization.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..models import errors
from ..models.errors import EngineCrashed, GalagoError
from ..runtime.config import wants_native_log, worker_environment
from ..runtime.inference.load_check import signal_name

Arrays = Mapping[str, NDArray[Any]]
Say = Callable[[Any], None]
_BLOCK = 1 << 20


def run(module: str, file: str, job: Any, arrays: Arrays | None = None, heard: Say = lambda _: None) -> Any:
    """The result of `module`'s work, a name within this package. The process ends with this call, however it ends.

    Raises the `GalagoError` that the work raised, or `EngineCrashed` where its process died, for which `file` is named.
    """
    command = [sys.executable, "-P", "-m", __name__, f"{__package__}.{module}"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if wants_native_log() else log,
            env=worker_environment(),
        )
        try:
            assert process.stdin and process.stdout
            with contextlib.suppress(BrokenPipeError):
                _send(process.stdin, job, arrays or {})
            for line in process.stdout:
                kind, value = json.loads(line)
                if kind == "said":
                    heard(value)
                elif kind == "done":
                    return value
                else:
                    raise getattr(errors, kind)(*value)
            raise _crashed(file, process.wait(), log)
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


def _crashed(file: str, code: int, log: IO[bytes]) -> EngineCrashed:
    log.seek(max(0, log.seek(0, 2) - 4096))
    lines = log.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    how = f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}"
    return EngineCrashed(
        f"llama.cpp crashes on {file} ({how}): it is damaged, or of a kind that it does not know"
        + (f"; its last words: {last[:300]}" if last else "")
    )


def _send(stream: IO[bytes], job: Any, arrays: Arrays) -> None:
    shapes = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    stream.write(json.dumps([job, shapes]).encode() + b"\n")
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).data)
    stream.flush()  # and stays open: where it ends, so does the child


def _received(stream: IO[bytes]) -> tuple[Any, dict[str, NDArray[Any]]]:
    job, shapes = json.loads(stream.readline())
    arrays = {}
    for name, dtype, shape in shapes:
        array = np.empty(shape, dtype)
        view = memoryview(array).cast("B")  # type: ignore[arg-type]
        for begin in range(0, len(view), _BLOCK):
            stream.readinto(view[begin : begin + _BLOCK])  # type: ignore[attr-defined]
        arrays[name] = array
    return job, arrays


def _die_with(pipe: int) -> None:
    """Ends this process when the other end of the pipe is gone."""
    while os.read(pipe, _BLOCK):
        pass
    os._exit(1)


@contextlib.contextmanager
def _telling() -> Iterator[Callable[[str, Any], None]]:
    """The pipe to the caller; what libraries print goes to standard error."""
    with open(os.dup(1), "w", encoding="utf-8", closefd=True) as out:
        os.dup2(2, 1)

        def tell(kind: str, value: Any) -> None:
            print(json.dumps([kind, value]), file=out, flush=True)

        yield tell


def main(module: str) -> None:
    with _telling() as tell:
        job, arrays = _received(sys.stdin.buffer)
        threading.Thread(target=_die_with, args=(sys.stdin.fileno(),), daemon=True).start()
        try:
            result = importlib.import_module(module).work(job, arrays, lambda value: tell("said", value))
        except GalagoError as error:
            tell(type(error).__name__, [error.message, error.param])
        else:
            tell("done", result)


if __name__ == "__main__":
    main(sys.argv[1])
