"""Importance matrices: how large the inputs of every weight are, from what a model was calibrated on. Runs no model.

Files are llama.cpp's own (GGUF with `general.type` imatrix, of tools/imatrix/imatrix.cpp), in both directions.
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

_SUMS, _COUNTS, _PRODUCTS = ".in_sum2", ".counts", ".galago.in_products"
_F32 = 0
_MOMENTS = "moments of "
Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ImatrixEntry:
    """`sums` are of squared inputs, experts x columns, float32; `counts` how many rows each expert has seen.

    `products` are sums of the products of two inputs, within each n neighbouring columns: columns / n x n x n.
    """

    sums: NDArray[np.float32]
    counts: NDArray[np.float32]
    products: NDArray[np.float32] | None = None

    def means(self) -> NDArray[np.float32]:
        """The mean square of each column, experts one after another; 1 for an expert that has seen no row.

        As llama-quantize reckons it (`load_imatrix` in tools/quantize/quantize.cpp), to the last bit.
        """
        counts = self.counts[:, None]
        return np.where(counts > 0, self.sums / np.where(counts > 0, counts, 1), 1).astype(np.float32).reshape(-1)

    def moments(self) -> NDArray[np.float32] | None:
        """The mean products."""
        return None if self.products is None else self.products / max(1.0, float(self.counts.max()))

    def __add__(self, other: ImatrixEntry) -> ImatrixEntry:
        """Without products where one has none: its rows would be missing."""
        known = self.products is not None and other.products is not None
        products = self.products + other.products if known else None  # type: ignore[operator]
        return ImatrixEntry(self.sums + other.sums, self.counts + other.counts, products)


@dataclass(frozen=True)
class ImportanceMatrix:
    """Entries by the names of the weights; what they were made of, in `chunks` stretches of `chunk_size` tokens."""

    entries: Mapping[str, ImatrixEntry]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 512

    def means(self) -> dict[str, NDArray[np.float32]]:
        return {name: entry.means() for name, entry in self.entries.items()}

    def moments(self) -> dict[str, NDArray[np.float32]]:
        found = {name: entry.moments() for name, entry in self.entries.items()}
        return {name: moments for name, moments in found.items() if moments is not None}

    @property
    def tells_products(self) -> bool:
        return any(entry.products is not None for entry in self.entries.values())

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Means and moments under one roof, for a child process; `apart` tells them apart again."""
        return self.means() | {_MOMENTS + name: moments for name, moments in self.moments().items()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that decides what becomes of weights."""
        digest = hashlib.sha256()
        for name, means in sorted(self.means().items()):
            digest.update(name.encode() + b"\0" + means.tobytes())
        for name, moments in sorted(self.moments().items()):
            digest.update(name.encode() + b"\0" + moments.tobytes())
        return digest.hexdigest()


def apart(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """The means and the moments of `ImportanceMatrix.arrays`, each by the names of the weights."""
    moments = {name.removeprefix(_MOMENTS): array for name, array in arrays.items() if name.startswith(_MOMENTS)}
    return {name: array for name, array in arrays.items() if not name.startswith(_MOMENTS)}, moments


def merge(matrices: Sequence[ImportanceMatrix]) -> ImportanceMatrix:
    """One matrix of all that several have seen. Raises `ModelError` where they are not of one model."""
    entries: dict[str, ImatrixEntry] = {}
    for matrix in matrices:
        for name, entry in matrix.entries.items():
            known = entries.get(name)
            if known is not None and known.sums.shape != entry.sums.shape:
                raise ModelError(f"the importance matrices are of different models: their {name} differ in size")
            entries[name] = entry if known is None else known + entry
    datasets = tuple(dict.fromkeys(name for matrix in matrices for name in matrix.datasets))
    return ImportanceMatrix(entries, datasets, sum(m.chunks for m in matrices), matrices[0].chunk_size)


def is_matrix(header: GGUFHeader) -> bool:
    return header.get("general.type") == "imatrix"


def read(path: Path) -> ImportanceMatrix:
    """Reads a file of llama-imatrix's or `write`'s. Raises `ModelError` for any other, and for impossible numbers."""
    header = read_header(path)
    if not is_matrix(header):
        raise ModelError(f"{path.name} is no importance matrix (its general.type is not imatrix)", "calibration")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    names = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
    entries = {name: _entry(header, name, tensors) for name in names}
    if not entries:
        raise ModelError(f"{path.name} holds no importance of any weight", "calibration")
    datasets = header.get("imatrix.datasets", ())
    chunks, size = header.get("imatrix.chunk_count", 0), header.get("imatrix.chunk_size", 512)
    return ImportanceMatrix(
        entries,
        tuple(str(name) for name in datasets) if isinstance(datasets, tuple) else (),
        chunks if is_int(chunks) else 0,
        size if is_int(size) else 512,
    )


def _entry(header: GGUFHeader, name: str, tensors: Mapping[str, TensorInfo]) -> ImatrixEntry:
    file = header.path.name
    sums, counts = tensors[name + _SUMS], tensors.get(name + _COUNTS)
    if counts is None:
        raise ModelError(f"{file}: {name} has sums and no counts", "calibration")
    seen = _values(header, counts)
    found = _values(header, sums)
    if found.size % seen.size:
        raise ModelError(f"{file}: {name} has {found.size} sums for {seen.size} counts", "calibration")
    if not (np.isfinite(found).all() and np.isfinite(seen).all() and (found >= 0).all() and (seen >= 0).all()):
        raise ModelError(f"{file}: {name} holds numbers that no sum of squares can be", "calibration")
    products = tensors.get(name + _PRODUCTS)
    return ImatrixEntry(found.reshape(seen.size, -1), seen, None if products is None else _products(header, products))


def _products(header: GGUFHeader, tensor: TensorInfo) -> NDArray[np.float32]:
    found = _values(header, tensor).reshape(tensor.shape[::-1])
    if found.ndim != 3 or found.shape[1] != found.shape[2] or not np.isfinite(found).all():
        raise ModelError(f"{header.path.name}: {tensor.name} holds what no products of inputs can be", "calibration")
    return found


def _values(header: GGUFHeader, tensor: TensorInfo) -> NDArray[np.float32]:
    if tensor.type != _F32 or not tensor.nbytes:
        raise ModelError(f"{header.path.name}: {tensor.name} is {tensor.type_name}, not F32", "calibration")
    return np.fromfile(header.path, np.dtype("<f4"), tensor.nbytes // 4, offset=header.data_offset + tensor.offset)


def write(path: Path, matrix: ImportanceMatrix, about: Mapping[str, str | int] | None = None) -> None:
    """Writes the file anew, or not at all, with more metadata where there is some."""
    part = path.with_name(f"{path.name}.new")
    writer = gguf.GGUFWriter(str(part), "")
    writer.kv_data[0].clear()  # an importance matrix has no general.architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(matrix.datasets))
    writer.add_uint32("imatrix.chunk_count", matrix.chunks)
    writer.add_uint32("imatrix.chunk_size", matrix.chunk_size)
    for key, value in (about or {}).items():
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
    part.replace(path)
