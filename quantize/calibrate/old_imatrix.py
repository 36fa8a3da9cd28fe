"""Reads importance matrices in the format that llama-imatrix wrote before GGUF (`imatrix.dat`).

Little-endian: the number of entries as int32; of each entry the length of its name, the name, the number of calls, the
number of values, and the values as float32; then, unless it is an early version, the number of chunks, the length of
the data's name, and the name. Values are means times the number of calls. Rows of experts are not distinguished
(`common_imatrix_load_legacy` in common/imatrix-loader.cpp).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.regular_file import open_regular
from .imatrix import ImatrixEntry, ImportanceMatrix

CHUNK_TOKENS = 512
"""Tokens of a call. The file does not say; this is llama-imatrix's default."""
_MAX_ENTRIES, _MAX_NAME_BYTES = 1 << 20, 256


def is_old_format(path: Path) -> bool:
    """Whether the file begins as such a matrix does, which no text does."""
    with open_regular(path) as file:
        head = file.read(8 + _MAX_NAME_BYTES)
    if len(head) < 8:
        return False
    entries, length = struct.unpack_from("<ii", head)
    name = head[8 : 8 + max(length, 0)]
    return 1 <= entries <= _MAX_ENTRIES and 1 <= length <= _MAX_NAME_BYTES and name.isascii() and b"\0" not in name


def read(path: Path) -> ImportanceMatrix:
    """Raises `ModelError` if the file is cut off or has impossible values."""
    with open_regular(path) as file:
        try:
            return _read(file, path.name)
        except (struct.error, EOFError, UnicodeDecodeError):
            raise ModelError(
                f"{path.name} is an importance matrix in llama-imatrix's old format that is damaged or cut off; "
                "download it again",
                "calibration",
            ) from None


def _read(file: BinaryIO, file_name: str) -> ImportanceMatrix:
    entries: dict[str, ImatrixEntry] = {}
    for _ in range(_number(file)):
        name = _bytes(file, _number(file)).decode()
        calls, values = _number(file), _values(file, _number(file))
        if calls < 0 or not np.isfinite(values).all() or (values < 0).any():
            raise ModelError(f"{file_name}: {name} contains values that cannot be sums of squares", "calibration")
        entries[name] = _entry(calls, values)
    rest = file.read(8)
    if not rest:
        return ImportanceMatrix(entries, (), 0, CHUNK_TOKENS)
    chunks, length = struct.unpack("<ii", rest)
    datasets = (_bytes(file, length).decode("utf-8", "replace"),) if length else ()
    return ImportanceMatrix(entries, datasets, max(0, chunks), CHUNK_TOKENS)


def _entry(calls: int, values: NDArray[np.float32]) -> ImatrixEntry:
    """Turns the values into sums over tokens. Their means are exactly those that llama-quantize computes."""
    scale = np.float32(CHUNK_TOKENS if calls else 1)
    return ImatrixEntry((values * scale)[None, :], np.array([max(calls, 1) * scale], np.float32))


def _number(file: BinaryIO) -> int:
    (number,) = struct.unpack("<i", file.read(4))
    return int(number)


def _values(file: BinaryIO, count: int) -> NDArray[np.float32]:
    return np.frombuffer(_bytes(file, 4 * count), "<f4").astype(np.float32)


def _bytes(file: BinaryIO, size: int) -> bytes:
    """Raises `EOFError` if the file has fewer bytes, without allocating an impossible size."""
    if not 0 < size <= os.fstat(file.fileno()).st_size - file.tell():
        raise EOFError
    return file.read(size)
