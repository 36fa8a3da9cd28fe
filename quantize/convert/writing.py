"""Writes a GGUF file tensor by tensor, a few rows at a time. Knows no family of models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from .target import Rows, Target, Value

CHUNK = 4 << 20
"""Weights converted at once: 16 MiB as float32, so that memory does not grow with the model."""

_ALIGNMENT = 32

Progress = Callable[[float], None]


class Type(Enum):
    """How matrices are stored; `number` is llama.cpp's in `enum llama_ftype`."""

    F32 = "f32", 0, gguf.GGMLQuantizationType.F32, 4
    F16 = "f16", 1, gguf.GGMLQuantizationType.F16, 2
    BF16 = "bf16", 32, gguf.GGMLQuantizationType.BF16, 2

    def __init__(self, title: str, number: int, ggml: gguf.GGMLQuantizationType, width: int) -> None:
        self.title, self.number, self.ggml, self.width = title, number, ggml, width


def size(targets: Sequence[Target], kind: Type) -> int:
    """Bytes of the tensors in the file."""
    return sum(_padded(_nbytes(target, kind)) for target in targets)


def write(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Value],
    targets: Sequence[Target],
    kind: Type,
    report: Progress,
) -> None:
    """Replaces `path`. Reports the share that is done.

    Raises `ModelError` for weights that are NaN or infinite, or too large for `kind`.
    """
    _write_header(path, architecture, metadata, targets, kind)
    total, done = size(targets, kind) or 1, 0
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        file.write(bytes(_padded(end) - end))
        for target in targets:
            rows = target.shape[0]
            step = max(1, CHUNK // math.prod(target.shape[1:]) // target.step) * target.step
            for begin in range(0, rows, step):
                data = _stored(target, target.read(begin, min(begin + step, rows)), kind)
                file.write(data.tobytes())
                done += data.nbytes
                report(min(done / total, 0.999))
            left = _padded(_nbytes(target, kind)) - _nbytes(target, kind)
            file.write(bytes(left))
            done += left


def _write_header(
    path: Path, architecture: str, metadata: Mapping[str, Value], targets: Sequence[Target], kind: Type
) -> None:
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    for target in targets:
        stored = _type_of(target, kind)
        dtype = np.dtype(np.float32 if stored is Type.F32 else np.float16)
        writer.add_tensor_info(target.name, target.shape, dtype, _nbytes(target, kind), raw_dtype=stored.ggml)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _stored(target: Target, rows: Rows, kind: Type) -> NDArray[np.generic]:
    match _type_of(target, kind):
        case Type.F16:
            with np.errstate(over="ignore"):
                half = rows.astype(np.float16)
            if np.isinf(half).any():
                largest = float(np.abs(rows).max())
                raise ModelError(f"{target.name} holds {largest:g}, too large for f16; use --type bf16 or f32", "type")
            return half
        case Type.BF16:
            return bfloat16(rows)
        case _:
            return rows


def bfloat16(rows: Rows) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even, as ggml rounds; the largest floats become infinite."""
    bits = np.ascontiguousarray(rows).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def _type_of(target: Target, kind: Type) -> Type:
    return Type.F32 if target.exact else kind


def _nbytes(target: Target, kind: Type) -> int:
    return math.prod(target.shape) * _type_of(target, kind).width


def _padded(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT
