"""llama.cpp's quantizer as a function. Malformed input may end the process: call it from a child where that matters."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from .library import NO_REASON, listen, llama, take_errors

BUFFER = 256 << 20
"""Bytes of a tensor's rows that are in memory at once; llama.cpp's default is 8 GiB."""

_INTEGER, _STRING = 0, 3  # enum llama_model_kv_override_type in llama.h
_LONGEST = 127  # bytes of a metadata value or key that fit a llama_model_kv_override

QuantizationStarted = Callable[[int, int, str], None]
"""Called with a tensor's number, from 1, how many there are, and its name."""
Typed = Callable[[str], None]
"""Called with the type that the tensor gets; not at all where it keeps its own."""


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
    started: QuantizationStarted = lambda *_: None,
    typed: Typed = lambda _: None,
) -> None:
    """Writes `source` anew as `ftype` (`enum llama_ftype`); requantizes where it is quantized already.

    `threads` 0 uses all cores. `types` are the types (`enum ggml_type`) of tensors by name, for quantized `ftype`s
    only; `pure` gives all others that of `ftype`, where llama.cpp would mix several. `importance` holds the mean
    square of every input column by a tensor's name, those of several experts one after another. `metadata` is written
    into the file, texts cut to 127 bytes and numbers, none negative, as uint32. `dry_run` only tells what would be
    done. `dropped` are layers, from 0, that are left out; those behind them move up, and `importance` and `types` name
    them as they were. `copy` leaves all types as they are. An existing `target` is overwritten. Raises `ModelError`
    with llama.cpp's reason.
    """
    params = llama.llama_model_quantize_default_params()
    params.ftype = ftype
    params.nthread = threads
    params.allow_requantize = True
    params.pure = pure
    params.dry_run = dry_run
    params.only_copy = copy
    params.max_buf_size = BUFFER
    names = ("tt_overrides", "imatrix", "kv_overrides", "prune_layers")
    kept = [_types(types), _importance(importance or {}), _metadata(metadata or {}), _layers(dropped)]
    for name, array in zip(names, kept, strict=True):  # `kept` as long as llama.cpp reads them
        if len(array) > 1:
            field = dict(params._fields_)[name]
            setattr(params, name, ctypes.cast(array, field))
    take_errors()
    listen(_Reader(started, typed))
    try:
        code = llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    finally:
        listen(None)
    if code != 0:
        reason = take_errors().replace("llama_model_quantize: failed to quantize: ", "")
        raise ModelError(f"llama.cpp cannot quantize {source.name}: {reason or NO_REASON}", str(source))


class _Reader:
    """Finds in llama.cpp's log which tensor it is at. A line comes in several pieces."""

    _START = re.compile(r"\[ *(\d+)/ *(\d+)\] +(\S+) +- \[")
    _TYPE = re.compile(r"converting to (\w+) \.\.|-> .* MiB \((\w+)\)")

    def __init__(self, started: QuantizationStarted, typed: Typed) -> None:
        self._started, self._typed = started, typed

    def __call__(self, piece: str) -> None:
        if found := self._START.search(piece):
            self._started(int(found[1]), int(found[2]), found[3])
        if found := self._TYPE.search(piece):
            self._typed((found[1] or found[2]).upper())


def _types(types: Sequence[tuple[str, int]]) -> Any:
    rows = [(f"^{_escaped(name)}$".encode(), number) for name, number in types]
    return (llama.llama_model_tensor_override * (len(rows) + 1))(*rows)


def _escaped(name: str) -> str:
    """For C++'s regular expressions, which know fewer escapes than Python's."""
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
            row.tag, row.value.val_str = _STRING, _cut(value)
    return array


def _cut(value: str) -> bytes:
    """At most as many bytes as fit, and no half character at the end."""
    return value.encode()[:_LONGEST].decode(errors="ignore").encode()
