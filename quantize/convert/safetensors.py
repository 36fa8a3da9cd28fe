"""Reads safetensors files that nobody has vouched for: a JSON header, and tensors in slices of rows.

Knows the file format and the number formats that weights come in. Does not know what a tensor is for.

Format: https://huggingface.co/docs/safetensors: eight bytes of length, a JSON object, then the tensors' bytes without
holes. Everything the header claims is checked against the file before a weight is read, and the file is read instead of
mapped, because a mapped file that shrinks kills the process with SIGBUS.
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

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself
MAX_TENSORS = 1 << 16
MAX_DIMS = 8

_WIDTH = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
READABLE: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
"""Number formats whose weights can be read; NumPy knows no bfloat16, so its bits are."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where the weights of one tensor lie: `shape` as PyTorch counts it, rows first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _WIDTH[self.dtype]

    def rows(self, begin: int, end: int) -> NDArray[np.float32]:
        """Rows `begin` to `end` (entries, where there is one dimension), read from the file.

        Raises `ModelError` for other number formats than `READABLE`, a file that has become shorter, and NaN or
        infinity among the weights.
        """
        if self.dtype not in READABLE:
            raise damaged(
                self.path, f"{shown(self.name)} is stored as {self.dtype}; F32, F16 and BF16 can be converted"
            )
        width = math.prod(self.shape[1:]) * _WIDTH[self.dtype]
        with self.path.open("rb") as file:
            file.seek(self.offset + begin * width)
            data = file.read((end - begin) * width)
        if len(data) != (end - begin) * width:
            raise damaged(self.path, "file became shorter while it was read")
        stored = np.frombuffer(data, READABLE[self.dtype]).reshape(end - begin, *self.shape[1:])
        values: NDArray[np.float32]
        if self.dtype == "BF16":
            values = (stored.astype(np.uint32) << 16).view(np.float32)
        else:
            values = stored.astype(np.float32)
        if not np.isfinite(values).all():
            raise damaged(self.path, f"{shown(self.name)} holds NaN or infinity; the weights are damaged")
        return values


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name. Raises `ModelError` for what is no safetensors file, cut off, or lies."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(size - 8, MAX_HEADER):
                raise damaged(path, f"not a safetensors file, or cut off: {_looks_like(start, size)}")
            header = _parse(path, file.read(length))
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror or error}") from error
    if len(header) > MAX_TENSORS:
        raise damaged(path, f"it claims {len(header)} tensors, at most {MAX_TENSORS} are allowed")
    tensors = [_tensor(path, name, entry, 8 + length) for name, entry in header.items() if name != "__metadata__"]
    _check_regions(path, tensors, 8 + length, size)
    return {tensor.name: tensor for tensor in tensors}


def _looks_like(start: bytes, size: int) -> str:
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "it looks like a PyTorch checkpoint"
    if start.startswith(b"version "):
        return "it is a Git LFS pointer; fetch the file it points to with git lfs pull"
    return f"it has {size} bytes and begins with {start.hex(' ')}" if start else "it is empty"


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice")
        return found

    try:
        header = json.loads(data.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its header is not JSON: {str(error) or type(error).__name__}") from None
    if not isinstance(header, dict):
        raise damaged(path, "its header is not a JSON object")
    return header


def _tensor(path: Path, name: str, entry: Any, base: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise damaged(path, f"{shown(name)} lacks dtype, shape or data_offsets") from None
    if not isinstance(dtype, str) or dtype not in _WIDTH:
        raise damaged(path, f"{shown(name)} has the unknown number format {shown(dtype)}")
    numbers = [*shape, begin, end] if isinstance(shape, list) and len(shape) <= MAX_DIMS else [-1]
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise damaged(path, f"{shown(name)} has an impossible shape or place: {shown(shape)}, {begin} to {end}")
    tensor = StoredTensor(name, dtype, tuple(shape), path, base + begin)
    if tensor.nbytes != end - begin:
        raise damaged(path, f"{shown(name)} of shape {shape} in {dtype} takes {tensor.nbytes} bytes, not {end - begin}")
    return tensor


def _check_regions(path: Path, tensors: list[StoredTensor], base: int, size: int) -> None:
    """The tensors lie one behind the other, without holes, from the header to the end of the file."""
    free = base
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != free:
            what = "overlaps the one before it" if tensor.offset < free else "leaves a hole before it"
            raise damaged(path, f"{shown(tensor.name)} {what}")
        free += tensor.nbytes
    if free != size:
        what = "cut off; download it again" if free > size else "followed by other bytes"
        raise damaged(path, f"its tensors end at byte {free}, the file has {size}: it is {what}")


def shown(value: object) -> str:
    """For messages: escaped, because the file chose it, and short."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def damaged(path: Path, problem: str) -> ModelError:
    return ModelError(f"{path.name}: {problem}", str(path))
