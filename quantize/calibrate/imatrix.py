"""Importance matrices: how large the inputs of every weight are on calibration data. Runs no model.

The files have llama.cpp's own format (GGUF with `general.type` imatrix, of tools/imatrix/imatrix.cpp), for reading and
writing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.gguf.header import GGUFHeader, TensorInfo, is_int
from ...models.gguf.reader import read_header
from ...models.regular_file import open_regular

_SUMS, _COUNTS, _PRODUCTS = ".in_sum2", ".counts", ".galago.in_products"
_F32 = 0
_ZERO_COLUMN_IMPORTANCE = 1e-6
"""The importance of a column that has seen only zeros, as a fraction of the mean."""
_MOMENTS_PREFIX = "moments of "


@dataclass(frozen=True, slots=True)
class ImatrixEntry:
    """The inputs of one weight matrix.

    `sums` are sums of squared inputs, experts x columns, float32; `counts` is the number of rows each expert has seen.
    `products` are sums of products of two inputs, within blocks of n neighboring columns: columns / n x n x n.
    """

    sums: NDArray[np.float32]
    counts: NDArray[np.float32]
    products: NDArray[np.float32] | None = None

    def means(self) -> NDArray[np.float32]:
        """Returns the mean square of each column, one expert after another; 1 for an expert that has seen no rows.

        Bit-identical to llama-quantize (`load_imatrix` in tools/quantize/quantize.cpp), except for zeros: llama.cpp
        makes the weights of a block of columns zero if the importance of all of them is. A column that has seen only
        zeros gets little importance instead, and rows of zeros are not counted.
        """
        counts = self.counts[:, None]
        means = self.sums / np.where(counts > 0, counts, 1)
        little = means.mean(axis=1, keepdims=True, dtype=np.float64) * _ZERO_COLUMN_IMPORTANCE
        means = np.where(means > 0, means, np.where(little > 0, little, 1))
        return np.where(counts > 0, means, 1).astype(np.float32).reshape(-1)

    def split(self, experts: int) -> ImatrixEntry:
        """Returns the entry with a row for each expert; the old format has one row for all of them."""
        if len(self.counts) == experts:
            return self
        return ImatrixEntry(self.sums.reshape(experts, -1), np.repeat(self.counts, experts))

    def unvisited(self, experts: int) -> int:
        """Returns the number of experts that no row has reached: means of 1 stand for them, in the old format too."""
        entry = self.split(experts)
        is_one = (entry.means().reshape(experts, -1) == 1).all(axis=1)
        return int(((entry.counts == 0) | ~entry.sums.any(axis=1) | (is_one & (experts > 1))).sum())

    def moments(self) -> NDArray[np.float32] | None:
        """Returns the mean products."""
        return None if self.products is None else self.products / max(1.0, float(self.counts.max()))

    def __add__(self, other: ImatrixEntry) -> ImatrixEntry:
        """Adds the sums. The products are dropped unless both have them, because rows would be missing."""
        both = self.products is not None and other.products is not None
        products = self.products + other.products if both else None  # type: ignore[operator]
        return ImatrixEntry(self.sums + other.sums, self.counts + other.counts, products)


@dataclass(frozen=True)
class ImportanceMatrix:
    """Entries by weight name, and the data they were collected on: `chunks` chunks of `chunk_size` tokens."""

    entries: Mapping[str, ImatrixEntry]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 512

    def means(self) -> dict[str, NDArray[np.float32]]:
        return {name: entry.means() for name, entry in self.entries.items()}

    def moments(self) -> dict[str, NDArray[np.float32]]:
        all_moments = {name: entry.moments() for name, entry in self.entries.items()}
        return {name: moments for name, moments in all_moments.items() if moments is not None}

    @property
    def has_products(self) -> bool:
        return any(entry.products is not None for entry in self.entries.values())

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Returns means and moments in one dictionary, for a child process; `split_arrays` separates them again."""
        return self.means() | {_MOMENTS_PREFIX + name: moments for name, moments in self.moments().items()}

    def checksum(self, *facts: object) -> str:
        """Returns a checksum of everything in the matrix, and of `facts`."""
        digest = hashlib.sha256(repr((self.datasets, self.chunks, self.chunk_size, *facts)).encode())
        for name, entry in sorted(self.entries.items()):
            for array in (entry.sums, entry.counts, entry.products):
                digest.update(f"\0{name}\0".encode() + (b"" if array is None else array.astype("<f4").tobytes()))
        return digest.hexdigest()

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of everything that affects the quantized weights."""
        digest = hashlib.sha256()
        for name, means in sorted(self.means().items()):
            digest.update(name.encode() + b"\0" + means.tobytes())
        for name, moments in sorted(self.moments().items()):
            digest.update(name.encode() + b"\0" + moments.tobytes())
        return digest.hexdigest()


def split_arrays(
    arrays: Mapping[str, NDArray[np.float32]],
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Splits `ImportanceMatrix.arrays` into means and moments, each by weight name."""
    prefix = _MOMENTS_PREFIX
    moments = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return {name: array for name, array in arrays.items() if not name.startswith(prefix)}, moments


def merge(matrices: Sequence[ImportanceMatrix]) -> ImportanceMatrix:
    """Adds several matrices. Raises `ModelError` if they are of different models."""
    entries: dict[str, ImatrixEntry] = {}
    for matrix in matrices:
        for name, entry in matrix.entries.items():
            known = entries.get(name)
            if known is not None and 1 in (len(known.counts), len(entry.counts)) and known.sums.size == entry.sums.size:
                experts = max(len(known.counts), len(entry.counts))
                known, entry = known.split(experts), entry.split(experts)
            if known is not None and known.sums.shape != entry.sums.shape:
                raise ModelError(f"the importance matrices are of different models: the sizes of {name} differ")
            entries[name] = entry if known is None else known + entry
    datasets = tuple(dict.fromkeys(name for matrix in matrices for name in matrix.datasets))
    return ImportanceMatrix(entries, datasets, sum(m.chunks for m in matrices), matrices[0].chunk_size)


def is_importance_matrix(header: GGUFHeader) -> bool:
    return header.get("general.type") == "imatrix"


def read(path: Path) -> ImportanceMatrix:
    """Reads a file written by llama-imatrix or `write`. Raises `ModelError` for other files and impossible values."""
    header = read_header(path)
    if not is_importance_matrix(header):
        raise ModelError(f"{path.name} is not an importance matrix (its general.type is not imatrix)", "calibration")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    names = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
    entries = {name: _read_entry(header, name, tensors) for name in names}
    if not entries:
        raise ModelError(f"{path.name} contains no importance values", "calibration")
    datasets = header.get("imatrix.datasets", ())
    chunks, size = header.get("imatrix.chunk_count", 0), header.get("imatrix.chunk_size", 512)
    return ImportanceMatrix(
        entries,
        tuple(str(name) for name in datasets) if isinstance(datasets, tuple) else (),
        chunks if is_int(chunks) else 0,
        size if is_int(size) else 512,
    )


def _read_entry(header: GGUFHeader, name: str, tensors: Mapping[str, TensorInfo]) -> ImatrixEntry:
    file = header.path.name
    sums_tensor, counts_tensor = tensors[name + _SUMS], tensors.get(name + _COUNTS)
    if counts_tensor is None:
        raise ModelError(f"{file}: {name} has sums but no counts", "calibration")
    counts = _read_values(header, counts_tensor)
    sums = _read_values(header, sums_tensor)
    if sums.size % counts.size:
        raise ModelError(f"{file}: {name} has {sums.size} sums for {counts.size} counts", "calibration")
    if not (np.isfinite(sums).all() and np.isfinite(counts).all() and (sums >= 0).all() and (counts >= 0).all()):
        raise ModelError(f"{file}: {name} contains values that cannot be sums of squares", "calibration")
    products = tensors.get(name + _PRODUCTS)
    return ImatrixEntry(
        sums.reshape(counts.size, -1), counts, None if products is None else _read_products(header, products)
    )


def _read_products(header: GGUFHeader, tensor: TensorInfo) -> NDArray[np.float32]:
    products = _read_values(header, tensor).reshape(tensor.shape[::-1])
    if products.ndim != 3 or products.shape[1] != products.shape[2] or not np.isfinite(products).all():
        raise ModelError(
            f"{header.path.name}: {tensor.name} contains values that cannot be products of inputs", "calibration"
        )
    return products


def _read_values(header: GGUFHeader, tensor: TensorInfo) -> NDArray[np.float32]:
    if tensor.type != _F32 or not tensor.nbytes:
        raise ModelError(f"{header.path.name}: {tensor.name} is {tensor.type_name}, not F32", "calibration")
    with open_regular(header.path) as file:
        return np.fromfile(file, np.dtype("<f4"), tensor.nbytes // 4, offset=header.data_offset + tensor.offset)


def write(path: Path, matrix: ImportanceMatrix, metadata: Mapping[str, str | int] | None = None) -> None:
    """Writes the file, with additional metadata."""
    writer = gguf.GGUFWriter(str(path), "")
    writer.kv_data[0].clear()  # an importance matrix has no general.architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(matrix.datasets))
    writer.add_uint32("imatrix.chunk_count", matrix.chunks)
    writer.add_uint32("imatrix.chunk_size", matrix.chunk_size)
    for key, value in (metadata or {}).items():
        writer.add_uint32(key, value) if isinstance(value, int) else writer.add_string(key, value)
    for name, entry in sorted(matrix.entries.items()):
        writer.add_tensor(name + _SUMS, entry.sums)
        writer.add_tensor(name + _COUNTS, entry.counts.reshape(-1, 1))
        if entry.products is not None:
            writer.add_tensor(name + _PRODUCTS, entry.products)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
