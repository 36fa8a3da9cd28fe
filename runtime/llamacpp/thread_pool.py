"""The threads that compute the steps of a model's contexts."""

from __future__ import annotations

import ctypes
from typing import Any

from .library import features, llama

_MAX_THREADS = 512
"""`GGML_MAX_N_THREADS` in ggml.h."""

_POLL = 1
"""How long threads spin before they sleep, in llama.cpp's unit of 131,072 CPU pause instructions, 2 to 5 ms. That is
longer than the time between two steps. Its default of 50 would take cores from other programs after each answer."""


class _Parameters(ctypes.Structure):
    """`struct ggml_threadpool_params` of ggml.h."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * _MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


class ThreadPool:
    """At most `threads` threads. Contexts may share them if they never compute at the same time.

    Without a pool, llama.cpp starts threads for each step. With OpenMP, as in its prebuilt libraries, or on a GPU alone
    a pool changes nothing.
    """

    def __init__(self, threads: int) -> None:
        self._handle = _new_pool(min(threads, _MAX_THREADS)) if threads > 1 else None

    @property
    def spins(self) -> bool:
        """Whether the threads spin while they wait for each other during a step."""
        return self._handle is not None and "OPENMP" not in features()

    def attach(self, context: Any) -> None:
        """Lets a context, given as its handle, compute on these threads."""
        if self._handle:
            llama._lib.llama_attach_threadpool(
                ctypes.c_void_p(context), ctypes.c_void_p(self._handle), ctypes.c_void_p(self._handle)
            )

    def close(self) -> None:
        """Ends the threads. The contexts must have been freed before."""
        if self._handle:
            llama._lib.ggml_threadpool_free(ctypes.c_void_p(self._handle))
            self._handle = None


def _new_pool(threads: int) -> int | None:
    """The handle of a pool; `None` if this build of llama.cpp has none, or lays out its parameters differently.

    The functions are taken from the library that libllama has loaded. A wheel holds copies of it under other names;
    loading one of those would give a second library, whose threads compute NaN.
    """
    try:
        initialize, create = llama._lib.ggml_threadpool_params_init, llama._lib.ggml_threadpool_new
    except AttributeError:
        return None
    parameters = _Parameters()
    initialize(ctypes.byref(parameters), threads)
    if (parameters.n_threads, parameters.prio, parameters.poll) != (threads, 0, 50):  # their documented defaults
        return None
    parameters.poll = _POLL
    create.restype = ctypes.c_void_p
    handle: int | None = create(ctypes.byref(parameters))
    return handle
