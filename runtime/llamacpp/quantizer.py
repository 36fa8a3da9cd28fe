"""llama.cpp's quantizer as a function. Malformed input may end the process, so call it from a child process."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.gguf.reader import read_header
from .library import NO_REASON, listen, llama, take_errors

BUFFER_BYTES = 256 << 20
"""Size of a tensor's rows that are in memory at once; llama.cpp's default is 8 GiB."""

_ALIGNMENT_KEY, _ALIGNMENT_BYTES = "general.alignment", 32
_INTEGER, _STRING = 0, 3  # enum llama_model_kv_override_type in llama.h
_MAX_TEXT_BYTES = 127  # of a metadata value or key in a llama_model_kv_override

TensorStarted = Callable[[int, int, str], None]
"""Called with a tensor's number, from 1, the number of tensors, and the tensor's name."""

TypeChosen = Callable[[str], None]
"""Called with the type that the tensor gets; not called if it keeps its own."""


def quantize(
    source: Path,
    target: Path,
    ftype: int,
    threads: int = 0,
    *,
    types: Sequence[tuple[str, int]] = (),
    pure: bool = False,
    importance: Mapping[str, NDArray[np.float32]] | None = None,
    metadata: Mapping[str, str | int] | None = None,
    dry_run: bool = False,
    dropped: Sequence[int] = (),
    copy: bool = False,
    started: TensorStarted = lambda *_: None,
    typed: TypeChosen = lambda _: None,
) -> None:
    """Writes `source` to `target` as `ftype` (`enum llama_ftype`); a quantized source is requantized.

    `threads`: 0 uses all cores.
    `types`: types (`enum ggml_type`) of tensors by name, only for a quantized `ftype`.
    `pure`: gives all other tensors the type of `ftype`, instead of llama.cpp's mix.
    `importance`: mean square of every input column by tensor name; of experts, one after another.
    `metadata`: is written into the file; texts are cut to 127 bytes, numbers must not be negative and become uint32.
    `dry_run`: only reports what would be done.
    `dropped`: layers to leave out, from 0. Later layers move up; `importance` and `types` use the old names.
    `copy`: keeps all types.

    Overwrites an existing `target`. Raises `ModelError` with llama.cpp's reason.
    """
    metadata = {**_alignment(source), **(metadata or {})}
    params = llama.llama_model_quantize_default_params()
    params.ftype = ftype
    params.nthread = threads
    params.allow_requantize = True
    params.pure = pure
    params.dry_run = dry_run
    params.only_copy = copy
    params.max_buf_size = BUFFER_BYTES
    names = ("tt_overrides", "imatrix", "kv_overrides", "prune_layers")
    kept = [_types(types), _importance(importance or {}), _metadata(metadata), _layers(dropped)]
    for name, array in zip(names, kept, strict=True):  # stays referenced as long as llama.cpp reads the arrays
        if len(array) > 1:
            field = dict(params._fields_)[name]
            setattr(params, name, ctypes.cast(array, field))
    take_errors()
    listen(_LogReader(started, typed))
    try:
        code = llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    finally:
        listen(None)
    if code != 0:
        reason = take_errors().replace("llama_model_quantize: failed to quantize: ", "")
        raise ModelError(f"llama.cpp cannot quantize {source.name}: {reason or NO_REASON}", str(source))


def _alignment(source: Path) -> dict[str, int]:
    """What to write in place of the source's alignment: llama.cpp copies that number, but always aligns to 32 bytes."""
    stated = read_header(source).get(_ALIGNMENT_KEY, _ALIGNMENT_BYTES)
    return {} if stated == _ALIGNMENT_BYTES else {_ALIGNMENT_KEY: _ALIGNMENT_BYTES}


class _LogReader:
    """Finds in llama.cpp's log which tensor it is working on. A line arrives in several pieces."""

    _START = re.compile(r"\[ *(\d+)/ *(\d+)\] +(\S+) +- \[")
    _TYPE = re.compile(r"converting to (\w+) \.\.|-> .* MiB \((\w+)\)")

    def __init__(self, started: TensorStarted, typed: TypeChosen) -> None:
        self._started, self._typed = started, typed

    def __call__(self, piece: str) -> None:
        if match := self._START.search(piece):
            self._started(int(match[1]), int(match[2]), match[3])
        if match := self._TYPE.search(piece):
            self._typed((match[1] or match[2]).upper())


def _types(types: Sequence[tuple[str, int]]) -> Any:
    rows = [(f"^{_escaped(name)}$".encode(), number) for name, number in types]
    return (llama.llama_model_tensor_override * (len(rows) + 1))(*rows)


def _escaped(name: str) -> str:
    """Escapes a name for C++'s regular expressions, which have fewer escapes than Python's."""
    return re.sub(r"([.^$*+?()\[\]{}|\\])", r"\\\1", name)


def _importance(importance: Mapping[str, NDArray[np.float32]]) -> Any:
    pointer = ctypes.POINTER(ctypes.c_float)
    rows = [(name.encode(), v.ctypes.data_as(pointer), v.size) for name, v in importance.items()]
    return (llama.llama_model_imatrix_data * (len(rows) + 1))(*rows)


def _layers(dropped: Sequence[int]) -> Any:
    return (ctypes.c_int32 * (len(dropped) + 1))(*sorted(dropped), -1)


def _metadata(metadata: Mapping[str, str | int]) -> Any:
    array = (llama.llama_model_kv_override * (len(metadata) + 1))()
    for row, (key, value) in zip(array, metadata.items(), strict=False):
        row.key = key.encode()
        if isinstance(value, int):
            row.tag, row.value.val_i64 = _INTEGER, value
        else:
            row.tag, row.value.val_str = _STRING, _truncated(value)
    return array


def _truncated(value: str) -> bytes:
    """The UTF-8 bytes of a text, cut to the maximum length at a character boundary."""
    return value.encode()[:_MAX_TEXT_BYTES].decode(errors="ignore").encode()
