"""Reads untrusted safetensors files: a JSON header, and the weights in slices of rows.

Handles the file format and its number formats. Does not know what a tensor is used for.

Format: https://huggingface.co/docs/safetensors: eight bytes with the header's length, a JSON object, then the tensors'
bytes without gaps. Everything the header claims is checked against the file before any weight is read. The file is read
instead of memory-mapped, because a mapped file that shrinks kills the process with SIGBUS.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.regular_file import open_regular

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 8

_COMPARED_WEIGHTS = 4 << 20  # weights compared at once

_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
READABLE: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
"""Number formats whose weights can be read. NumPy has no bfloat16, so its bits are read as integers."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The location of one tensor's weights. `shape` is in PyTorch's order, rows first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]

    def rows(self, begin: int, end: int) -> NDArray[np.float32]:
        """Reads rows `begin` to `end` (entries of a one-dimensional tensor) from the file.

        Raises `ModelError` if the number format is not in `READABLE`, the file has become shorter, or a weight is NaN
        or infinite.
        """
        if self.dtype not in READABLE:
            raise file_error(
                self.path, f"{quoted(self.name)} is stored as {self.dtype}; only F32, F16 and BF16 can be converted"
            )
        row_bytes = math.prod(self.shape[1:]) * _ITEM_BYTES[self.dtype]
        with open_regular(self.path) as file:
            file.seek(self.offset + begin * row_bytes)
            data = file.read((end - begin) * row_bytes)
        if len(data) != (end - begin) * row_bytes:
            raise file_error(self.path, "the file became shorter while it was being read")
        stored = np.frombuffer(data, READABLE[self.dtype]).reshape(end - begin, *self.shape[1:])
        values: NDArray[np.float32]
        if self.dtype == "BF16":
            values = (stored.astype(np.uint32) << 16).view(np.float32)
        else:
            values = stored.astype(np.float32)
        if not np.isfinite(values).all():
            raise file_error(self.path, f"{quoted(self.name)} contains NaN or infinity; the weights are damaged")
        return values


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Returns a file's tensors by name. Raises `ModelError` if the file is damaged or not a safetensors file."""
    try:
        with open_regular(path) as file:
            file_bytes = file.seek(0, 2)
            file.seek(0)
            start = file.read(8)
            header_bytes = int.from_bytes(start, "little")
            if len(start) < 8 or header_bytes > min(file_bytes - 8, MAX_HEADER_BYTES):
                raise file_error(path, f"not a safetensors file, or truncated: {_looks_like(start, file_bytes)}")
            header = _parse(path, file.read(header_bytes))
    except OSError as error:
        raise file_error(path, f"cannot be read: {error.strerror or error}") from error
    if len(header) > MAX_TENSORS:
        raise file_error(path, f"its header lists {len(header)} tensors; at most {MAX_TENSORS} are allowed")
    data_begin = 8 + header_bytes
    tensors = [_tensor(path, name, entry, data_begin) for name, entry in header.items() if name != "__metadata__"]
    _check_regions(path, tensors, data_begin, file_bytes)
    return {tensor.name: tensor for tensor in tensors}


def _looks_like(start: bytes, file_bytes: int) -> str:
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "it looks like a PyTorch checkpoint"
    if start.startswith(b"version "):
        return "it is a Git LFS pointer; download the real file with git lfs pull"
    return f"it has {file_bytes} bytes and begins with {start.hex(' ')}" if start else "it is empty"


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            raise ValueError("a name occurs twice")
        return entries

    try:
        header = json.loads(data.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise file_error(path, f"its header is not JSON: {str(error) or type(error).__name__}") from None
    if not isinstance(header, dict):
        raise file_error(path, "its header is not a JSON object")
    return header


def _tensor(path: Path, name: str, entry: Any, base: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise file_error(path, f"{quoted(name)} lacks dtype, shape or data_offsets") from None
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise file_error(path, f"{quoted(name)} has the unknown number format {quoted(dtype)}")
    numbers = [*shape, begin, end] if isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS else [-1]
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise file_error(path, f"{quoted(name)} has an impossible shape or offset: {quoted(shape)}, {begin} to {end}")
    tensor = StoredTensor(name, dtype, tuple(shape), path, base + begin)
    if tensor.nbytes != end - begin:
        claimed = f"{quoted(name)} of shape {shape} in {dtype}"
        raise file_error(path, f"{claimed} takes {tensor.nbytes} bytes, not {end - begin}")
    return tensor


def _check_regions(path: Path, tensors: list[StoredTensor], base: int, file_bytes: int) -> None:
    """Checks that the tensors fill the file from the header to its end, without gaps or overlaps."""
    expected = base
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != expected:
            problem = "overlaps the tensor before it" if tensor.offset < expected else "leaves a gap before it"
            raise file_error(path, f"{quoted(tensor.name)} {problem}")
        expected += tensor.nbytes
    if expected != file_bytes:
        problem = "truncated; download it again" if expected > file_bytes else "followed by other bytes"
        raise file_error(path, f"its tensors end at byte {expected}, the file has {file_bytes}: it is {problem}")


def equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors hold the same numbers, read in slices. Raises `ModelError` as `StoredTensor.rows` does."""
    if one.shape != other.shape:
        return False
    step = max(1, _COMPARED_WEIGHTS // math.prod(one.shape[1:]))
    slices = ((begin, min(begin + step, one.shape[0])) for begin in range(0, one.shape[0], step))
    return all(np.array_equal(one.rows(begin, end), other.rows(begin, end)) for begin, end in slices)


def quoted(value: object) -> str:
    """Returns an untrusted value for an error message: escaped and shortened."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def file_error(path: Path, problem: str) -> ModelError:
    return ModelError(f"{path.name}: {problem}", str(path))
