"""Runs llguidance on a thread with enough stack: it calls itself once for each level of a grammar."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_STACK_BYTES = 16 << 20
_STACK_BYTES_PER_CHARACTER = 1 << 10
"""Measured: at most 850, in nested groups of Lark; 350 in JSON schemas. Only the part in use takes memory."""
_MAX_STACK_BYTES = 512 << 20

_starting = threading.Lock()


def on_large_stack(work: Callable[[], T], characters: int = 0) -> T:
    """Runs `work` on a thread with enough stack for a text of this many characters, and returns its result.

    Raises what `work` raises, `RuntimeError` for Rust panics, and `MemoryError` if the stack cannot be allocated.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="galago-grammar", daemon=True)
    with _starting:  # the size applies to all threads that start meanwhile, which does no harm
        usual = threading.stack_size(min(_STACK_BYTES + characters * _STACK_BYTES_PER_CHARACTER, _MAX_STACK_BYTES))
        try:
            thread.start()
        except RuntimeError as error:
            raise MemoryError("there is no memory for its stack") from error
        finally:
            threading.stack_size(usual)
    thread.join()
    if not errors:
        return results[0]
    failure = errors[0]
    if isinstance(failure, Exception):
        raise failure
    raise RuntimeError(str(failure)) from failure  # PanicException of pyo3
