"""Writes a GGUF file tensor by tensor, a few rows at a time. Knows no model family."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from .gguf_content import GGUFValue, OutputTensor

CHUNK_WEIGHTS = 4 << 20
"""Weights converted at once: 16 MiB as float32, so that memory does not grow with the model."""

_ALIGNMENT_BYTES = 32


class FloatType(Enum):
    """The type in which matrices are stored. `ftype` is llama.cpp's number in `enum llama_ftype`."""

    F32 = "f32", 0, gguf.GGMLQuantizationType.F32, 4
    F16 = "f16", 1, gguf.GGMLQuantizationType.F16, 2
    BF16 = "bf16", 32, gguf.GGMLQuantizationType.BF16, 2

    def __init__(self, label: str, ftype: int, ggml: gguf.GGMLQuantizationType, item_bytes: int) -> None:
        self.label, self.ftype, self.ggml, self.item_bytes = label, ftype, ggml, item_bytes


def padded_bytes(tensors: Sequence[OutputTensor], float_type: FloatType) -> int:
    """Returns the size of the tensors in the file, including padding."""
    return sum(_padded(_nbytes(tensor, float_type)) for tensor in tensors)


def write(
    path: Path,
    architecture: str,
    metadata: Mapping[str, GGUFValue],
    tensors: Sequence[OutputTensor],
    float_type: FloatType,
    progress: Callable[[float], None],
) -> None:
    """Writes the file, replacing an existing one. `progress` receives the fraction that is done.

    Raises `ModelError` for weights that are NaN, infinite, or too large for `float_type`.
    """
    _write_header(path, architecture, metadata, tensors, float_type)
    total, done = padded_bytes(tensors, float_type) or 1, 0
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        file.write(bytes(_padded(end) - end))
        for tensor in tensors:
            rows = tensor.shape[0]
            step = max(1, CHUNK_WEIGHTS // math.prod(tensor.shape[1:]) // tensor.row_step) * tensor.row_step
            for begin in range(0, rows, step):
                data = _stored(tensor, tensor.read(begin, min(begin + step, rows)), float_type)
                file.write(data.tobytes())
                done += data.nbytes
                progress(min(done / total, 0.999))
            padding = _padded(_nbytes(tensor, float_type)) - _nbytes(tensor, float_type)
            file.write(bytes(padding))
            done += padding


def copy_with_metadata(source: Path, target: Path, metadata: Mapping[str, GGUFValue]) -> None:
    """Writes a GGUF file with the tensors and metadata of another one, and `metadata` added or replaced."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(str(target), architecture, endianess=reader.endianess)
    writer.data_alignment = reader.alignment
    replaced = {gguf.Keys.General.ARCHITECTURE, *metadata}
    for name, field in reader.fields.items():
        if name not in replaced and not name.startswith("GGUF."):  # the library's names for the header's own numbers
            item_type = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], item_type)
    for key, value in metadata.items():
        _add(writer, key, value)
    for tensor in reader.tensors:
        writer.add_tensor_info(tensor.name, tensor.data.shape, tensor.data.dtype, tensor.n_bytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()


def _write_header(
    path: Path,
    architecture: str,
    metadata: Mapping[str, GGUFValue],
    tensors: Sequence[OutputTensor],
    float_type: FloatType,
) -> None:
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    for tensor in tensors:
        stored = _stored_type(tensor, float_type)
        dtype = np.dtype(np.float32 if stored is FloatType.F32 else np.float16)
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, _nbytes(tensor, float_type), raw_dtype=stored.ggml)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: GGUFValue) -> None:
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


def _stored(tensor: OutputTensor, rows: NDArray[np.float32], float_type: FloatType) -> NDArray[np.generic]:
    match _stored_type(tensor, float_type):
        case FloatType.F16:
            with np.errstate(over="ignore"):
                half = rows.astype(np.float16)
            if np.isinf(half).any():
                largest = float(np.abs(rows).max())
                raise ModelError(
                    f"{tensor.name} contains {largest:g}, which is too large for f16; use --type bf16 or f32", "type"
                )
            return half
        case FloatType.BF16:
            return bfloat16_bits(rows)
        case _:
            return rows


def bfloat16_bits(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounds to the nearest bfloat16, ties to even, as ggml does. The largest floats become infinite."""
    bits = np.ascontiguousarray(rows).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def _stored_type(tensor: OutputTensor, float_type: FloatType) -> FloatType:
    return FloatType.F32 if tensor.keep_f32 else float_type


def _nbytes(tensor: OutputTensor, float_type: FloatType) -> int:
    return math.prod(tensor.shape) * _stored_type(tensor, float_type).item_bytes


def _padded(count: int) -> int:
    return -(-count // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
